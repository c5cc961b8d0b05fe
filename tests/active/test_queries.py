"""Query strategies: against plain references, and as laws over the pool."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_coreset import CoresetError, list_selectors, select
from lightning_coreset.active import QueryContext
from lightning_coreset.active.badge import badge
from lightning_coreset.active.queries import QUERIES, resolve_query, run_query
from lightning_coreset.active.scores import equal_score, flip_disagreement, model_uncertainty
from lightning_coreset.ops.random import seeded_generator
from tests.active.parts import opened
from tests.helpers.examples import normal_rows
from tests.helpers.lightning_parts import LinearNet, digit_tensors
from tests.helpers.references_active import gradient_embeddings, plus_plus, softmax

IMAGE_QUERIES = ("badge", "entropy", "k_center", "least_confidence", "margin", "random")


def context(count: int = 5, module: Any = None, labelled: Any = range(10, 16), **settings: Any) -> QueryContext:
    datamodule = opened()
    datamodule.pool.label(labelled)
    torch.manual_seed(0)
    return QueryContext(datamodule, module or LinearNet(), None, count=count, round=1, **settings)


class TestScores:
    @pytest.mark.parametrize("classes", [2, 7])
    def test_against_plain_numpy(self, classes: int) -> None:
        logits = 3 * normal_rows(30, classes)
        shares = softmax(logits.double().numpy())
        ordered = np.sort(shares, axis=1)
        expected = {
            "entropy": -(shares * np.log(shares)).sum(axis=1),
            "margin": 1 - (ordered[:, -1] - ordered[:, -2]),
            "least_confidence": 1 - ordered[:, -1],
        }
        for measure, values in expected.items():
            assert np.allclose(model_uncertainty(logits, measure), values, atol=1e-9)

    def test_a_single_logit_is_that_of_two_classes(self) -> None:
        logits = normal_rows(9, 1)
        two = torch.cat([torch.zeros_like(logits), logits], dim=1)
        assert torch.equal(model_uncertainty(logits), model_uncertainty(two))

    def test_pixels_are_averaged(self) -> None:
        logits = normal_rows(4 * 5, 3 * 6).reshape(4, 5, 3, 6)
        each = torch.stack([model_uncertainty(logits[..., y, x]) for y in range(3) for x in range(6)])
        assert torch.allclose(model_uncertainty(logits), each.mean(dim=0))

    def test_a_sure_network_that_does_not_care_for_mirrors_is_not_uncertain(self) -> None:
        logits = 90 * torch.nn.functional.one_hot(torch.arange(24).reshape(2, 3, 4) % 3, 3).permute(0, 3, 1, 2).float()
        assert equal_score(logits, logits.flip(-1)).abs().max() < 1e-9
        assert flip_disagreement(logits, logits).max() == 0.5
        assert equal_score(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)).item() == pytest.approx(1.0)


class TestBadge:
    def test_draws_are_those_over_gradients_that_are_built(self) -> None:
        logits, features = normal_rows(40, 5), normal_rows(40, 7, seed=1)
        rows = gradient_embeddings(logits.double().numpy(), features.double().numpy())
        generator = seeded_generator(3, "badge")
        uniform = [torch.rand((), dtype=torch.float64, generator=generator).item() for _ in range(9)]
        expected = plus_plus(rows, (rows**2).sum(axis=1), uniform)
        assert badge(logits, features, 10, seed=3).tolist() == expected

    def test_duplicates_are_left_for_the_end(self) -> None:
        logits, features = torch.zeros(6, 3), torch.ones(6, 2)
        logits[3, 0] = 1
        assert badge(logits, features, 2).tolist() == [0, 3]
        assert badge(logits, features, 6).tolist() == [0, 3, 1, 2, 4, 5]

    def test_too_many(self) -> None:
        with pytest.raises(ValueError, match="7 picks of 6 items are not accepted: give 1 to 6"):
            badge(torch.zeros(6, 3), torch.ones(6, 2), 7)


class TestStrategies:
    @pytest.mark.parametrize("name", IMAGE_QUERIES)
    def test_it_gives_distinct_unlabelled_items_and_the_same_again(self, name: str) -> None:
        chosen = [run_query(resolve_query(name), context()).tolist() for _ in range(2)]
        assert chosen[0] == chosen[1]
        assert len(set(chosen[0])) == 5
        assert not set(chosen[0]) & set(range(10, 16))

    @pytest.mark.parametrize("name", IMAGE_QUERIES)
    def test_batches_do_not_matter(self, name: str) -> None:
        one, other = (run_query(resolve_query(name), context(batch_size=size)).tolist() for size in (16, 64))
        assert one == other

    @pytest.mark.parametrize("name", ["entropy", "margin", "least_confidence", "k_center"])
    def test_a_smaller_budget_is_a_prefix(self, name: str) -> None:
        assert (
            run_query(resolve_query(name), context(9)).tolist()[:4]
            == run_query(resolve_query(name), context(4)).tolist()
        )

    def test_uncertainty_is_that_of_the_module(self) -> None:
        asked = context(5)
        images, _ = digit_tensors(120)
        free = [place for place in range(120) if place not in range(10, 16)]
        with torch.no_grad():
            scores = model_uncertainty(asked.module.eval()(images[free]), "entropy")
        expected = [free[place] for place in scores.argsort(descending=True, stable=True)[:5].tolist()]
        assert run_query(resolve_query("entropy"), asked).tolist() == expected

    def test_k_center_starts_from_what_is_labelled_in_the_modules_features(self) -> None:
        images, _ = digit_tensors(120)
        picks = run_query(resolve_query("k_center"), context(5)).tolist()
        expected = select(images.flatten(1), method="k_center", budget=5, initial=list(range(10, 16)))
        assert picks == expected.indices.tolist(), "the input of the last linear layer are the pixels here"

    def test_modules_are_left_as_they_were(self) -> None:
        asked = context()
        asked.module.train()
        weights = [value.clone() for value in asked.module.state_dict().values()]
        state = torch.get_rng_state()
        run_query(resolve_query("badge"), asked)
        assert all(part.training for part in asked.module.modules())
        assert all(map(torch.equal, weights, asked.module.state_dict().values()))
        assert not any(part._forward_hooks for part in asked.module.modules())
        assert torch.equal(state, torch.get_rng_state())

    @pytest.mark.parametrize("name", ["typiclust", "subzerocore", "uniform"])
    def test_any_selector(self, name: str) -> None:
        chosen = run_query(resolve_query(name), context()).tolist()
        assert len(set(chosen)) == 5
        assert not set(chosen) & set(range(10, 16))

    def test_a_function_of_ones_own(self) -> None:
        def smallest(asked: QueryContext) -> list[int]:
            scores = asked.features().norm(dim=1)
            return asked.candidates[scores.argsort()[: asked.count]].tolist()

        named = resolve_query(smallest)
        assert named.told == {"by": "smallest"}
        images, _ = digit_tensors(120)
        free = [place for place in range(120) if place not in range(10, 16)]
        norms = images.flatten(1)[free].norm(dim=1)
        assert run_query(named, context()).tolist() == [free[place] for place in norms.argsort()[:5].tolist()]

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            ([1, 2], "answered 2 items"),
            ([1, 1, 2, 3, 4], "4 distinct"),
            ([1, 2, 3, 4, 10], "4 unlabelled"),
        ],
    )
    def test_answers_that_are_none(self, answer: list[int], message: str) -> None:
        with pytest.raises(CoresetError, match=message):
            run_query(resolve_query(lambda asked: answer), context())

    def test_unknown_ids(self) -> None:
        with pytest.raises(ValueError, match="id 999 is unknown"):
            run_query(resolve_query(lambda asked: [999, 1, 2, 3, 4]), context())


class Segmenter(nn.Module):
    """Two classes for each pixel by one convolution that looks to the left: it minds being mirrored."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.body(images)}


class TestSegmentation:
    def test_equal_is_that_of_straight_and_mirrored_images(self) -> None:
        asked = context(module=Segmenter())
        images = digit_tensors(120)[0][asked.candidates]
        with torch.no_grad():
            scores = equal_score(asked.module(images)["out"], asked.module(images.flip(-1))["out"])
        expected = asked.candidates[scores.float().argsort(descending=True, stable=True)[:5]].tolist()
        assert run_query(resolve_query("equal"), asked).tolist() == expected

    def test_entropy_is_the_mean_over_pixels(self) -> None:
        asked = context(module=Segmenter())
        images = digit_tensors(120)[0][asked.candidates]
        with torch.no_grad():
            scores = model_uncertainty(asked.module(images)["out"])
        expected = asked.candidates[scores.float().argsort(descending=True, stable=True)[:5]].tolist()
        assert run_query(resolve_query("entropy"), asked).tolist() == expected

    def test_equal_on_a_classifier(self) -> None:
        with pytest.raises(CoresetError, match="'equal' looks at logits of pixels"):
            run_query(resolve_query("equal"), context())

    def test_badge_without_a_linear_layer(self) -> None:
        with pytest.raises(CoresetError, match="no linear layer of the module gave its logits: give head="):
            run_query(resolve_query("badge"), context(module=Segmenter()))


class TestForms:
    def test_forward_of_ones_own_and_a_named_head(self) -> None:
        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body, self.head = nn.Linear(64, 8), nn.Linear(8, 3)

            def forward(self, images: Tensor) -> Any:
                return {"something": self.head(self.body(images.flatten(1)))}

        with pytest.raises(CoresetError, match="gave dict for .* images; logits"):
            run_query(resolve_query("entropy"), context(module=Odd()))
        settings = {"forward": lambda module, images: module(images)["something"]}
        assert context(module=Odd(), **settings).features().shape == (114, 8)
        assert context(module=Odd(), head="body", **settings).features().shape == (114, 64)

    def test_unknown_head(self) -> None:
        with pytest.raises(ValueError, match=r"head='tail' is no submodule of LinearNet; .* for example \['body.2'\]"):
            context(head="tail").features()


def test_every_name_is_known() -> None:
    assert set(QUERIES) >= {"random", "k_center", "entropy", "margin", "least_confidence", "badge", "equal"}
    with pytest.raises(ValueError, match=f"accepted are .*{list_selectors()[0]}"):
        resolve_query("nothing like it")


def test_a_folder_is_no_query(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="query is a PosixPath"):
        resolve_query(tmp_path)
