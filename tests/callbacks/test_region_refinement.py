"""RegionRefinement: steps and metrics see refined logits, and nothing is left behind, whatever happens."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor, nn

from lightning_coreset import RegionRefinement
from lightning_coreset.regions import HCSConfig, from_module, refine
from tests.helpers.lightning_parts import quiet_trainer
from tests.regions.models import CONFIG, SIZE, Counting, Frozen, Segmenting, WithEmbedding, images_and_labels, loader


def expected(net: nn.Module | None = None, config: HCSConfig = CONFIG) -> Tensor:
    return refine(images_and_labels()[0], Counting() if net is None else net, config, input_size=SIZE).logits


def untouched(module: pl.LightningModule) -> bool:
    return not any("forward" in vars(part) or "classify" in vars(part) for part in module.modules())


def test_metrics_inside_the_users_test_step_are_of_refined_logits(tmp_path: Path) -> None:
    module, callback = Frozen(), RegionRefinement(CONFIG, input_size=SIZE)
    logged = quiet_trainer(tmp_path, callbacks=[callback]).test(module, loader(), verbose=False)[0]
    torch.testing.assert_close(torch.cat(module.seen), expected())
    labels = images_and_labels()[1]
    accuracy = (expected().argmax(1) == labels).float().mean().item()
    whole = refine(images_and_labels()[0], Counting(), CONFIG, input_size=SIZE)
    assert logged["accuracy"] == pytest.approx(accuracy)
    assert logged["regions/accuracy"] == pytest.approx(accuracy)
    assert logged["regions/accuracy_whole"] == pytest.approx(whole.accuracy(labels)[0])
    assert logged["regions/forwards"] == 1 + 4 + 8
    assert logged["regions/gated"] == 0
    assert logged["regions/area"] == pytest.approx(whole.area.mean().item())
    assert callback.summary["forwards"] == 13
    assert callback.summary["accuracy"] == pytest.approx(accuracy)
    assert untouched(module)


def test_predictions_are_refined_and_regions_attached(tmp_path: Path) -> None:
    module = Frozen()
    trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE, attach=True)])
    found = trainer.predict(module, loader())
    torch.testing.assert_close(torch.cat([batch["logits"] for batch in found]), expected())
    assert found[1]["regions/boxes"].shape == (2, 3, 4)
    assert set(found[0]) == {"logits", *(f"regions/{name}" for name in ("boxes", "weights", "area", "logits_whole"))}
    plain = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE)]).predict(module, loader())
    assert set(plain[0]) == {"logits"}


def test_twice_in_a_row_and_between_stages(tmp_path: Path) -> None:
    module = Frozen()
    trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE)])
    for _ in range(2):
        trainer.test(module, loader(), verbose=False)
        trainer.predict(module, loader())
    for batches in (module.seen[start : start + 2] for start in range(0, 8, 2)):
        torch.testing.assert_close(torch.cat(batches), expected())
    assert untouched(module)
    torch.testing.assert_close(module(images_and_labels()[0]), Counting()(images_and_labels()[0]))


@pytest.mark.parametrize(
    ("target", "through"),
    [("forward", "forward"), ("net", "forward"), ("net.forward", "forward"), ("classify", "classify")],
)
def test_any_callable_of_the_module_is_a_target(tmp_path: Path, target: str, through: str) -> None:
    module = Frozen(through=through)
    trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE, target=target)])
    trainer.test(module, loader(), verbose=False)
    torch.testing.assert_close(torch.cat(module.seen), expected())
    assert untouched(module)


def test_a_target_that_calls_itself_is_entered_once(tmp_path: Path) -> None:
    class Calling(Frozen):
        def forward(self, images: Tensor) -> Tensor:
            # Tiles of its own, each through itself.
            return self(images[:, :, :8, :8]) if images.shape[-1] > 8 else self.net(images)

    module = Calling()
    trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE)])
    trainer.test(module, loader(), verbose=False)
    assert trainer.callbacks[0].summary["forwards"] == 13
    assert untouched(module)


class TestPutBack:
    @pytest.mark.parametrize("stage", ["test", "predict"])
    def test_after_an_exception_of_the_user(self, tmp_path: Path, stage: str) -> None:
        module = Frozen(fails_at=1)
        states, modes = [], []
        for callbacks in ([], [RegionRefinement(CONFIG, input_size=SIZE)]):
            torch.manual_seed(0)
            trainer = quiet_trainer(tmp_path, callbacks=callbacks)
            with pytest.raises(RuntimeError, match="a step of the user's fails"):
                getattr(trainer, stage)(module, loader())
            states.append(torch.get_rng_state())
            # Lightning does not put modes back after an exception; neither do we change them.
            modes.append([part.training for part in module.modules()])
        assert torch.equal(*states)
        assert modes[0] == modes[1]
        assert untouched(module)
        module.fails_at = None
        module.seen.clear()
        trainer.test(module, loader(), verbose=False)
        torch.testing.assert_close(torch.cat(module.seen), expected())
        assert untouched(module)

    def test_after_an_exception_of_the_model_in_a_region(self, tmp_path: Path) -> None:
        class Broken(Counting):
            def forward(self, images: Tensor) -> Tensor:
                logits = super().forward(images)
                return logits * torch.nan if len(self.calls) > 2 else logits

        module = Frozen(Broken())
        trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE)])
        with pytest.raises(ValueError, match="logits are NaN"):
            trainer.test(module, loader(), verbose=False)
        assert untouched(module)

    def test_the_objects_own_forward_comes_back_too(self, tmp_path: Path) -> None:
        module = Frozen()
        own = module.net.forward
        module.net.forward = own
        trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE, target="net")])
        trainer.test(module, loader(), verbose=False)
        assert vars(module.net)["forward"] is own

    def test_statistics_and_weights_stay(self, tmp_path: Path) -> None:
        net = nn.Sequential(nn.BatchNorm2d(3), Counting())
        before = {name: value.clone() for name, value in net.state_dict().items()}
        trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE)])
        trainer.test(Frozen(net), loader(), verbose=False)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class TestStages:
    def test_only_the_stages_that_were_asked_for(self, tmp_path: Path) -> None:
        module = Frozen()
        trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE, stages=("predict",))])
        trainer.test(module, loader(), verbose=False)
        torch.testing.assert_close(torch.cat(module.seen), Counting()(images_and_labels()[0]))

    def test_validation_outside_of_a_fit(self, tmp_path: Path) -> None:
        module = Frozen()
        trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE, stages=("validate",))])
        trainer.validate(module, loader(), verbose=False)
        torch.testing.assert_close(torch.cat(module.seen), expected())
        assert untouched(module)


class TestForms:
    def test_a_tuple_of_embedding_and_logits(self, tmp_path: Path) -> None:
        module = Frozen(WithEmbedding())
        trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE)])
        trainer.test(module, loader(), verbose=False)
        found = refine(images_and_labels()[0], WithEmbedding(), CONFIG, input_size=SIZE)
        torch.testing.assert_close(torch.cat([logits for _, logits in module.seen]), found.logits)
        torch.testing.assert_close(torch.cat([rows for rows, _ in module.seen]), found.embedding)

    def test_a_mapping_with_logits(self, tmp_path: Path) -> None:
        class Mapped(Counting):
            def forward(self, images: Tensor) -> Any:
                return {"logits": super().forward(images), "hidden": images}

        module = Frozen(Mapped())
        trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE)])
        found = trainer.predict(module, loader())
        torch.testing.assert_close(torch.cat([batch["logits"]["logits"] for batch in found]), expected())
        assert set(found[0]["logits"]) == {"logits"}, "what else it gives is of crops"

    def test_segmentation(self, tmp_path: Path) -> None:
        module = Frozen(Segmenting())
        trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE)])
        trainer.test(module, loader(), verbose=False)
        torch.testing.assert_close(torch.cat(module.seen), expected(Segmenting()), rtol=1e-4, atol=1e-4)

    def test_images_that_are_too_small_get_the_models_own_answer_and_one_warning(self, tmp_path: Path) -> None:
        module = Frozen()
        trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE)])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            logged = trainer.test(module, loader(side=SIZE), verbose=False)[0]
        assert logged["regions/gated"] == 1
        own = [Counting()(images) for images in images_and_labels(side=SIZE)[0].split(4)]
        assert all(torch.equal(one, other) for one, other in zip(module.seen, own, strict=True))
        assert sum("no larger than the model's input" in str(one.message) for one in caught) == 1


class TestPrecisionAndCompilation:
    @pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
    def test_the_trainers_precision_is_that_of_the_regions(self, tmp_path: Path, precision: str) -> None:
        module = Frozen()
        trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE)], precision=precision)
        trainer.test(module, loader(), verbose=False)
        wanted = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16, "64-true": torch.float64}[precision]
        assert module.seen[0].dtype == wanted
        torch.testing.assert_close(torch.cat(module.seen).float(), expected(), rtol=0.2, atol=0.5)

    @pytest.mark.parametrize("what", ["module", "part"])
    def test_compiled_modules(self, tmp_path: Path, what: str) -> None:
        module = Frozen()
        given: Any = module
        if what == "module":
            given = torch.compile(module, backend="eager")
        else:
            module.net = torch.compile(module.net, backend="eager")
        callback = RegionRefinement(CONFIG, input_size=SIZE, target="net" if what == "part" else "forward")
        trainer = quiet_trainer(tmp_path, callbacks=[callback])
        for _ in range(2):
            trainer.test(given, loader(), verbose=False)
            torch.testing.assert_close(torch.cat(module.seen), expected())
            module.seen.clear()
        # A compiled module has a forward of its own.
        assert not any(hasattr(vars(part).get("forward"), "refines") for part in module.modules())


class TestInputSize:
    def test_an_example_input_array_tells_it(self, tmp_path: Path) -> None:
        module = Frozen()
        module.example_input_array = torch.zeros(1, 3, SIZE, SIZE)
        quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG)]).test(module, loader(), verbose=False)
        torch.testing.assert_close(torch.cat(module.seen), expected())

    def test_a_timm_configuration_tells_it_and_a_timm_part_shows_its_map(self, tmp_path: Path) -> None:
        import timm

        net = timm.create_model("resnet10t", num_classes=5, pretrained=False).eval()
        net.pretrained_cfg = net.default_cfg = {**net.default_cfg, "input_size": (3, 32, 32)}
        module, callback = Frozen(net), RegionRefinement(target="net")
        quiet_trainer(tmp_path, callbacks=[callback]).test(module, loader(side=128), verbose=False)
        assert callback.last.engine == "scan"
        found = refine(images_and_labels(side=128)[0], from_module(net, input_size=32))
        torch.testing.assert_close(torch.cat(module.seen), found.logits, rtol=1e-3, atol=1e-4)

    def test_an_adapter_of_ones_own(self, tmp_path: Path) -> None:
        module = Frozen()
        callback = RegionRefinement(
            HCSConfig(engine="dense"),
            adapter=lambda call, part: from_module(part.net, input_size=SIZE, call=call, probe=True),
        )
        quiet_trainer(tmp_path, callbacks=[callback]).test(module, loader(), verbose=False)
        assert callback.last.engine == "dense"
        assert untouched(module)


REFUSED = [
    ({"target": "nett"}, r"target='nett' is no callable of Frozen: .*\['net'"),
    ({"target": "fails_at"}, "target='fails_at' is no callable"),
    ({"target": "net.nothing.forward"}, "target='net.nothing.forward' is no callable"),
    ({"input_size": None}, r"neither example_input_array nor a timm configuration; give RegionRefinement\(input_size="),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_refused_when_a_stage_starts(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, **({"input_size": SIZE} | given))])
    with pytest.raises(ValueError, match=message) as caught:
        trainer.test(Frozen(), loader(), verbose=False)
    assert "\n" not in str(caught.value)


def test_two_refinements_of_one_target_are_refused(tmp_path: Path) -> None:
    module = Frozen()
    trainer = quiet_trainer(tmp_path, callbacks=[RegionRefinement(CONFIG, input_size=SIZE) for _ in range(2)])
    with pytest.raises(ValueError, match="replaced by another RegionRefinement"):
        trainer.test(module, loader(), verbose=False)
    assert untouched(module)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stages": ("fit",)}, r"stages=\('fit',\) is not accepted"),
        ({"stages": "test"}, "stages='test' is not accepted"),
        ({"stages": ()}, r"stages=\(\) is not accepted"),
        ({"input_size": 0}, "input_size=0 is not accepted"),
        ({"levels": "all"}, "levels='all' is not accepted"),
        ({"config": HCSConfig(analysis=True)}, "analysis=True is not accepted in a callback"),
    ],
)
def test_refused_at_once(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegionRefinement(**given)


def test_levels_override_the_configs() -> None:
    assert RegionRefinement(CONFIG, levels=((4, 2),)).config.levels == ((4, 2),)
    assert RegionRefinement(CONFIG, levels="auto").config.levels == "auto"
    assert RegionRefinement().config == HCSConfig()


def test_a_command_line_knows_it_by_its_bare_name(tmp_path: Path) -> None:
    from lightning.pytorch.cli import LightningCLI

    arguments = ["--trainer.callbacks+=RegionRefinement", "--trainer.callbacks.levels=[[4, 6], [8, 8]]"]
    arguments += ["--trainer.callbacks.input_size=32", "--trainer.callbacks.attach=true", "--trainer.logger=false"]
    cli = LightningCLI(BoringModel, args=arguments, run=False, save_config_callback=None)
    found = next(one for one in cli.trainer.callbacks if isinstance(one, RegionRefinement))
    assert found.config.levels == [[4, 6], [8, 8]] or found.config.levels == [(4, 6), (8, 8)]
    assert found.input_size == (32, 32)
    assert found.attach


@pytest.mark.ddp
def test_one_and_two_ranks_agree(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "scripts" / "ddp_regions.py"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    answers = []
    for ranks in ("1", "2"):
        command = [sys.executable, str(script), ranks, str(tmp_path / ranks)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        answers.append([torch.load(tmp_path / ranks / f"{rank}.pt", weights_only=True) for rank in range(int(ranks))])
    alone, together = answers
    for rank, answer in enumerate(together):
        torch.testing.assert_close(answer["logits"], alone[0]["logits"][rank::2])
        torch.testing.assert_close(answer["boxes"], alone[0]["boxes"][rank::2])
        assert answer["logged"] == pytest.approx(alone[0]["logged"], rel=1e-5)
