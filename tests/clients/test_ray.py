"""Ray Train: its workers, its strategy and its environment around Lightning's trainer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_coreset import CoresetDataModule
from tests.helpers.lightning_parts import DigitsSource, LinearNet, quiet_trainer

ray = pytest.importorskip("ray", reason="ray is not installed: tox run -e ray")

pytestmark = [pytest.mark.clients, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
# One whose classes are dealt to workers, one over the whole pool, whose rows are.
METHODS = ("subzerocore", "k_center")


def wrapped(method: str) -> tuple[LinearNet, CoresetDataModule]:
    torch.manual_seed(0)
    module = LinearNet()
    return module, CoresetDataModule(DigitsSource(), method=method, ratio=0.1, features=module.body)


def fit_on_a_worker(config: dict[str, Any]) -> None:
    """What Ray starts on each worker: nothing of it knows of coresets but the wrapping."""
    import ray.train
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer

    rank, root = ray.train.get_context().get_world_rank(), Path(config["root"])
    trainer = prepare_trainer(
        quiet_trainer(root, devices="auto", strategy=RayDDPStrategy(), plugins=[RayLightningEnvironment()])
    )
    module, datamodule = wrapped(config["method"])
    trainer.fit(module, datamodule=datamodule)
    assert datamodule.coreset is not None
    told = {
        "indices": datamodule.coreset.indices.tolist(),
        "weights": datamodule.coreset.weights.tolist(),
        "world_size": trainer.world_size,
        "batches": trainer.num_training_batches,
    }
    (root / f"rank_{rank}.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def cluster() -> Any:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("method", METHODS)
def test_two_workers_give_the_answer_of_a_run_without_ray(method: str, tmp_path: Path) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    for name in ("ray", "alone", "storage"):
        (tmp_path / name).mkdir()
    TorchTrainer(
        fit_on_a_worker,
        train_loop_config={"method": method, "root": str(tmp_path / "ray")},
        # Half a core each: the trainer itself takes one, and there are two.
        scaling_config=ScalingConfig(num_workers=2, use_gpu=False, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(storage_path=str(tmp_path / "storage"), name=method),
    ).fit()

    module, datamodule = wrapped(method)
    quiet_trainer(tmp_path / "alone").fit(module, datamodule=datamodule)
    workers = [json.loads((tmp_path / "ray" / f"rank_{rank}.json").read_text()) for rank in range(2)]
    for told in workers:
        assert told["indices"] == datamodule.coreset.indices.tolist()
        assert told["weights"] == datamodule.coreset.weights.tolist()
        # 60 items, dealt out to two workers in batches of 16.
        assert (told["world_size"], told["batches"]) == (2, 2)
