"""Proxy: signals without a recording, the same for everyone, and nobody's run is touched."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.utils.data import TensorDataset

from lightning_coreset import CoresetDataModule, CoresetError, Proxy, Signals, TrainingDynamics
from lightning_coreset.data.views import random_state_kept
from tests.helpers.lightning_parts import CountingExtractor, DigitsSource, LinearNet, digit_tensors, quiet_trainer
from tests.helpers.ranks import run_ranks
from tests.helpers.recorded_parts import reference_columns

IMAGES, LABELS = digit_tensors(200)


class SmallNet(nn.Sequential):
    """A network of the user's, made for a number of classes."""

    made = 0

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))
        type(self).made += 1


def recorded(model: Any = SmallNet, **settings: Any) -> Signals:
    arguments = {"epochs": 3, "batch_size": 32} | {name: settings.pop(name) for name in ("seeds",) if name in settings}
    proxy = Proxy(model, **arguments)
    return proxy.record(TensorDataset(IMAGES, LABELS), LABELS, **({"embeddings": IMAGES.flatten(1)} | settings))


def same(first: Signals, second: Signals) -> bool:
    return all(torch.equal(value, second.tensors()[name]) for name, value in first.tensors().items())


@pytest.mark.parametrize("model", ["linear", "timm/resnet10t", "torchvision/resnet18", SmallNet])
def test_every_item_has_a_row_in_every_epoch(model: Any) -> None:
    signals = recorded(model)
    assert (signals.epochs, len(signals)) == (3, 200)
    assert torch.isfinite(signals.losses).all()
    assert signals.losses[-1].mean() < signals.losses[0].mean()
    assert signals.logits.shape == (200, 10)
    # The logits are those of the last epoch, and the embeddings what the last layer saw.
    expected = reference_columns(signals.logits.numpy(), LABELS.numpy())
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(signals, name)[-1].numpy(), values, rtol=1e-4, atol=1e-4)
    norms = (signals.embeddings.square().sum(dim=1) + 1).sqrt()
    torch.testing.assert_close(signals.feature_norms[-1], norms)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_ranks_gives_the_answer_of_one(seeds: int, ranks: int) -> None:
    # Threads share the global random state, which real ranks do not: weights that draw nothing.
    with random_state_kept():
        alone = recorded(zero_layer, seeds=seeds)
        assert alone.runs.tolist() == [run for run in range(seeds) for _ in range(3)]
        for answer in run_ranks(ranks, lambda reducer: recorded(zero_layer, seeds=seeds, reducer=reducer)):
            assert same(answer, alone)


def zero_layer(classes: int) -> nn.Module:
    layer = nn.utils.skip_init(nn.Linear, 64, classes)
    for values in layer.parameters():
        nn.init.zeros_(values)
    return nn.Sequential(nn.Flatten(), layer)


def test_nobody_elses_random_numbers_change() -> None:
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    recorded("timm/resnet10t")
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


def test_the_seed_decides_and_nothing_else() -> None:
    first = recorded(seed=3)
    torch.manual_seed(99)
    assert same(first, recorded(seed=3, num_workers=1))
    assert not torch.equal(first.losses, recorded(seed=4).losses)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "resnet10t"}, "model='resnet10t' is not accepted: give 'linear', 'timm/<name>'"),
        ({"model": "timm/resnet10x"}, "is not accepted"),
        ({"model": nn.Linear(2, 2)}, "model is a Linear that is there already; a function of the number of classes"),
        ({"epochs": 0}, "epochs=0 is not accepted"),
        ({"seeds": True}, "seeds=True is not accepted"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 is not accepted"),
    ],
)
def test_wrong_arguments(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Proxy(**settings)


class TestInTheDataModule:
    def test_it_runs_in_setup_and_touches_nothing_of_the_user(self, tmp_path: Path) -> None:
        def run(**settings: Any) -> tuple[LinearNet, CoresetDataModule]:
            torch.manual_seed(0)
            network = LinearNet()
            datamodule = CoresetDataModule(DigitsSource(count=200), ratio=0.2, cache_dir=None, **settings)
            quiet_trainer(tmp_path).fit(network, datamodule=datamodule)
            return network, datamodule

        _, chosen = run(method="el2n", signals=Proxy(SmallNet, epochs=2))
        # A selector that finds the same items without any training.
        again, by_hand = run(method="el2n", signals=Proxy(SmallNet, epochs=2).record(*_digits_as_source()))
        first, _ = run(method="el2n", signals=Proxy(SmallNet, epochs=2))
        assert torch.equal(chosen.coreset.indices, by_hand.coreset.indices)
        for one, other in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
            assert torch.equal(one, other), "the run goes on from the same random state"

    def test_it_is_trained_once(self, tmp_path: Path) -> None:
        def run(**settings: Any) -> CoresetDataModule:
            SmallNet.made = 0
            datamodule = CoresetDataModule(
                DigitsSource(count=200), **({"method": "el2n", "signals": Proxy(SmallNet, epochs=2)} | settings)
            )
            quiet_trainer(tmp_path).fit(LinearNet(), datamodule=datamodule)
            return datamodule

        first = run(ratio=0.2)
        assert SmallNet.made == 1
        assert torch.equal(run(ratio=0.2).coreset.indices, first.coreset.indices)
        assert SmallNet.made == 0, "the selection was kept"
        run(ratio=0.3)
        run(ratio=0.3, method="aum")
        assert SmallNet.made == 0, "other selections find the signals"
        run(ratio=0.2, signals=Proxy(SmallNet, epochs=3))
        assert SmallNet.made == 1, "other arguments are other signals"
        run(ratio=0.2, seed=5)
        assert SmallNet.made == 1

    def test_damaged_signals_are_made_again(self, tmp_path: Path) -> None:
        settings = {"method": "el2n", "signals": Proxy(SmallNet, epochs=2), "cache_dir": tmp_path}
        first = CoresetDataModule(DigitsSource(count=200), ratio=0.2, **settings)
        first.setup("fit")
        (path,) = (tmp_path / "signals").glob("*")
        path.write_bytes(path.read_bytes()[:-5])
        second = CoresetDataModule(DigitsSource(count=200), ratio=0.3, **settings)
        with pytest.warns(UserWarning, match="cannot be read .*The proxy is trained again"):
            second.setup("fit")
        assert Signals.load(path).epochs == 2

    def test_a_linear_proxy_shares_the_embeddings(self, tmp_path: Path) -> None:
        extractor = CountingExtractor()
        settings = {"signals": Proxy("linear", epochs=2), "features": extractor, "cache_dir": tmp_path, "ratio": 0.2}
        CoresetDataModule(DigitsSource(count=200), method="el2n", **settings).setup("fit")
        forwards = extractor.forwards
        assert forwards > 0
        CoresetDataModule(DigitsSource(count=200), method="cal", **settings).setup("fit")
        assert extractor.forwards == forwards

    def test_a_recording_by_its_path(self, tmp_path: Path) -> None:
        dynamics = TrainingDynamics(tmp_path / "recording")
        quiet_trainer(tmp_path, callbacks=[dynamics]).fit(LinearNet(), datamodule=DigitsSource(count=200))
        dynamics.signals().save(tmp_path / "signals.safetensors")
        picks = []
        for signals in (dynamics.signals(), str(tmp_path / "recording"), str(tmp_path / "signals.safetensors")):
            datamodule = CoresetDataModule(DigitsSource(count=200), method="forgetting", ratio=0.2, signals=signals)
            datamodule.setup("fit")
            picks.append(datamodule.coreset.indices)
        assert torch.equal(picks[0], picks[1])
        assert torch.equal(picks[0], picks[2])

    def test_signals_of_other_data_are_refused(self) -> None:
        signals = Signals.from_logits(torch.zeros(30, 10), torch.zeros(30, dtype=torch.int64))
        datamodule = CoresetDataModule(DigitsSource(count=200), method="el2n", ratio=0.2, signals=signals)
        with pytest.raises(ValueError, match="signals= holds 30 items and the train dataset has 200"):
            datamodule.setup("fit")

    def test_a_folder_that_is_no_recording(self, tmp_path: Path) -> None:
        datamodule = CoresetDataModule(DigitsSource(count=200), method="el2n", ratio=0.2, signals=str(tmp_path))
        with pytest.raises(CoresetError, match=r"is no recording \(pool.safetensors is not there\)"):
            datamodule.setup("fit")

    def test_items_without_a_class(self) -> None:
        datamodule = CoresetDataModule(TensorDataset(IMAGES), method="el2n", ratio=0.2, signals=Proxy(SmallNet))
        with pytest.raises(CoresetError, match="Proxy trains a classifier and the train items show no class"):
            datamodule.setup("fit")

    def test_a_smoke_test_trains_on_its_few_items(self, tmp_path: Path) -> None:
        datamodule = CoresetDataModule(
            DigitsSource(count=200), method="el2n", ratio=0.2, signals=Proxy(SmallNet, epochs=1)
        )
        quiet_trainer(tmp_path, fast_dev_run=1).fit(LinearNet(), datamodule=datamodule)
        assert datamodule.coreset.manifest["capped"]["pool_size"] == 80
        assert not (tmp_path / "coresets").exists()

    @pytest.mark.parametrize("ours", ["--data=lightning_coreset.CoresetDataModule"])
    def test_from_the_shell(self, ours: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.argv", ["train.py"])
        flags = [ours, "--data.source=DigitsSource", "--data.method=el2n", "--data.ratio=0.1"]
        more = ["--data.signals=Proxy", "--data.signals.model=linear", "--data.signals.epochs=3"]
        datamodule = LightningCLI(LinearNet, args=[*flags, *more, "--data.features=pixels"], run=False).datamodule
        assert isinstance(datamodule._signals, Proxy)
        assert (datamodule._signals.model, datamodule._signals.epochs) == ("linear", 3)
        named = LightningCLI(LinearNet, args=[*flags, "--data.signals=runs/recording"], run=False).datamodule
        assert named._signals == "runs/recording"


def _digits_as_source() -> tuple[TensorDataset, torch.Tensor]:
    return TensorDataset(IMAGES, LABELS), LABELS
