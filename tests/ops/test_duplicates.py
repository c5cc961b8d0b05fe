"""Near duplicates by thumbnails of real photographs and digits."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from lightning_coreset import Pool, select
from lightning_coreset.data import thumbnails
from lightning_coreset.ops import duplicate_groups


def crops(count: int) -> list[torch.Tensor]:
    """Different parts of two real photographs that are not plain sky, uint8 [3, 64, 64]."""
    photos = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in load_sample_images().images]
    generator = torch.Generator().manual_seed(0)
    found: list[torch.Tensor] = []
    while len(found) < count:
        top, left = torch.randint(0, 300, (2,), generator=generator).tolist()
        part = photos[len(found) % 2][:, top : top + 64, left : left + 64]
        if part.float().std() > 25:
            found.append(part)
    return found


def test_other_exposure_size_and_noise_are_the_same_image_and_other_crops_are_not() -> None:
    images = crops(40)
    generator = torch.Generator().manual_seed(1)
    changed = []
    for image in images[:10]:
        darker = image.float() * 0.8 + 10 + 3 * torch.randn(image.shape, generator=generator)
        changed.append(darker.clamp(0, 255).byte())
    groups = duplicate_groups(thumbnails(images + changed))
    assert groups.tolist() == [*range(40), *range(10)]
    larger = [Image.fromarray(image.permute(1, 2, 0).numpy()).resize((160, 120)) for image in images[:10]]
    assert duplicate_groups(thumbnails([*images, *larger])).tolist() == [*range(40), *range(10)]


@pytest.mark.parametrize("size", [1, 7, 200])
def test_groups_are_the_connected_parts_of_a_graph(size: int) -> None:
    rows = np.random.default_rng(0).normal(size=(size, 3))
    centered = rows - rows.mean(axis=1, keepdims=True)
    unit = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    near = unit @ unit.T > 0.995
    expected = np.arange(size)
    for _ in range(size):
        expected = np.array([expected[near[item]].min() for item in range(size)])
    assert duplicate_groups(torch.from_numpy(rows)).tolist() == expected.tolist()


def test_images_of_one_colour_are_joined_to_none() -> None:
    plain = [torch.full((3, 20, 20), value, dtype=torch.uint8) for value in (0, 0, 90, 90)]
    assert duplicate_groups(thumbnails(plain)).tolist() == [0, 1, 2, 3]


def test_one_of_each_group_is_chosen() -> None:
    images = crops(20)
    pool = Pool(torch.rand(40, 4, generator=torch.Generator().manual_seed(0)), images=images * 2)
    found = select(pool, method="k_center", budget=15, group_duplicates=True)
    assert len(set((found.indices % 20).tolist())) == 15
    assert found.manifest["duplicates"] == {"groups": 20, "items": 40, "left_out": 20}
    with pytest.raises(ValueError, match="budget=21, but only 20 of 40"):
        select(pool, method="k_center", budget=21, group_duplicates=True)
