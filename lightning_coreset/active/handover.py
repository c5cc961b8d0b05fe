"""ExportToLabel: requests as files for annotation tools, and the way back."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_coreset.active.asking import pending_requests, spent_on
from lightning_coreset.active.files import Item, class_names, describe
from lightning_coreset.active.label_studio import labelling_config, read_tasks, tasks
from lightning_coreset.active.oracles import Answer, Cost, Oracle, Request, count_units
from lightning_coreset.active.pool import Id, LabelledPool
from lightning_coreset.active.returned import Ingested, Matcher, Review, matched, same_target
from lightning_coreset.active.tables import coco_request, csv_request, read_coco, read_csv
from lightning_coreset.errors import CoresetError
from lightning_coreset.storage import write_atomic

FORMATS = ("csv", "coco", "label_studio")
_FORMAT = "lightning_coreset.LabelRequest/1"


class ExportToLabel(Oracle):
    r"""Writes requests as files and takes labels in when people are done.

    Each round gets a folder ``round_<r>`` with ``request.json`` (what was asked; written last, so that where it is the
    rest is whole) and, by format, ``request.csv``, ``request.coco.json``, ``label_studio_tasks.json`` with
    ``label_studio_config.xml``. Images that lie in no file are written beside them. `ingest` takes the filled files, or
    Label Studio's JSON export, back: entries are matched by id, then by a file name that only one item has. An image
    that was reviewed and shows nothing is labelled as empty; one that nobody looked at stays pending; a cancelled one
    is skipped.

    Args:
        dir: The folder; a journal ``"auto"`` lies there too.
        formats: Which files are written.
        cost: What labels cost.
        class_names: Names of the classes, in the order of their numbers or by number; None takes the datamodule's.
        task: ``"classification"``, ``"detection"``, ``"masks"`` (objects with masks, as COCO files alone), or
            ``"auto"``: what the budget counts.
        predictions: Autolabels by id, or a function that gets ids and gives them: a class, or ``boxes`` (xyxy in
            pixels), ``labels``, ``scores`` and ``masks`` ``[M, H, W]``.
        image_url: Gives the address of an `Item`'s image for Label Studio; None is its local file storage.

    Raises:
        ValueError: Unknown formats or tasks.

    Example:
        >>> import tempfile
        >>> oracle = ExportToLabel(tempfile.mkdtemp(), formats=("csv",), class_names=["cat", "dog"])
        >>> pool = LabelledPool(3)
        >>> pool.request([2])
        >>> _ = oracle.answer(Request([2], [2], 0, dataset=["first", "second", "third"]))
        >>> filled = Path(oracle.folder, "filled.csv")
        >>> _ = filled.write_text("id,label\n2,dog\n")
        >>> oracle.ingest(filled, pool=pool).labelled, pool.targets
        ([2], {2: 1})
    """

    waits = True

    def __init__(
        self,
        dir: str | os.PathLike[str],
        formats: Sequence[str] = FORMATS,
        *,
        cost: Cost | None = None,
        class_names: Sequence[str] | Mapping[int, str] | None = None,
        task: str = "auto",
        predictions: Mapping[Id, Any] | Callable[[list[Id]], Mapping[Id, Any]] | None = None,
        image_url: Callable[[Item], str] | None = None,
    ) -> None:
        super().__init__(cost=cost)
        formats = (formats,) if isinstance(formats, str) else tuple(formats)
        unknown = [name for name in formats if name not in FORMATS]
        if unknown or not formats:
            msg = f"formats={formats!r} is not accepted: give some of {', '.join(map(repr, FORMATS))}."
            raise ValueError(msg)
        if task not in ("auto", "classification", "detection", "masks"):
            msg = f"task={task!r} is not accepted: give 'auto', 'classification', 'detection' or 'masks'."
            raise ValueError(msg)
        if task == "masks":
            _only_coco(formats)
        self.folder = Path(dir)
        self.formats = formats
        self.class_names = class_names
        self.task = task
        self.predictions = predictions
        self.image_url = image_url
        self._pool: LabelledPool | None = None

    def bind(self, pool: LabelledPool) -> None:
        """Remember the pool that `ingest` takes labels into."""
        self._pool = pool

    def answer(self, request: Request) -> Answer:
        """Write the files of a round, unless they are there; nobody has an answer yet."""
        if self._task_of(request.unit) == "masks":
            _only_coco(self.formats)
        folder = self._folder_of(request.round)
        if not request.ids:
            return Answer()
        if not (folder / "request.json").exists():
            self._write(folder, request)
        asked = {item["id"] for content in self.requests() for item in content["items"]}
        foreign = [name for name in request.ids if name not in asked]
        if foreign:
            msg = (
                f"{folder} holds the request of another run, without {foreign[:5]}: give ExportToLabel another folder, "
                "or move that one away."
            )
            raise CoresetError(msg)
        return Answer()

    def requests(self) -> list[dict[str, Any]]:
        """What every ``request.json`` says, oldest round first.

        Raises:
            CoresetError: A file that is no request.
        """
        found = []
        for path in self.folder.glob("round_*/request.json"):
            try:
                content = json.loads(path.read_bytes())
            except ValueError:
                content = {}
            if not isinstance(content, dict) or content.get("format") != _FORMAT:
                msg = f"{path} is no request or is damaged: delete it, and it is written again when the run goes on."
                raise CoresetError(msg)
            found.append(content)
        return sorted(found, key=lambda content: int(content["round"]))

    def ingest(self, path: str | os.PathLike[str], *, pool: LabelledPool | None = None) -> Ingested:
        """Take the labels of a file in; all of them, or none where something in it is wrong.

        A file that is taken in twice changes nothing the second time.

        Args:
            path: A filled CSV, a COCO JSON, or Label Studio's JSON export; known by what is in it.
            pool: Where the labels go; None is the datamodule's pool, or that of the journal in the folder.

        Returns:
            What became of each entry, and what was not matched.

        Raises:
            FileNotFoundError: No such file.
            CoresetError: A file of another kind, classes that are not known, entries that say different things, or
                another label than the one that is there.
        """
        pool = self._target_pool(pool)
        pool.refresh()
        asked = self.requests()
        if not asked:
            msg = f"{self.folder} holds no request.json: give the folder that ExportToLabel wrote."
            raise CoresetError(msg)
        items = {entry["id"]: Item(**entry) for content in asked for entry in content["items"]}
        latest = asked[-1]
        names = {int(number): name for number, name in latest["class_names"]}
        reviews = self._read(Path(path), names, list(items.values()), latest["task"])
        found, unmatched = matched(reviews, Matcher(list(items.values())), path)
        return self._take_in(pool, found, unmatched, latest["unit"], path)

    def status(self, pool: LabelledPool | None = None) -> dict[str, Any]:
        """How far the labelling is: counts, units, and the requests that wait."""
        pool = self._target_pool(pool)
        pool.refresh()
        waiting = [
            {
                "round": event["round"],
                "pending": len(event["ids"]),
                **{key: event["about"][key] for key in ("unit", "budget") if key in event["about"]},
            }
            for event in pending_requests(pool)
        ]
        return {
            "items": pool.n,
            "labelled": pool.n_labelled,
            "pending": pool.n_pending,
            "skipped": len(pool.skipped),
            "round": pool.round,
            "units_spent": pool.units_spent,
            "waiting": waiting,
        }

    def _folder_of(self, round: int) -> Path:
        return self.folder / f"round_{round}"

    def _target_pool(self, pool: LabelledPool | None) -> LabelledPool:
        found = pool or self._pool
        return LabelledPool.opened(self.folder / "journal.jsonl") if found is None else found

    def _write(self, folder: Path, request: Request) -> None:
        names = class_names(self.class_names or request.names, request.source, request.dataset)
        task = self._task_of(request.unit)
        boxes = task != "classification"
        items = [
            describe(request.dataset, name, position, folder / "images", reserve=name in request.reserve)
            for name, position in zip(request.ids, request.positions, strict=True)
        ]
        autolabels = self.predictions(list(request.ids)) if callable(self.predictions) else self.predictions or {}
        if "csv" in self.formats:
            write_atomic(folder / "request.csv", csv_request(items, boxes=boxes))
        if "coco" in self.formats:
            _write_json(folder / "request.coco.json", coco_request(items, names, autolabels, request.round))
        if "label_studio" in self.formats:
            found = tasks(items, names, autolabels, boxes=boxes, round=request.round, image_url=self.image_url)
            write_atomic(folder / "label_studio_config.xml", labelling_config(names, boxes=boxes).encode())
            _write_json(folder / "label_studio_tasks.json", found)
        content = {
            "format": _FORMAT,
            "round": request.round,
            "task": task,
            "unit": request.unit,
            "budget": request.budget,
            "class_names": [[number, name] for number, name in names.items()],
            "formats": list(self.formats),
            "items": [item.plain() for item in items],
        }
        _write_json(folder / "request.json", content)

    def _task_of(self, unit: str) -> str:
        by_unit = {"images": "classification", "boxes": "detection", "masks": "masks"}
        return by_unit[unit] if self.task == "auto" else self.task

    def _read(self, path: Path, names: dict[int, str], items: list[Item], task: str) -> list[Review]:
        data, boxes = path.read_bytes(), task != "classification"
        if path.suffix.lower() == ".csv":
            if task == "masks":
                msg = f"{path} is a table, and masks come as COCO files alone: give one."
                raise CoresetError(msg)
            return read_csv(data, names, boxes=boxes, path=path)
        try:
            found = json.loads(data)
        except ValueError as error:
            msg = f"{path} is no JSON ({error}): give a filled request.csv, a COCO file or Label Studio's JSON export."
            raise CoresetError(msg) from error
        if isinstance(found, list) and task != "masks":
            sizes = {str(item.id): (item.width, item.height) for item in items if item.width and item.height}
            return read_tasks(found, names, sizes, boxes=boxes, path=path)
        if isinstance(found, dict) and isinstance(found.get("images"), list):
            return read_coco(found, names, boxes=boxes, masks=task == "masks", path=path)
        msg = (
            f"{path} is neither a COCO file nor Label Studio's JSON export: give one of them, or a filled request.csv "
            "(masks come as COCO files alone)."
        )
        raise CoresetError(msg)

    def _take_in(
        self, pool: LabelledPool, found: dict[Id, Review], unmatched: list[str], unit: str, path: Any
    ) -> Ingested:
        rounds = {name: event["round"] for event in pending_requests(pool) for name in event["ids"]}
        told = Ingested(unmatched=unmatched)
        other: list[Id] = []
        for name, review in found.items():
            state = pool.state_of(name)
            if not review.reviewed:
                told.not_reviewed.append(name)
            elif state == "labelled":
                known = pool.targets.get(name)
                agree = review.target is not None and same_target(known, review.target)
                (told.already if agree else other).append(name)
            elif review.skipped:
                (told.already if state == "skipped" else told.skipped).append(name)
            else:
                told.labelled.append(name)
                told.empty.extend([name] if _is_empty(review.target) else [])
        if other:
            msg = (
                f"{path} says something else of {other[:20]} than the label that is there: take that back first "
                "(pool.unlabel)."
            )
            raise CoresetError(msg)
        for round in sorted({rounds.get(name, pool.round) for name in [*told.labelled, *told.skipped]}):
            names = [name for name in told.labelled if rounds.get(name, pool.round) == round]
            targets = {name: found[name].target for name in names}
            pool.label(names, targets=targets, round=round, units={n: count_units(targets[n], unit) for n in names})
            pool.skip([name for name in told.skipped if rounds.get(name, pool.round) == round], round=round)
        told.released.extend(release_spent(pool))
        return told


def _only_coco(formats: tuple[str, ...]) -> None:
    if formats != ("coco",):
        msg = (
            f"formats={formats!r} is not accepted for masks, which are handed over as COCO files: give formats='coco'."
        )
        raise ValueError(msg)


def release_spent(pool: LabelledPool) -> list[Id]:
    """Wait no longer for items of rounds whose units are spent; gives these items."""
    released: list[Id] = []
    for event in pending_requests(pool):
        budget = event["about"].get("budget")
        if budget is not None and spent_on(pool, event["round"]) >= budget:
            pool.unlabel(event["ids"], round=event["round"])
            released += event["ids"]
    return released


def _is_empty(target: Any) -> bool:
    return isinstance(target, Mapping) and not len(target.get("labels", (0,)))


def _write_json(path: Path, content: Any) -> None:
    # Escaped, because names on disk need not be valid text.
    write_atomic(path, json.dumps(content, indent=1).encode())
