"""Diagnostics that know a good heat map from a bad one, a network that learns scores, pictures that show all."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_coreset.regions import (
    HCSConfig,
    ScoreMLP,
    distilled_score,
    draw_refinement,
    highest_confidence,
    insertion_deletion,
    pointing_game,
    refine,
    regions_blanked,
    weights_cut,
)
from tests.regions.models import Counting, Segmenting, WithEmbedding, scenes


def thing(count: int = 2) -> tuple[Tensor, Tensor]:
    """Grey scenes with a blue square, and heat maps of where it is."""
    images, heat = torch.zeros(count, 3, 32, 32), torch.zeros(count, 32, 32)
    images[:, 2, 8:16, 20:28] = 40
    heat[:, 8:16, 20:28] = 1
    return images, heat


def colours(images: Tensor) -> Tensor:
    """A model that names the colour of what is brightest."""
    return images.amax((2, 3))


@pytest.mark.parametrize("fill", ["mean", "blur"])
def test_a_right_heat_map_is_better_than_its_opposite(fill: str) -> None:
    images, heat = thing()
    classes = torch.tensor([2, 2])
    right = insertion_deletion(images, colours, heat, classes, fill=fill)
    wrong = insertion_deletion(images, colours, 1 - heat, classes, fill=fill)
    assert (right[0] > wrong[0]).all()
    assert (right[1] < wrong[1]).all()
    assert (highest_confidence(images, colours, heat, classes, fill=fill) > 0.99).all()
    little = highest_confidence(images, colours, 1 - heat, classes, fill=fill)
    assert (little < highest_confidence(images, colours, heat, classes, fill=fill)).all()


def test_the_curves_of_a_model_that_does_not_care_are_flat() -> None:
    images, heat = thing()
    insertion, deletion = insertion_deletion(images, lambda x: torch.zeros(len(x), 4), heat, torch.tensor([0, 1]))
    torch.testing.assert_close(insertion, torch.full((2,), 0.25))
    torch.testing.assert_close(deletion, torch.full((2,), 0.25))


def test_a_fill_that_is_unknown_is_refused() -> None:
    images, heat = thing()
    with pytest.raises(ValueError, match="fill='white' is not accepted"):
        insertion_deletion(images, colours, heat, torch.tensor([2, 2]), fill="white")


def test_pointing() -> None:
    _, heat = thing(3)
    boxes = [
        torch.tensor([[20, 8, 28, 16]]),
        torch.tensor([[0, 0, 8, 8], [19, 7, 21, 9]]),
        torch.tensor([[21, 8, 28, 16]]),
    ]
    assert pointing_game(heat, boxes) == pytest.approx(2 / 3)


def test_disturbances() -> None:
    images = scenes(2)
    found = refine(images, Counting(), HCSConfig(search="hierarchical"), input_size=8)
    uneven = replace(found, weights=torch.tensor([[0.5, 0.3, 0.2]]))
    torch.testing.assert_close(weights_cut(uneven).weights, torch.tensor([[0.35, 0.3, 0.2]]) / 0.85)
    blanked = regions_blanked(images, found, share=0.25)
    changed = (blanked != images).any(dim=1)
    assert (changed & ~found.mask).sum() == 0
    torch.testing.assert_close(changed.float().mean((1, 2)), found.area * 0.25)


class TestScoreMLP:
    def test_it_learns_the_analytic_score(self) -> None:
        config = HCSConfig(levels=((4, 6), (8, 8)), w_ro=0.65)
        network, explained = distilled_score(scenes(20), WithEmbedding(), config, input_size=8)
        assert explained > 0.5
        found = refine(
            scenes(2, seed=1), WithEmbedding(), HCSConfig(levels=config.levels, scorer=network), input_size=8
        )
        assert found.n_forwards == 41

    def test_the_same_seed_learns_the_same_and_no_random_state_is_used(self) -> None:
        rows, scores = torch.randn(50, 8), torch.randn(50)
        state, found = torch.get_rng_state(), []
        for _ in range(2):
            network = ScoreMLP(8)
            network.distil(rows, scores, steps=20)
            found.append(network(rows))
        assert torch.equal(*found)
        assert torch.equal(torch.get_rng_state(), state)

    def test_inside_of_an_evaluation(self) -> None:
        network = ScoreMLP(4)
        with torch.inference_mode():
            assert network.distil(torch.randn(30, 4), torch.zeros(30), steps=5) <= 1

    def test_shapes_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"embeddings \[3, 5\] and scores \[3\] do not fit: give \[N, 8\]"):
            ScoreMLP(8).distil(torch.zeros(3, 5), torch.zeros(3))

    def test_scenes_that_are_gated_are_refused(self) -> None:
        with pytest.raises(ValueError, match="scenes are gated"):
            distilled_score(scenes(1, 9), WithEmbedding(), HCSConfig(), input_size=8)


@pytest.mark.parametrize("kind", ["hierarchical", "lattice", "scan", "segmentation", "gated"])
def test_pictures_are_drawn_of_everything(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib not installed: the extra [plots]")
    images, model = scenes(2, 10 if kind == "gated" else 64), Segmenting() if kind == "segmentation" else Counting()
    config = (
        HCSConfig(engine="scan") if kind == "scan" else HCSConfig(search="lattice" if kind == "lattice" else "auto")
    )
    maps = {"features": model.features, "head": model.linear} if kind == "scan" else {}
    found = refine(images, model, config, input_size=8, **maps)
    figure = draw_refinement(images, found, class_names=list("abcde"), labels=torch.tensor([1, 2]))
    figure.savefig(tmp_path / "picture.png", dpi=40)
    assert (tmp_path / "picture.png").stat().st_size > 5_000
    boxes = sum(len(axis.patches) for axis in figure.axes[:1])
    assert boxes == sum(int(level["kept"][0].sum()) for level in found.terms)
