"""Similarities in blocks: the same bits whichever rows are asked for, however they are computed."""

import numpy as np
import pytest
import torch

from lightning_coreset.ops.similarity import SimilarityRows, choose_mode, represented_by
from tests.helpers import references
from tests.helpers.examples import normal_rows, tied_rows

SIZES = (1, 2, 5, 8, 11, 12, 63, 64, 65, 127, 255, 256, 257, 300, 520)


@pytest.mark.parametrize("kind", ["cosine", "shifted"])
@pytest.mark.parametrize("mode", ["dense", "streamed"])
def test_similarity_is_the_cosine(mode: str, kind: str) -> None:
    rows = normal_rows(80, 7)
    similarity = SimilarityRows(rows, kind=kind, mode=mode)
    expected = references.cosine(rows.numpy(), kind)
    assert np.allclose(similarity.rows(torch.arange(80)).numpy(), expected, atol=1e-6)
    assert np.allclose(
        similarity.to_cosine(similarity.rows(torch.arange(80))).numpy(), references.cosine(rows.numpy()), atol=1e-6
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", [3, 64, 130])
@pytest.mark.parametrize("kind", ["cosine", "shifted"])
def test_dense_and_streamed_rows_are_the_same_bits(size: int, width: int, kind: str) -> None:
    rows = normal_rows(size, width)
    dense, streamed = (SimilarityRows(rows, kind=kind, mode=mode) for mode in ("dense", "streamed"))
    whole = torch.cat([values.clone() for _, values in dense.blocks()])
    assert torch.equal(torch.cat([values for _, values in streamed.blocks()]), whole)
    generator = torch.Generator().manual_seed(0)
    for count in {1, min(2, size), min(17, size), min(64, size), size}:
        some = torch.randperm(size, generator=generator)[:count]
        assert torch.equal(streamed.rows(some), whole[some])
        assert torch.equal(dense.rows(some), whole[some])


@pytest.mark.parametrize("size", [65, 257, 300])
def test_equal_rows_have_equal_similarities(size: int) -> None:
    which = torch.randint(20, (size,), generator=torch.Generator().manual_seed(0))
    similarity = SimilarityRows(normal_rows(20, 33)[which], mode="dense").rows(torch.arange(size))
    for row in range(20):
        same = similarity[which == row]
        assert torch.equal(same, same[:1].expand_as(same))


def test_rows_are_free_to_be_changed() -> None:
    for mode in ("dense", "streamed"):
        similarity = SimilarityRows(torch.eye(3), mode=mode)
        similarity.rows(torch.tensor([0, 1, 2])).zero_()
        assert similarity.rows(torch.tensor([1])).tolist() == [[0.0, 1.0, 0.0]]


def test_memory_decides_the_mode() -> None:
    assert choose_mode(1000, 4_000_000) == "dense"
    assert choose_mode(1000, 3_999_999) == "streamed"
    assert SimilarityRows(normal_rows(100), memory_limit=1000).mode == "streamed"
    assert SimilarityRows(normal_rows(100), memory_limit="auto").mode == "dense"
    assert SimilarityRows(normal_rows(100), mode="dense", memory_limit=1000).mode == "dense"


def test_unknown_words() -> None:
    with pytest.raises(ValueError, match="similarity='euclidean' is not accepted: give 'cosine' or 'shifted'"):
        SimilarityRows(torch.eye(2), kind="euclidean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mode='sparse' is not accepted: give 'dense', 'streamed'"):
        SimilarityRows(torch.eye(2), mode="sparse")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["dense", "streamed"])
@pytest.mark.parametrize("picks", [1, 5, 64, 290])
def test_items_are_represented_by_the_earlier_of_equal_picks(mode: str, picks: int) -> None:
    rows = tied_rows(300)
    chosen = torch.randperm(300, generator=torch.Generator().manual_seed(1))[:picks]
    found = represented_by(SimilarityRows(rows, mode=mode), chosen)
    assert found.tolist() == references.represented_by(references.cosine(rows.numpy()), chosen.tolist())
