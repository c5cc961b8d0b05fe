"""What recording a run costs, and how well a recording finds wrong labels of people.

Part `overhead`: a training step with and without `TrainingDynamics`, in turn. Parts `noise` and `network`: CIFAR-10N,
whose labels were given by people, against the clean ones: AUC of scores from a proxy that is trained on the noisy
labels, a linear layer on embeddings or a small network from random weights.

    python -m benchmarks.signals [--part overhead noise network] [--images 2500] [--quick] [--append]
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from benchmarks.common import cifar10_images, data_folder, example, parser_of, quiet, ratios, show, squeezenet_set
from lightning_coreset import Proxy, Signals, TrainingDynamics
from lightning_coreset.signals.scores import area_under_margin, el2n, forgetting_events, suspicion

BATCH = 128
PARTS = ("overhead", "noise", "network")
SETS = ("aggregate", "random1", "worst")
SCORES = {
    "aum": lambda signals: -area_under_margin(signals),
    "forgetting": forgetting_events,
    "suspects (aum and forgetting)": suspicion,
    "el2n, all epochs": partial(el2n, epochs=1_000),
    "loss, last epoch": lambda signals: signals.losses[-1],
}


class TimedNet(pl.LightningModule):
    """Somebody's module that knows when it trained."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seconds = self.cpu_seconds = 0.0

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.network(images)

    def on_train_start(self) -> None:
        """After everything was set up."""
        self.seconds, self.cpu_seconds = -time.perf_counter(), -time.process_time()

    def on_train_end(self) -> None:
        """After all epochs were written."""
        self.seconds += time.perf_counter()
        self.cpu_seconds += time.process_time()

    def training_step(self, batch: Any) -> Tensor:
        """A usual one."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """A usual one."""
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def seconds_of_training(
    network: nn.Module, head: str, data: TensorDataset, epochs: int, recorded: bool
) -> tuple[float, float]:
    """Seconds of the training loop on the clock and on the CPU, with what is written at the end of each epoch."""
    module = TimedNet(network)
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [TrainingDynamics(folder, module=f"network.{head}", embeddings=True)] if recorded else []
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            devices=1,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(data, batch_size=BATCH, shuffle=True))
    return module.seconds, module.cpu_seconds


def overhead(quick: bool, rounds: int, append: bool) -> None:
    """A step with the recorder on and off, in turn."""
    generator = torch.Generator().manual_seed(0)
    count = 256 if quick else 2_048
    labels = torch.randint(10, (count,), generator=generator)
    pixels = TensorDataset(torch.rand(count, 3, 32, 32, generator=generator), labels)
    rows = TensorDataset(torch.rand(8 * count, 512, generator=generator), labels.repeat(8))
    cases: dict[str, tuple[nn.Module, str, TensorDataset, int]] = {
        "ResNet-20 on 3 x 32 x 32": (example.ResNet20(), "linear", pixels, 1),
        "linear layer on 512 numbers": (nn.Sequential(nn.Linear(512, 10)), "0", rows, 3),
    }
    table = []
    for name, (network, head, data, epochs) in cases.items():
        seconds: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        for turn in range(rounds + 1):
            for recorded in (False, True):
                took = seconds_of_training(network, head, data, epochs, recorded)
                # The first round only warms up.
                if turn:
                    seconds[recorded].append(took)
        steps = epochs * -(-len(data) // BATCH)
        for place, clock in enumerate(("clock", "CPU")):
            with_it, without = ([took[place] for took in seconds[recorded]] for recorded in (True, False))
            best, median = ratios(with_it, without)
            plain, more = min(without) / steps, (min(with_it) - min(without)) / steps
            limit = "1.05" if "ResNet" in name else ""
            figures = [f"{1e3 * plain:.3f}", f"{1e3 * more:.3f}", f"{best:.3f}", f"{median:.3f}"]
            table.append([f"{name}, {clock}", *figures, limit])
    note = (
        f"Batches of {BATCH}, TrainingDynamics with module= and embeddings=True, one thread, {rounds} rounds after one "
        "to warm up, with and without in turn. From the start of training to its end, so that what is written at the "
        "end of each epoch (two files, synced to the disk) counts; per step. The clock is what neighbours on this "
        "machine disturb. A linear layer shows the cost itself."
    )
    header = ["step", "ms without", "ms more with", "ratio, best", "ratio, median", "must hold"]
    show("Recording a run", note, header, table, append)


def auc(scores: Tensor, wrong: Tensor) -> float:
    """Chance that a wrong label has a higher score than a right one, ties half.

    Example:
        >>> auc(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([True, False, False]))
        1.0
    """
    _, places, counts = torch.unique(scores.double(), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[places]
    positives = int(wrong.sum())
    area = float(ranks[wrong].sum()) - positives * (positives + 1) / 2
    return area / (positives * (len(wrong) - positives))


def noise(cache: Path, parts: list[str], images: int, seeds: int, quick: bool, append: bool) -> None:
    """AUC of each score for finding the wrong labels of CIFAR-10N."""
    folder = data_folder()
    path = None if folder is None else folder / "cifar10" / "cifar10n_labels.npz"
    if path is None or not path.exists():
        print("The labels of CIFAR-10N need LIGHTNING_CORESET_DATA: its tables are left out.")
        return
    given = np.load(path)
    pool = squeezenet_set(cache, quick)
    count = len(pool.train)
    clean = torch.from_numpy(given["clean"][:count]).long()
    proxies: dict[str, tuple[Proxy, Any, int]] = {}
    if "noise" in parts:
        name = f"linear layer on SqueezeNet (ImageNet), {count} images"
        proxies[name] = (Proxy("linear", seeds=seeds), None, count)
    if "network" in parts:
        part = min(images, count)
        proxies[f"ResNet-10t from random weights, {part} images"] = (
            Proxy("timm/resnet10t", epochs=2 if quick else 15),
            Subset(cifar10_images(cache, quick)[0], range(part)),
            part,
        )
    for name, (proxy, dataset, size) in proxies.items():
        columns: list[list[str]] = []
        for labels_name in SETS:
            labels = torch.from_numpy(given[labels_name][:size]).long()
            wrong = labels != clean[:size]
            started = time.perf_counter()
            signals: Signals = proxy.record(dataset, labels, embeddings=pool.train[:size])
            took = time.perf_counter() - started
            found = [f"{auc(score(signals), wrong):.3f}" for score in SCORES.values()]
            hit = wrong[signals.suspects()[: int(wrong.sum())]].float().mean()
            columns.append([f"{100 * wrong.float().mean():.1f}", *found, f"{100 * hit:.1f}", f"{took:.0f}"])
        lines = ["wrong labels, %", *SCORES, "wrong among as many first suspects, %", "seconds of the proxy"]
        rows = [[line, *(column[place] for column in columns)] for place, line in enumerate(lines)]
        note = (
            f"Labels given by people (CIFAR-10N) against the clean ones. The proxy ({proxy.epochs} epochs, "
            f"{proxy.seeds} seed(s)) trains on the noisy labels and never sees a clean one. AUC: the chance that a "
            "wrong label has the higher score, 0.5 by chance; forgetting: never learnt counts as infinity."
        )
        show(f"Wrong labels found, {name}", note, ["score", *SETS], rows, append)


def main() -> None:
    """The parts asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1, help="runs of the linear proxy")
    parser.add_argument("--images", type=int, default=2_500, help="of the small network")
    given = parser.parse_args()
    quiet()
    if "overhead" in given.part:
        overhead(given.quick, 2 if given.quick else given.rounds, given.append)
    if {"noise", "network"} & set(given.part):
        noise(given.cache, given.part, given.images, given.seeds, given.quick, given.append)


if __name__ == "__main__":
    main()
