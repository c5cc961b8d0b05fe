"""Detections of an earlier run: COCO results, with the objects' embeddings beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_coreset.data.fingerprint import stable_key
from lightning_coreset.detection.class_names import ClassNames, classes_of_ids, names_in_order
from lightning_coreset.detection.coco import CocoFile, read_json
from lightning_coreset.detection.masks import as_counts
from lightning_coreset.detection.objects import Objects
from lightning_coreset.detection.proposals import Proposals, clipped, objects_from_proposals
from lightning_coreset.detection.reading import read_image_ids, read_names, read_sizes
from lightning_coreset.errors import CoresetError
from lightning_coreset.storage import exists


class PrecomputedProposer:
    """Proposals from a file in COCO's results form: entries with image_id, category_id, bbox and score.

    Args:
        path: The list of results, or a COCO file whose annotations have scores, which also tells images and
            categories.
        features: Embeddings in the order of the results ``[M, D]``, or their ``.npy`` file; None takes the file of the
            same name that ends in ``.npy``, if there is one.
        annotations: A COCO file (or its content) that tells images and categories where the results do not.
        class_names: Names of the classes, or names by category id, where no file tells them.

    Raises:
        ValueError: Files that cannot be read, other results than detections, embeddings of another number.

    Example:
        >>> proposer = PrecomputedProposer([{"image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 2], "score": 0.5}],
        ...     class_names={3: "cat"})
        >>> proposer.class_names
        ['cat']
    """

    def __init__(
        self,
        path: Any,
        features: Any = None,
        *,
        annotations: Any = None,
        class_names: ClassNames = None,
    ) -> None:
        is_path = isinstance(path, str | Path)
        content = read_json(path) if is_path else path
        self._name = str(path) if is_path else "results"
        self._file = _file_of(annotations if annotations is not None else content)
        self._results = content if isinstance(content, list) else list(content.get("annotations", []))
        self._check_results()
        categories = torch.tensor([entry["category_id"] for entry in self._results], dtype=torch.int64)
        named = class_names if class_names is not None else None if self._file is None else self._file.categories
        # Ids alone still tell classes apart.
        named = named or {int(category): str(category) for category in torch.unique(categories).tolist()}
        self._labels = classes_of_ids(categories, named, categories=True)[0]
        self.class_names = names_in_order(named)
        beside = str(Path(self._name).with_suffix(".npy")) if is_path else None
        self._features = _read_features(
            beside if features is None and beside is not None and exists(beside) else features, len(self._results)
        )

    def fingerprint(self) -> str:
        """A key of the results and embeddings."""
        sums = None if self._features is None else [float(self._features.double().sum()), *self._features.shape]
        return stable_key("precomputed", self._results, sums, self.class_names)

    def known_objects(self, dataset: Any) -> Objects:
        """The results of a dataset as one table; see `proposals`."""
        return objects_from_proposals(self.proposals(dataset), class_names=self.class_names)

    def proposals(self, dataset: Any) -> list[Proposals]:
        """The results of each image of a dataset, with masks where the file has them.

        Images are found by COCO's ids where the dataset has them, else by file name where a COCO file tells names,
        else by position.

        Raises:
            CoresetError: Results of an image that is not in the dataset and of none that is.
        """
        places = self._places(dataset)
        sizes = read_sizes(dataset)
        rows: list[list[int]] = [[] for _ in range(len(dataset))]
        for row, entry in enumerate(self._results):
            place = places.get(entry["image_id"])
            if place is not None:
                rows[place].append(row)
        if self._results and not any(rows):
            msg = (
                f"None of the {len(self._results)} results of {self._name} belongs to an image of the dataset "
                f"(image_id {self._results[0]['image_id']!r} is not among them): give the results of these images."
            )
            raise CoresetError(msg)
        ids = {place: image for image, place in places.items()}
        return [
            self._of_image(found, self._size(ids.get(place), sizes, place, found)) for place, found in enumerate(rows)
        ]

    def propose(self, images: Sequence[Tensor]) -> list[Proposals]:
        """Results belong to a dataset; an image alone does not tell them.

        Raises:
            CoresetError: Always.
        """
        msg = "PrecomputedProposer knows datasets, not single images: use propose_objects(dataset, proposer)."
        raise CoresetError(msg)

    def _places(self, dataset: Any) -> dict[Any, int]:
        """Position in the dataset of each image id."""
        ids = read_image_ids(dataset)
        if ids is not None:
            return {image: place for place, image in enumerate(ids)}
        names = read_names(dataset)
        told = None if self._file is None else self._file.names(self._file.ids)
        if names is not None and told is not None and self._file is not None:
            by_name = {Path(name).name: place for place, name in enumerate(names)}
            return {
                image: by_name[Path(name).name]
                for image, name in zip(self._file.ids, told, strict=True)
                if Path(name).name in by_name
            }
        beyond = next((entry["image_id"] for entry in self._results if not _is_position(entry, len(dataset))), None)
        if beyond is not None:
            msg = (
                f"{self._name} has results of image_id {beyond!r}, and the dataset tells neither COCO ids nor file "
                f"names; positions 0 to {len(dataset) - 1} are accepted then: give annotations= or such ids."
            )
            raise CoresetError(msg)
        return {place: place for place in range(len(dataset))}

    def _of_image(self, rows: Sequence[int], size: tuple[int, int]) -> Proposals:
        entries = [self._results[row] for row in rows]
        boxes = CocoFile.parse(entries).boxes
        inside, kept = clipped(boxes, size)
        chosen = torch.nonzero(kept).flatten().tolist()
        segments = [entries[place].get("segmentation") for place in chosen]
        return Proposals(
            boxes=inside[kept],
            labels=self._labels[[rows[place] for place in chosen]],
            scores=torch.tensor([float(entries[place]["score"]) for place in chosen]),
            features=None if self._features is None else self._features[[rows[place] for place in chosen]],
            size=size,
            masks=None if not all(segments) or not segments else [as_counts(part, size) for part in segments],
        )

    def _size(self, image: Any, sizes: Any, place: int, rows: Sequence[int]) -> tuple[int, int]:
        entry = {} if self._file is None else self._file.images.get(image, {})
        if "height" in entry and "width" in entry:
            return int(entry["height"]), int(entry["width"])
        if sizes is not None:
            return int(sizes[place][0]), int(sizes[place][1])
        boxes = [self._results[row]["bbox"] for row in rows]
        corner = [max((box[axis] + box[axis + 2] for box in boxes), default=0) for axis in (1, 0)]
        return int(np.ceil(corner[0])), int(np.ceil(corner[1]))

    def _check_results(self) -> None:
        for row, entry in enumerate(self._results):
            missing = [name for name in ("image_id", "category_id", "bbox", "score") if name not in entry]
            box = entry.get("bbox", [])
            wrong = len(box) != 4 or not bool(np.isfinite(box).all()) or min(box[2:]) < 0
            if missing or wrong:
                told = f"no {missing[0]}" if missing else f"the bbox {box}"
                msg = (
                    f"Result {row} of {self._name} has {told}; image_id, category_id, bbox [x, y, width, height] and "
                    "score are needed: give the results of a detector."
                )
                raise ValueError(msg)


def _file_of(content: Any) -> CocoFile | None:
    if isinstance(content, str | Path):
        return CocoFile.read(content)
    return CocoFile(content) if isinstance(content, Mapping) and "images" in content else None


def _read_features(features: Any, count: int) -> Tensor | None:
    if features is None:
        return None
    rows = np.load(features, allow_pickle=False) if isinstance(features, str | Path) else features
    matrix = torch.as_tensor(np.asarray(rows) if not isinstance(rows, Tensor) else rows).to(torch.float32)
    if matrix.ndim != 2 or len(matrix) != count:
        msg = f"features of results have shape {list(matrix.shape)}: give one row per result, [{count}, D]."
        raise ValueError(msg)
    return matrix


def _is_position(entry: Mapping[str, Any], size: int) -> bool:
    return isinstance(entry["image_id"], int) and 0 <= entry["image_id"] < size
