"""Eq. 3-7 by hand and against loops in numpy, and the readings that work."""

import math

import numpy as np
import pytest
import torch

from lightning_coreset.regions import HCSConfig, refine
from lightning_coreset.regions.grid import Grid, cell_boxes, partners
from lightning_coreset.regions.importance import floor_of, representativeness, robustness, synergy, utility
from lightning_coreset.regions.losses import FLOOR, RegionSets, entropy, row_loss
from lightning_coreset.regions.search import Perturbation
from lightning_coreset.regions.views import TensorScenes
from tests.helpers import references_regions as reference
from tests.regions.models import WithEmbedding, scenes


def example(count: int = 6, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of regions ``[1, count, classes]`` and of the whole ``[1, classes]``."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(1, count, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randn(1, classes, generator=generator, dtype=torch.float64)


def test_eq_3_by_hand() -> None:
    # L(X) = log 4; one region as lost, one certain: exp(0) = 1 and exp(-1), and the area term beside.
    whole, loss = torch.tensor([math.log(4)]), torch.tensor([math.log(4), 0.0])
    found = utility(loss, whole, whole, torch.tensor([0.25, 0.25]), 0.7, "literal")
    torch.testing.assert_close(found, torch.tensor([1.0, math.exp(-1)]) + 0.7 * 0.75)


def test_eq_4_by_hand() -> None:
    # Two alike and one across: 1 - cosine is 0 or 1, its median over nine pairs 0 -> all mass on the alike.
    rows = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    # k = identity blocks; p_1 = (1/2, 1/2, 0), p_3 = (0, 0, 1); mean row scaled (2/5, 2/5, 1/5) of sums 2, 2, 1.
    divergence = [math.log(0.5 / 0.4), math.log(0.5 / 0.4), math.log(1 / 0.2)]
    expected = torch.tensor([[math.exp(-one / divergence[2]) for one in divergence]], dtype=torch.float64)
    torch.testing.assert_close(representativeness(rows), expected)


def test_eq_5_by_hand() -> None:
    before = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    after = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    torch.testing.assert_close(robustness(before, after), torch.tensor([[1.0, math.exp(-1)]]))


def test_eq_6_by_hand_where_the_denominator_vanishes() -> None:
    # All regions alike: nothing changes L, numerator 0, denominator held at +1e-6, exp(0) = 1.
    sets = RegionSets(torch.ones(1, 4, 3, dtype=torch.float64), entropy)
    index, counts = partners(torch.arange(4).unsqueeze(0), Grid(2, 2))
    found = synergy(sets, index, counts, torch.ones(1, 1, dtype=torch.float64), "literal")
    torch.testing.assert_close(found, torch.ones(1, 4, dtype=torch.float64))


@pytest.mark.parametrize("reading", ["improve", "one_sided", "literal"])
@pytest.mark.parametrize("seed", range(3))
def test_utility_as_in_the_reference(reading: str, seed: int) -> None:
    logits, whole = example(seed=seed)
    area = torch.linspace(0.1, 0.4, 6, dtype=torch.float64).unsqueeze(0)
    lost = entropy(whole).unsqueeze(1)
    found = utility(entropy(logits), lost, floor_of(lost, 4, FLOOR), area, 0.7, reading)
    expected = reference.utility(logits[0].numpy(), whole[0].numpy(), area[0].numpy(), 0.7, reading)
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_representativeness_and_robustness_as_in_the_reference(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, again = (
        torch.nn.functional.normalize(torch.randn(1, 7, 5, generator=generator, dtype=torch.float64), dim=2)
        for _ in range(2)
    )
    np.testing.assert_allclose(
        representativeness(rows)[0].numpy(), reference.representativeness(rows[0].numpy()), rtol=1e-10
    )
    np.testing.assert_allclose(
        robustness(rows, again)[0].numpy(), reference.robustness(rows[0].numpy(), again[0].numpy()), rtol=1e-10
    )


@pytest.mark.parametrize("reading", ["pair", "gain", "literal"])
@pytest.mark.parametrize("cells", [[0, 1, 2, 3, 4, 5], [0, 1, 5], [0, 5], [4]], ids=str)
def test_synergy_as_in_the_reference(reading: str, cells: list[int]) -> None:
    logits, whole = example(len(cells), seed=len(cells))
    index, counts = partners(torch.tensor([cells]), Grid(2, 3))
    floored = floor_of(entropy(whole).unsqueeze(1), 4, FLOOR)
    found = synergy(RegionSets(logits, entropy), index, counts, floored, reading)
    beside = reference.neighbours(cells, 3)
    expected = reference.synergy(logits[0].numpy(), whole[0].numpy(), beside, reading)
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-9, atol=1e-12)


def test_paper_is_eq_7_of_eq_3_to_6() -> None:
    images, model = scenes(1), WithEmbedding()
    # Without the criterion, which stops this model's search after the first level; see below.
    config = HCSConfig.paper(levels=((2, 3), (4, 4)), eps=None)
    found = refine(images, model, config, input_size=16)
    for number, (grid, terms) in enumerate(zip((Grid(2, 2), Grid(4, 4)), found.terms, strict=True)):
        cells = terms["cells"][0]
        crops = TensorScenes(images).crops(torch.zeros(len(cells)).long(), cell_boxes(grid, 64, 64)[cells], (16, 16))
        perturbed = Perturbation(config, number, cells).add(crops, slice(None))
        with torch.no_grad():
            rows, logits = model(crops)
            again = model(perturbed)[0]
            whole = model(TensorScenes(images).crops(torch.zeros(1).long(), torch.tensor([[0, 0, 64, 64]]), (16, 16)))[
                1
            ]
        unit = torch.nn.functional.normalize
        area = np.full(len(cells), 1 / grid.cells)
        values, lost = logits.double().numpy(), whole[0].double().numpy()
        beside = reference.neighbours(cells.tolist(), grid.columns)
        ut = reference.utility(values, lost, area, 0.7, "literal")
        re = reference.representativeness(unit(rows.double()).numpy())
        ro = reference.robustness(unit(rows.double()).numpy(), unit(again.double()).numpy())
        sy = reference.synergy(values, lost, beside, "literal")
        for name, expected in {"ut": ut, "re": re, "ro": ro, "sy": sy}.items():
            np.testing.assert_allclose(terms[name][0].numpy(), expected, rtol=2e-4, atol=1e-5, err_msg=name)
        score = ut + 0.7 * re + 0.65 * ro + 0.8 * sy
        np.testing.assert_allclose(terms["score"][0].numpy(), score, rtol=2e-4, atol=1e-5)
        best = np.argsort(-score, kind="stable")[: (3, 4)[number]]
        assert sorted(best) == terms["kept"][0].nonzero().flatten().tolist()


@pytest.mark.parametrize("seed", range(4))
def test_the_criterion_puts_what_violates_it_behind_and_stops(seed: int) -> None:
    images, eps = scenes(1, seed=seed), 0.3
    found = refine(images, WithEmbedding(), HCSConfig(levels=((2, 2), (4, 4)), eps=eps), input_size=16)
    free = refine(images, WithEmbedding(), HCSConfig(levels=((2, 2), (4, 4))), input_size=16)
    terms, plain = found.terms[0], free.terms[0]
    lost = entropy(free.logits_whole.double())
    violating = ((terms["loss"] - lost.unsqueeze(1)).abs() > eps * lost.unsqueeze(1))[0]
    best = sorted(range(4), key=lambda place: (bool(violating[place]), -float(terms["score"][0, place])))
    assert sorted(best[:2]) == terms["kept"][0].nonzero().flatten().tolist()
    assert found.depth == (1 if terms["eps"].item() > eps else 2)
    torch.testing.assert_close(terms["score"], plain["score"])
    assert len(plain["eps"]) == 1, "recorded, whether it is used or not"


def test_the_floor_keeps_a_certain_whole_view_from_dividing_by_nothing() -> None:
    assert floor_of(torch.zeros(1), 10, FLOOR).item() == pytest.approx(0.02 * math.log(10))
    assert floor_of(torch.zeros(1), 1, FLOOR).item() > 0


class TestLosses:
    def test_a_vote_is_the_regions_class_and_pseudo_the_whole_views(self) -> None:
        regions = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [0.0, 4.0]]])
        whole = torch.tensor([[1.0, 0.0]])
        vote, pseudo = (row_loss(name, whole, regions)(regions) for name in ("vote", "pseudo"))
        assert vote.argmin().item() == 1
        assert pseudo.argmin().item() == 0

    @pytest.mark.parametrize("loss", ["entropy", "max_prob", "prompt", lambda logits: -logits.amax(1)])
    def test_what_is_surer_loses_less(self, loss: object) -> None:
        rows = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [5.0, 0.0, 0.0]]])
        lost = row_loss(loss, rows[:, 0], rows)(rows)[0]
        assert lost[0] > lost[1] > lost[2]

    def test_classes_that_cannot_be_are_no_failure(self) -> None:
        assert torch.isfinite(entropy(torch.tensor([[-torch.inf, 0.0, 0.0]]))).all()
