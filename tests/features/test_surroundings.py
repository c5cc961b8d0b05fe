"""The pass inside a trainer: no trace is left, and the source's transfer hooks are seen as prediction."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_coreset import CoresetDataModule
from lightning_coreset.features import (
    ModuleExtractor,
    PixelsExtractor,
    extraction,
    transfer_hooks,
)
from tests.data.examples import Pictures, as_array
from tests.features.examples import DIGITS, embedded, network
from tests.helpers.lightning_parts import DigitsSource, LinearNet, digit_tensors, quiet_trainer


@contextmanager
def raising_if(fails: bool) -> Iterator[None]:
    if not fails:
        yield
        return
    with pytest.raises(ZeroDivisionError):
        yield


class Careless(Dataset[Any]):
    """Draws from every random state there is."""

    def __init__(self) -> None:
        self.transform: Any = None

    def __len__(self) -> int:
        return 70

    def __getitem__(self, index: int) -> Any:
        noise = random.random() + np.random.rand() + float(torch.rand(()))
        return torch.full((1, 8, 8), noise), 0


class Breaking(ModuleExtractor):
    """Draws random numbers, and fails in its second batch where it is asked to."""

    def __init__(self, fails: bool) -> None:
        super().__init__(nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Flatten()), nn.Linear(64, 3)))
        self.fails = fails
        self.calls = 0
        self.seen: list[Any] = []

    def extract(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append([part.training for part in self.module().modules()] + [torch.is_grad_enabled()])
        torch.rand(3)
        if self.fails and self.calls == 2:
            raise ZeroDivisionError
        return super().extract(inputs)


class TestNoTraceIsLeft:
    @pytest.mark.parametrize("fails", [False, True], ids=["all is well", "it fails"])
    @pytest.mark.parametrize("workers", [0, 1])
    def test_modes_random_states_and_stage(self, tmp_path: Path, fails: bool, workers: int) -> None:
        extractor, trainer = Breaking(fails), quiet_trainer(tmp_path)
        parts = list(extractor.module().modules())
        for part, training in zip(parts, [True, False, True, True, False, True], strict=True):
            part.training = training
        modes = [part.training for part in parts]
        weights = {name: value.clone() for name, value in extractor.module().state_dict().items()}
        trainer.training = True
        states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        with raising_if(fails):
            embedded(torch.arange(70), extractor, Careless(), trainer=trainer, num_workers=workers)
        assert not any(any(seen) for seen in extractor.seen), "evaluation mode and no gradients, all the way down"
        assert [part.training for part in parts] == modes
        assert all(torch.equal(value, weights[name]) for name, value in extractor.module().state_dict().items())
        assert (trainer.training, trainer.predicting) == (True, False)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])
        assert random.getstate() == states[2]
        assert torch.is_grad_enabled()
        assert not any(weight.grad is not None for weight in extractor.module().parameters())

    def test_a_trainer_without_stage_stays_without(self, tmp_path: Path) -> None:
        trainer = quiet_trainer(tmp_path)
        embedded(trainer=trainer)
        assert trainer.state.stage is None

    @pytest.mark.parametrize("fails", [False, True], ids=["all is well", "it fails"])
    def test_a_module_goes_to_the_device_and_back(self, fails: bool) -> None:
        """By way of the one other device that every machine has; its tensors are named, not computed."""
        module = nn.Linear(2, 2)
        with raising_if(fails), extraction.module_ready(module, torch.device("meta")):
            assert module.weight.device.type == "meta"
            # Back from there needs memory, which a real device would have kept.
            module.to_empty(device="cpu")
            if fails:
                raise ZeroDivisionError
        assert module.weight.device.type == "cpu"
        assert module.training

    @pytest.mark.gpu
    def test_a_module_goes_to_the_gpu_and_back(self, tmp_path: Path) -> None:
        extractor = network()
        rows = embedded(extractor=extractor, trainer=quiet_trainer(tmp_path, accelerator="gpu"))
        assert {part.device.type for part in extractor.module().parameters()} == {"cpu"}
        assert torch.allclose(rows, embedded(), atol=1e-3)

    def test_the_dataset_is_not_touched(self) -> None:
        data = Pictures(5, transform=as_array)
        before = dict(vars(data))
        embedded(torch.arange(5), PixelsExtractor(), data)
        assert vars(data) == before


class Hooked(DigitsSource):
    """Normalises on the device, as torchgeo does, and augments while training."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []

    def note(self, hook: str) -> None:
        stage = None if self.trainer is None else self.trainer.state.stage
        self.calls.append((hook, None if stage is None else stage.value))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.note("before")
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        self.note("transfer")
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.note("after")
        images = batch[0] - 0.5
        return [images + torch.rand(()) if self.trainer is not None and self.trainer.training else images, *batch[1:]]


class Asked(PixelsExtractor):
    """Remembers whether it was asked to normalise."""

    def __init__(self) -> None:
        self.normalize: list[bool] = []
        self.rows = torch.empty(0, 64)

    def transform(self, normalize: bool = True) -> Callable[[Any], Any]:
        self.normalize.append(normalize)
        return super().transform(normalize)

    def extract(self, inputs: Tensor) -> Tensor:
        self.rows = torch.cat([self.rows, super().extract(inputs)])
        return super().extract(inputs)


class TestTransferHooks:
    def test_they_are_seen_in_order_and_as_prediction(self, tmp_path: Path) -> None:
        source, extractor = Hooked(), Asked()
        datamodule = CoresetDataModule(source, method="k_center", ratio=0.1, features=extractor)
        stages: list[Any] = []

        class Net(LinearNet):
            def setup(self, stage: str) -> None:
                stages.append(self.trainer.state.stage.value)
                source.calls.append(("selected", None))

        quiet_trainer(tmp_path, limit_val_batches=0).fit(Net(), datamodule=datamodule)
        passed = source.calls[: source.calls.index(("selected", None))]
        # Ten batches of 64.
        assert passed == [("before", "predict"), ("transfer", "predict"), ("after", "predict")] * 10
        assert stages == ["train"], "and afterwards the stage is what it was"
        assert ("after", "train") in source.calls
        images, _ = digit_tensors()
        assert torch.equal(extractor.rows[:600], images.flatten(1) - 0.5), "normalised, not augmented"
        assert extractor.normalize == [False]

    def test_without_a_trainer_they_count_too(self) -> None:
        source, extractor = Hooked(), Asked()
        rows = embedded(extractor=extractor, source=source)
        assert torch.equal(rows, DIGITS.tensors[0].flatten(1) - 0.5)
        assert [hook for hook, _ in source.calls[:2]] == ["before", "after"]
        assert extractor.normalize == [False]

    def test_a_source_without_hooks_leaves_normalising_to_the_extractor(self) -> None:
        extractor = Asked()
        embedded(extractor=extractor, source=DigitsSource())
        embedded(extractor=extractor)
        assert extractor.normalize == [True, True]
        assert transfer_hooks(DigitsSource()) == transfer_hooks(None) == []
        assert len(transfer_hooks(Hooked())) == 3

    def test_embeddings_under_hooks_have_a_key_of_their_own(self, tmp_path: Path) -> None:
        """Else the normalised embeddings of one datamodule would be found by another that does not normalise."""
        for source in (Hooked(), DigitsSource()):
            datamodule = CoresetDataModule(source, method="k_center", ratio=0.1, features="pixels", cache_dir=tmp_path)
            datamodule.setup("fit")
        assert len(list((tmp_path / "embeddings").iterdir())) == 2
