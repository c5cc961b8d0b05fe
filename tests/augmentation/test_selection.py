"""DQ_v2 in a datamodule: trains on originals and SDA images, and nobody else sees them."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from lightning_coreset import CoresetDataModule, CoresetError, DQv2, Pool, SDADataset, SelectionContext
from lightning_coreset.features import proxy
from lightning_coreset.features.proxy import ProxyExtractor
from tests.augmentation.images import Pictures
from tests.helpers.lightning_parts import quiet_trainer


class PictureSource(pl.LightningDataModule):
    """Somebody's datamodule."""

    def __init__(self, count: int = 20, **loader: Any) -> None:
        super().__init__()
        self.count, self.loader = count, {"shuffle": True} | loader

    def setup(self, stage: str | None = None) -> None:
        self.train, self.held_out = Pictures(self.count, form="float"), Pictures(6, form="float")

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=4, **self.loader)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.held_out, batch_size=3)


class Watching(pl.LightningModule):
    """Somebody's module; it keeps every image it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 28 * 28, 2)
        self.trained_on: list[torch.Tensor] = []
        self.validated_on: list[torch.Tensor] = []

    def training_step(self, batch: Any) -> torch.Tensor:
        self.trained_on += batch[0]
        return nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch: Any) -> None:
        self.validated_on += batch[0]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def made(seen: Path | None, **settings: Any) -> CoresetDataModule:
    source = settings.pop("source", None) or PictureSource()
    arguments = {"method": "dq_v2", "ratio": 0.6, "features": "pixels", "cache_dir": seen}
    return CoresetDataModule(source, **(arguments | settings))


def fitted(root: Path, datamodule: CoresetDataModule, **trainer: Any) -> Watching:
    network = Watching()
    quiet_trainer(root, **({"num_sanity_val_steps": 0} | trainer)).fit(network, datamodule=datamodule)
    return network


def hashes(images: list[torch.Tensor]) -> list[float]:
    return sorted(
        float((image.double() * torch.arange(1, 1 + image.numel()).view(image.shape)).sum()) for image in images
    )


def test_training_sees_the_mixture_and_validation_nothing_new(seen: Path, tmp_path: Path) -> None:
    datamodule = made(seen)
    network = fitted(tmp_path, datamodule)
    coreset, whole = datamodule.coreset, SDADataset(Pictures(20, form="float"), cache_dir=seen)
    assert len(coreset) == 12
    assert (coreset.indices >= 20).any()
    assert (coreset.indices < 20).any()
    assert hashes(network.trained_on) == hashes([whole[item][0] for item in coreset.indices.tolist()])
    assert hashes(network.validated_on) == hashes([image for image, _ in Pictures(6, form="float")])
    assert coreset.details["parent"] == [whole.parent_of(item) for item in coreset.indices.tolist()]
    assert torch.equal(coreset.labels, whole.targets[coreset.indices])
    assert coreset.manifest["pool_size"] == 20
    assert coreset.class_counts.tolist() == [6, 6]


def test_the_manifest_says_what_embedded(seen: Path) -> None:
    datamodule = made(seen)
    datamodule.setup("fit")
    resolved = datamodule.coreset.manifest["resolved"]
    assert resolved["features"] == "pixels"
    assert resolved["extractor"] == {"name": "pixels", "epochs": 0, "labels": False}
    assert resolved["bins"] == [10, 10]
    assert datamodule.coreset.manifest["arguments"]["augment"] == 0.5


def test_the_loader_keeps_to_the_order_of_positions(seen: Path) -> None:
    datamodule = made(seen, source=PictureSource(shuffle=False))
    datamodule.setup("fit")
    loaded = torch.cat([labels for _, labels in datamodule.train_dataloader()])
    targets = SDADataset(Pictures(20, form="float"), cache_dir=seen).targets
    assert torch.equal(loaded, targets[datamodule.coreset.indices.sort().values])


def test_a_weighted_sampler_of_the_source_weighs_parents(seen: Path) -> None:
    weights = torch.arange(1.0, 21.0)
    sampler = WeightedRandomSampler(weights, 20)
    datamodule = made(seen, source=PictureSource(shuffle=None, sampler=sampler))
    datamodule.setup("fit")
    parents = torch.tensor(datamodule.coreset.details["parent"])[datamodule.coreset.indices.argsort()]
    assert torch.equal(datamodule.train_dataloader().sampler.weights.float(), weights[parents])


@pytest.mark.parametrize("weights", ["resample", "batch"])
def test_weights_go_with_the_items(weights: str, seen: Path, tmp_path: Path) -> None:
    datamodule = made(seen, weights=weights)
    datamodule.setup("fit")
    batch = next(iter(datamodule.train_dataloader()))
    assert len(batch) == (3 if weights == "batch" else 2)


def test_a_second_run_reads_the_selection_and_makes_the_same_images(tmp_path: Path) -> None:
    first = fitted(tmp_path, made("auto"))
    second = made("auto")
    assert hashes(fitted(tmp_path, second).trained_on) == hashes(first.trained_on)


def test_workers_read_the_same_images(seen: Path, tmp_path: Path) -> None:
    alone = fitted(tmp_path, made(seen))
    assert hashes(fitted(tmp_path, made(seen, num_workers=2)).trained_on) == hashes(alone.trained_on)


def saved(root: Path, datamodule: CoresetDataModule) -> Path:
    keeper = ModelCheckpoint(dirpath=root / "checkpoints", filename="first")
    fitted(root, datamodule, callbacks=[keeper], enable_checkpointing=True)
    return root / "checkpoints" / "first.ckpt"


@pytest.mark.parametrize("change", [{}, {"seed": 5}, {"method_args": {"grid": 5}}])
@pytest.mark.filterwarnings("ignore:The checkpoint holds another selection")
def test_a_checkpoint_brings_its_images_back(change: dict[str, Any], seen: Path, tmp_path: Path) -> None:
    first = made(seen)
    path = saved(tmp_path, first)
    torch.load(path, weights_only=True)
    second, network = made(seen, **change), Watching()
    quiet_trainer(tmp_path, max_epochs=2).fit(network, datamodule=second, ckpt_path=path)
    expected = [first.train_dataset[place][0] for place in range(12)]
    assert hashes(network.trained_on) == hashes(expected)


def test_the_same_picks_with_other_images_are_restored_too(tmp_path: Path) -> None:
    """Random bins do not look at images: another grid gives the same positions and other pixels."""
    first = made(None, method_args={"binning": "uniform"})
    first.setup("fit")
    second = made(None, method_args={"binning": "uniform", "grid": 4})
    second.setup("fit")
    assert torch.equal(first.coreset.indices, second.coreset.indices)
    assert not torch.equal(first.train_dataset[11][0], second.train_dataset[11][0])
    with pytest.warns(UserWarning, match="checkpoint holds another selection"):
        second.load_state_dict(first.state_dict())
    assert torch.equal(first.train_dataset[11][0], second.train_dataset[11][0])


def test_another_method_cannot_make_the_images(seen: Path) -> None:
    first = made(seen)
    first.setup("fit")
    second = made(seen, method="random", features="pixels")
    second.setup("fit")
    with (
        pytest.warns(UserWarning, match="another selection"),
        pytest.raises(CoresetError, match=r"holds item 2\d and the train dataset has 20.*'dq_v2'"),
    ):
        second.load_state_dict(first.state_dict())


def test_a_coreset_without_settings_is_refused(seen: Path) -> None:
    datamodule = made(seen)
    datamodule.setup("fit")
    coreset = datamodule.coreset
    coreset.manifest["resolved"].pop("sda")
    with pytest.raises(CoresetError, match="no SDA settings: select again with method='dq_v2'"):
        DQv2().train_view(Pictures(20), coreset)


def test_a_smoke_test_trains_on_new_images_too(tmp_path: Path) -> None:
    datamodule = made("auto", source=PictureSource(40), method_args={"augment": 1.0})
    network = fitted(tmp_path, datamodule, fast_dev_run=2)
    coreset = datamodule.coreset
    assert len(coreset) == len(network.trained_on) == 8
    assert (coreset.indices >= 40).any()
    whole = SDADataset(Pictures(40, form="float"), augment=0)
    assert hashes(network.trained_on) != hashes([whole[item][0] for item in coreset.details["parent"]])
    labels = torch.tensor(whole.dataset.targets)
    assert torch.equal(labels[torch.tensor(coreset.details["parent"])], coreset.labels)
    assert not (tmp_path / "coresets").exists()


def test_forbidden_parents_have_no_children() -> None:
    pictures = Pictures(20, form="float")
    pool = Pool(images=pictures, labels=torch.tensor(pictures.targets))
    forbidden = list(range(0, 12))
    coreset = DQv2(binning="uniform").select(pool, 8, initial=[12], forbidden=forbidden[:11])
    assert not set(coreset.details["parent"]) & set(forbidden[:11])
    assert 12 not in coreset.indices.tolist()
    with pytest.raises(ValueError, match="at most 8"):
        DQv2(binning="uniform").select(pool, 9, initial=[12], forbidden=forbidden[:11])


@pytest.mark.parametrize("originals", [0.0, 0.5])
def test_fewer_originals(originals: float) -> None:
    pictures = Pictures(20, form="float")
    pool = Pool(images=pictures, labels=torch.tensor(pictures.targets))
    coreset = DQv2(binning="uniform", originals=originals).select(pool, 10)
    assert len(coreset) == 10
    if not originals:
        assert coreset.indices.min() >= 20


def test_embeddings_that_are_there_already_do_not_know_of_new_images(seen: Path) -> None:
    datamodule = made(seen, features=torch.rand(20, 3))
    with pytest.raises(ValueError, match="know nothing of the new images.*augment=0"):
        datamodule.setup("fit")
    datamodule = made(seen, features=torch.rand(20, 3), method_args={"augment": 0})
    datamodule.setup("fit")
    assert len(datamodule.coreset) == 12
    with pytest.raises(ValueError, match="features= beside extractor='random'"):
        made(seen, method_args={"extractor": "random"})


def test_items_that_are_no_images_stop_before_any_work(tmp_path: Path) -> None:
    vectors = TensorDataset(torch.rand(8, 5), torch.arange(8) % 2)
    for features in ("pixels", "auto"):
        datamodule = CoresetDataModule(vectors, method="dq_v2", ratio=0.5, features=features)
        with pytest.raises(CoresetError, match=r"values of shape \[5\]; images are accepted.*augment=0"):
            datamodule.setup("fit")


class TestProxy:
    """A network that trains on the pool before it embeds it."""

    def chosen(self, cache: Path | None, **arguments: Any) -> Any:
        pictures = Pictures(12, form="pil", sizes=[(28, 28), (30, 41)])
        labels = torch.tensor(pictures.targets) if arguments.pop("labelled", True) else None
        context = SelectionContext(cache=None if cache is None else str(cache))
        pool = Pool(images=pictures, labels=labels, size=12)
        return DQv2(**({"proxy_epochs": 1, "bins": 3} | arguments)).select(pool, 6, context=context)

    def test_trained_weights_are_kept_and_found(self, seen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = self.chosen(seen)
        assert first.manifest["resolved"]["extractor"] == {"name": "proxy", "epochs": 1, "labels": True}
        monkeypatch.setattr(proxy, "train_classifier", lambda *_, **__: pytest.fail("it trains again"))
        again = self.chosen(seen)
        assert torch.equal(again.indices, first.indices)
        assert again.manifest["resolved"] == first.manifest["resolved"]

    def test_without_labels_it_does_not_train(self, seen: Path) -> None:
        resolved = self.chosen(seen, labelled=False).manifest["resolved"]
        assert resolved["extractor"] == {"name": "random", "epochs": 0, "labels": False}
        assert resolved["features"] == "random ResNet-18"
        assert self.chosen(seen, extractor="random").manifest["resolved"]["extractor"]["name"] == "random"

    def test_a_datamodule_trains_it_in_setup_and_leaves_no_trace(self, tmp_path: Path) -> None:
        datamodule = made("auto", features="auto", ratio=0.5, method_args={"proxy_epochs": 1, "bins": 2})
        network = Watching()
        before = [values.clone() for values in network.state_dict().values()]
        trainer = quiet_trainer(tmp_path, num_sanity_val_steps=0)

        def stop_before_training(*_: Any) -> None:
            assert all(torch.equal(*pair) for pair in zip(before, network.state_dict().values(), strict=True))
            assert torch.equal(torch.get_rng_state(), state)
            assert trainer.global_step == 0

        network.on_fit_start = stop_before_training
        torch.manual_seed(7)
        state = torch.get_rng_state()
        trainer.fit(network, datamodule=datamodule)
        assert datamodule.coreset.manifest["resolved"]["features"] == "ResNet-18 trained for 1 epochs"
        assert len(network.trained_on) == 10
        assert len(list((tmp_path / "coresets" / "embeddings").iterdir())) == 3, "maps, weights, embeddings"

    def test_one_that_was_not_fitted_says_so(self) -> None:
        with pytest.raises(CoresetError, match="has not seen any images yet"):
            ProxyExtractor().module()


@pytest.mark.parametrize(
    "flags",
    [
        ["--data.method", "dq_v2", "--data.method_args.augment", "0.5"],
        ["--data.selector", "DQv2", "--data.selector.augment", "0.5", "--data.selector.binning", "uniform"],
    ],
    ids=["method", "selector"],
)
def test_flags_from_a_shell(flags: list[str], tmp_path: Path) -> None:
    from lightning.pytorch.cli import LightningCLI

    arguments = [
        "fit", "--data", "lightning_coreset.CoresetDataModule",
        "--data.source", "tests.augmentation.test_selection.PictureSource", *flags,
        "--data.ratio", "0.5", "--data.features", "pixels",
        "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.logger=false",
        "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false", f"--trainer.default_root_dir={tmp_path}",
    ]  # fmt: skip
    cli = LightningCLI(
        Watching, pl.LightningDataModule, subclass_mode_data=True, save_config_callback=None, args=arguments
    )
    assert len(cli.datamodule.coreset) == 10
    stored = json.loads((tmp_path / "coresets" / "coreset.json").read_text())
    assert stored["manifest"]["method"] == "dq_v2"
    assert max(stored["indices"]) >= 20
