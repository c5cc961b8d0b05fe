"""The command line: selection from files of embeddings, requests for labels without a script, a demo."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from lightning_coreset.active.choosing import about, label_free_selector
from lightning_coreset.active.datamodule import ActiveLearningDataModule
from lightning_coreset.active.files import ImageFiles
from lightning_coreset.active.handover import FORMATS, ExportToLabel
from lightning_coreset.active.oracles import UNITS
from lightning_coreset.active.pool import LabelledPool
from lightning_coreset.api import select
from lightning_coreset.coreset import Coreset
from lightning_coreset.demo import demo
from lightning_coreset.errors import CoresetError
from lightning_coreset.features import PrecomputedFeatures
from lightning_coreset.registry import list_selectors, selector_class


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 where it worked, 2 with one line on standard error where it did not.

    Example:
        >>> main(["list", "*core"])
        subzerocore
        zcore
        0
    """
    given = _parser().parse_args(arguments)
    try:
        given.run(given)
    except (CoresetError, ValueError, TypeError, OSError) as error:
        print(f"lightning-coreset: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lightning-coreset", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    listed = commands.add_parser("list", help="names of the methods")
    listed.add_argument("pattern", nargs="?", default="*", help="wildcards, such as '*core*'")
    listed.add_argument("--long", action="store_true", help="with what each needs")
    listed.set_defaults(run=_list)

    chosen = commands.add_parser("select", help="choose from a file of embeddings")
    chosen.add_argument("features", help=".npy, .npz or .safetensors with one row an item")
    chosen.add_argument("output", help="coreset.json, .csv or .npz")
    chosen.add_argument("--labels", help=".npy with one class an item")
    chosen.add_argument("--method", default="subzerocore")
    chosen.add_argument("--method-args", type=_json, default={}, help="JSON, such as '{\"coverage\": 0.6}'")
    chosen.add_argument("--ratio", type=float)
    chosen.add_argument("--budget", type=int)
    chosen.add_argument("--seed", type=int, default=0)
    chosen.set_defaults(run=_select)

    told = commands.add_parser("report", help="what a coreset holds")
    told.add_argument("coreset")
    told.set_defaults(run=_report)

    compared = commands.add_parser("compare", help="what two coresets share")
    compared.add_argument("first")
    compared.add_argument("second")
    compared.set_defaults(run=_compare)

    shown = commands.add_parser("demo", help="train on a tenth of real handwritten digits, some 20 seconds")
    shown.add_argument("--ratio", type=float, default=0.1)
    shown.add_argument("--steps", type=int, default=400)
    shown.add_argument("--seeds", type=int, default=3, help="trainings of each")
    shown.set_defaults(run=lambda given: demo(ratio=given.ratio, steps=given.steps, seeds=given.seeds))

    _add_label(commands)
    return parser


def _add_label(commands: Any) -> None:
    label = commands.add_parser("label", help="requests for labels, and labels back")
    actions = label.add_subparsers(required=True, metavar="action")

    request = actions.add_parser("request", help="choose items and write the files for annotators")
    request.add_argument("folder", help="where files and journal lie")
    request.add_argument("--images", help="folder with the images; their relative paths are the ids")
    request.add_argument("--features", default="auto", help="a file of embeddings, or what embeds the images")
    request.add_argument("--method", default="typiclust")
    request.add_argument("--method-args", type=_json, default={}, help="JSON")
    request.add_argument("--budget", type=int, required=True)
    request.add_argument("--unit", choices=UNITS, default="images")
    request.add_argument("--formats", default=",".join(FORMATS), help="some of csv,coco,label_studio")
    request.add_argument("--class-names", required=True, help="cat,dog or a file with one name a line")
    request.add_argument("--seed", type=int, default=0)
    request.set_defaults(run=_label_request)

    ingest = actions.add_parser("ingest", help="take the labels of a file in")
    ingest.add_argument("folder")
    ingest.add_argument("file", help="filled CSV, COCO JSON or Label Studio's JSON export")
    ingest.set_defaults(run=_label_ingest)

    status = actions.add_parser("status", help="how far the labelling is")
    status.add_argument("folder")
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(run=_label_status)


def _list(given: argparse.Namespace) -> None:
    for name in list_selectors(given.pattern):
        needs = ", ".join(sorted(selector_class(name).needs)) or "nothing"
        print(f"{name:20} needs {needs}" if given.long else name)


def _select(given: argparse.Namespace) -> None:
    features = PrecomputedFeatures(given.features).matrix()
    labels = None if given.labels is None else np.load(given.labels, allow_pickle=False)
    coreset = select(
        features,
        labels,
        method=given.method,
        ratio=given.ratio,
        budget=given.budget,
        seed=given.seed,
        **given.method_args,
    )
    coreset.save(given.output)
    print(f"{coreset.summary} Written to {given.output}.")


def _report(given: argparse.Namespace) -> None:
    coreset = Coreset.load(given.coreset)
    print(coreset.summary)
    counts = coreset.class_counts
    if counts is not None:
        whole = coreset.manifest.get("pool_class_counts") or []
        for label, count in enumerate(counts.tolist()):
            print(f"class {label}: {count}" + (f" of {whole[label]}" if label < len(whole) else ""))
    print(json.dumps(coreset.manifest, indent=1, sort_keys=True))


def _compare(given: argparse.Namespace) -> None:
    one, other = (Coreset.load(path) for path in (given.first, given.second))
    keys = [coreset.manifest.get("fingerprint") for coreset in (one, other)]
    if one.manifest.get("pool_size") != other.manifest.get("pool_size") or keys[0] != keys[1]:
        msg = f"{given.first} and {given.second} are selected from different datasets: positions mean nothing together."
        raise CoresetError(msg)
    shared = len(set(one.indices.tolist()) & set(other.indices.tolist()))
    print(f"{given.first}: {one.summary}\n{given.second}: {other.summary}")
    either = {*one.indices.tolist(), *other.indices.tolist()}
    print(f"shared: {shared} items, {shared / len(either):.1%} of those in either")


class _Names(Dataset[Any]):
    """Items of which only embeddings are there."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


def _label_request(given: argparse.Namespace) -> None:
    dataset: Any
    if given.images is not None:
        dataset = ImageFiles(given.images)
        ids: list[Any] | None = dataset.names
    else:
        dataset, ids = _Names(len(PrecomputedFeatures(given.features).matrix())), None
    names = Path(given.class_names)
    classes = names.read_text().splitlines() if names.is_file() else given.class_names.split(",")
    oracle = ExportToLabel(given.folder, given.formats.split(","), class_names=classes)
    selector = label_free_selector(given.method, given.method_args)
    datamodule = ActiveLearningDataModule(
        dataset, features=given.features, oracle=oracle, ids=ids, seed=given.seed, budget_unit=given.unit
    )
    datamodule.setup("fit")
    pool = datamodule.opened()
    if pool.n_pending:
        msg = f"{pool.n_pending} items wait for their labels: take them in first (lightning-coreset label ingest)."
        raise CoresetError(msg)
    coreset = datamodule.choose(selector, given.budget, given.unit)
    round = pool.round + 1 if datamodule.has_round(0) else 0
    told = about(selector, given.seed, coreset.manifest.get("pseudo_classes", 0))
    datamodule.ask(coreset.indices, round=round, budget=given.budget, about=told)
    print(f"Round {round}: {len(coreset)} of {pool.n} items asked for in {Path(given.folder, f'round_{round}')}.")


def _label_ingest(given: argparse.Namespace) -> None:
    told = ExportToLabel(given.folder).ingest(given.file)
    print(told.summary)


def _label_status(given: argparse.Namespace) -> None:
    pool = LabelledPool.opened(Path(given.folder, "journal.jsonl"))
    told = ExportToLabel(given.folder).status(pool)
    if given.json:
        print(json.dumps(told))
        return
    print(
        f"{told['labelled']} of {told['items']} items labelled ({told['units_spent']:g} units), {told['pending']} "
        f"pending, {told['skipped']} skipped; round {told['round']}."
    )
    for waiting in told["waiting"]:
        print(f"Round {waiting['round']} waits for {waiting['pending']} items.")


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON ({error})") from error  # noqa: EM102
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")  # noqa: EM102
    return found


if __name__ == "__main__":
    sys.exit(main())
