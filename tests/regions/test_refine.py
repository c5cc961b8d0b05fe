"""Laws of a refinement: honest counts, no dependence on chunks and batches, finite whatever comes."""

import warnings
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_coreset.regions import Adapter, HCSConfig, Refinement, refine
from lightning_coreset.regions.fusion import fuse_regions
from lightning_coreset.regions.refinement import covered_share
from lightning_coreset.regions.search import Kept
from tests.regions.models import Counting, Segmenting, WithEmbedding, scenes

HIERARCHICAL = HCSConfig(search="hierarchical")
CONFIGS = {
    "hierarchical": HIERARCHICAL,
    "lattice": HCSConfig(search="lattice"),
    "greedy": HCSConfig(select="greedy"),
    "k_center": HCSConfig(select="k_center"),
    "facility_location": HCSConfig(select="facility_location"),
    "herding": HCSConfig(select="herding"),
    "random": HCSConfig(select="random"),
    "paper": HCSConfig.paper(),
    "robust": HCSConfig(w_ro=0.65, search="hierarchical"),
    "robust lattice": HCSConfig(w_ro=0.65),
    "exhaustive": HCSConfig(exhaustive=True),
    "mask": HCSConfig(engine="mask"),
    "overlap": HCSConfig(overlap=0.25),
    "best": HCSConfig(fuse="best", normalize="minmax", search="hierarchical"),
    "prob": HCSConfig(fuse="prob", search="hierarchical"),
    "scan": HCSConfig(engine="scan"),
    "scan by loss": HCSConfig(engine="scan", scan_weight="loss", scan_sy=0.8),
    "dense": HCSConfig.fast(),
}


def run(images: Tensor, model: nn.Module, config: HCSConfig, size: int = 8, **given: Any) -> Refinement:
    maps = {"features": model.features, "head": model.linear}
    return refine(
        images, model, config, input_size=size, **(maps if config.engine in ("scan", "dense") else {}), **given
    )


def assert_same(one: Refinement, other: Refinement, rows: slice = slice(None)) -> None:
    torch.testing.assert_close(other.logits, one.logits[rows], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other.logits_whole, one.logits_whole[rows], rtol=1e-4, atol=1e-4)
    assert torch.equal(other.boxes, one.boxes[rows])
    torch.testing.assert_close(other.weights, one.weights[rows], rtol=1e-4, atol=1e-4)
    assert torch.equal(other.area, one.area[rows])


class TestCounts:
    @pytest.mark.parametrize(
        ("zoom", "config", "forwards"),
        [
            (8, HIERARCHICAL, 41),
            (8, HCSConfig(search="lattice"), 41),
            (8, HCSConfig(w_ro=0.65), 81),
            (8, HCSConfig(w_ro=0.65, search="hierarchical"), 81),
            (4, HIERARCHICAL, 17),
            (2, HIERARCHICAL, 5),
            (16, HIERARCHICAL, 73),
            (8, HCSConfig(exhaustive=True), 65),
            (8, HCSConfig(engine="mask"), 42),
            (8, HCSConfig(max_forwards=30), 29),
        ],
        ids=str,
    )
    def test_forwards_are_what_a_hook_counts(self, zoom: int, config: HCSConfig, forwards: int) -> None:
        model, seen = Counting(), []
        model.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
        found = run(scenes(3, 8 * zoom), model, config)
        assert found.n_forwards == found.n_pixels == forwards
        assert sum(seen) == 3 * forwards
        assert found.n_calls == len(seen)

    def test_a_chunk_bounds_every_call(self) -> None:
        model = Counting()
        found = run(scenes(3), model, HCSConfig(search="hierarchical", chunk=10))
        assert max(model.calls) == 10
        assert found.n_calls == len(model.calls) == 1 + 5 + 8

    @pytest.mark.parametrize(("engine", "calls", "pixels"), [("scan", 2, 72), ("dense", 1, 64)])
    def test_one_pass_at_native_resolution_and_a_second_look(self, engine: str, calls: int, pixels: int) -> None:
        model, passes = Counting(), []
        model.convolution.register_forward_hook(lambda _module, inputs, _output: passes.append(tuple(inputs[0].shape)))
        found = run(scenes(1), model, HCSConfig(engine=engine))
        assert len(passes) == found.n_calls == calls
        assert found.n_pixels == sum(shape[0] * shape[2] * shape[3] for shape in passes) / 64 == pixels
        assert found.n_forwards == 1 + sum(model.calls)

    def test_an_adapter_of_many_calls_counts_them_and_max_forwards_holds_them(self) -> None:
        adapter = Adapter(Counting(), input_size=(8, 8), cost=3)
        found = refine(scenes(1), adapter, HCSConfig(max_forwards=60))
        assert found.n_forwards == 3 * 17


@pytest.mark.parametrize("name", CONFIGS)
class TestLaws:
    def test_chunks_and_batches_change_nothing(self, name: str) -> None:
        images, config = scenes(5), CONFIGS[name]
        whole = run(images, WithEmbedding() if name != "mask" else Counting(), config)
        model = WithEmbedding() if name != "mask" else Counting()
        changed = {field: getattr(config, field) for field in config.__dataclass_fields__} | {"chunk": 7}
        assert_same(whole, run(images, model, HCSConfig(**changed)))
        for start, stop in ((0, 1), (1, 4), (4, 5)):
            assert_same(whole, run(images[start:stop], model, config), slice(start, stop))

    def test_the_parts_agree(self, name: str) -> None:
        found = run(scenes(3, 72, 64), Counting(), CONFIGS[name])
        kept = (found.boxes[..., 2] > found.boxes[..., 0]).sum(dim=1)
        torch.testing.assert_close(found.weights.sum(dim=1), torch.ones(3))
        assert (found.weights > 0).sum(dim=1).le(kept).all()
        assert (found.boxes >= 0).all()
        assert (found.boxes <= torch.tensor([64, 72, 64, 72])).all()
        torch.testing.assert_close(found.mask.float().mean((1, 2)), found.area)
        assert found.heatmap.shape == found.mask.shape == (3, 72, 64)
        assert 0 <= found.heatmap.min() <= found.heatmap.max() <= 1
        assert found.depth == len(found.terms)
        assert not found.gated
        assert not found.analysis
        for level in found.terms:
            # Scenes that stopped early have no candidates here.
            there = (level["boxes"][..., 2] > 0) & ~level["score"].isnan().all(dim=1, keepdim=True)
            assert all(torch.isfinite(term[there]).all() for term in level.values() if term.ndim == 2)

    def test_labels_change_nothing(self, name: str) -> None:
        images, labels = scenes(2), torch.tensor([1, 2])
        assert_same(run(images, Counting(), CONFIGS[name]), run(images, Counting(), CONFIGS[name], labels=labels))

    @pytest.mark.parametrize("bias", [torch.zeros(5), torch.tensor([100.0, 0, 0, 0, 0])], ids=["uniform", "no loss"])
    def test_what_says_nothing_is_finite_and_silent(self, name: str, bias: Tensor) -> None:
        class Constant(Counting):
            def forward(self, images: Tensor) -> Tensor:
                return bias.expand(len(images), -1)

        model = Constant()
        model.linear.weight.data.zero_()
        model.linear.bias.data.copy_(bias)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = run(scenes(2), model, CONFIGS[name])
        expected = bias.log_softmax(0).expand(2, -1)
        # Classes whose probability underflows stay finite.
        torch.testing.assert_close(found.logits.softmax(1), expected.exp(), rtol=1e-4, atol=1e-4)
        assert torch.isfinite(found.logits).all()

    @pytest.mark.parametrize("kind", ["one class", "bfloat16", "odd", "batch of one"])
    def test_corners_are_finite_and_silent(self, name: str, kind: str) -> None:
        model = Counting(classes=1 if kind == "one class" else 5)
        images = scenes(1 if kind == "batch of one" else 2, *((67, 73) if kind == "odd" else (64, 64)))
        if kind == "bfloat16":
            model, images = model.bfloat16(), images.bfloat16()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = run(images, model, CONFIGS[name])
        assert torch.isfinite(found.logits).all()
        assert found.logits.dtype == found.logits_whole.dtype == images.dtype

    def test_no_random_state_is_used_and_no_mode_is_left(self, name: str) -> None:
        model = Counting()
        model.linear.eval()
        model.convolution.train()
        model.training = True
        torch.manual_seed(3)
        state = torch.get_rng_state()
        one = run(scenes(2), model, CONFIGS[name])
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(5)
        assert_same(one, run(scenes(2), model, CONFIGS[name]))
        assert (model.training, model.convolution.training, model.linear.training) == (True, True, False)


@pytest.mark.parametrize("levels", [((1, 1),), (((1, 3), 1), ((2, 6), 4)), ((3, 9),)], ids=str)
def test_grids_of_any_form(levels: Any) -> None:
    found = run(scenes(2, 50, 90), Counting(), HCSConfig(levels=levels))
    assert found.boxes.shape[1] == levels[-1][1]
    if levels == ((1, 1),):
        torch.testing.assert_close(found.logits, found.logits_whole)
        assert found.area.tolist() == [1, 1]


@pytest.mark.parametrize(("grid", "same"), [(4, True), (3, False)], ids=["equal cells", "unequal cells"])
def test_the_area_term_acts_only_where_regions_differ_in_it(grid: int, same: bool) -> None:
    none, much = (run(scenes(4), Counting(), HCSConfig(levels=((grid, 5),), lam=lam)) for lam in (0.0, 100.0))
    assert torch.equal(none.boxes, much.boxes) == same


def test_greedy_keeps_what_raises_the_set() -> None:
    found = run(scenes(4), Counting(), HCSConfig(select="greedy"))
    assert (found.weights > 0).sum(dim=1).lt(8).any(), "it stops where nothing helps"
    assert (found.weights > 0).sum(dim=1).ge(1).all()
    alone = run(scenes(4)[:1], Counting(), HCSConfig(select="greedy", max_levels=1))
    best = alone.terms[0]["score"].argmax().item()
    assert alone.terms[0]["kept"][0, best], "the first pick is the best one"


def test_equal_regions_are_taken_from_the_lowest() -> None:
    flat = torch.ones(1, 3, 64, 64)
    found = run(flat, Counting(), HCSConfig(levels=((4, 3),)))
    assert found.terms[0]["kept"][0].nonzero().flatten().tolist() == [0, 1, 2]


def test_a_thing_is_found_and_named() -> None:
    images = torch.zeros(1, 3, 64, 64)
    images[:, 2, 24:32, 40:48] = 8
    for config in (HIERARCHICAL, HCSConfig(exhaustive=True, fuse="best")):
        found = refine(images, lambda crops: crops.mean((2, 3)), config, input_size=8)
        assert found.logits.argmax().item() == 2
        assert found.mask[0, 24:32, 40:48].all()
        assert found.heatmap[0, 28, 44] == 1


def test_saliency_says_where_to_begin() -> None:
    images = scenes(2)
    corner = torch.zeros(64, 64)
    corner[:32, :32] = 1
    for saliency in (corner, corner.expand(2, 64, 64), lambda images: corner):
        found = run(images, Counting(), HCSConfig(levels=((4, 4), (8, 8)), saliency=saliency))
        assert (found.boxes[..., 2:] <= 32).all()
    assert (run(images, Counting(), HCSConfig(engine="scan", saliency=corner, keep=2)).boxes[..., :2] < 32).all()


def test_a_scorer_takes_the_place_of_the_terms() -> None:
    found = run(scenes(2), WithEmbedding(), HCSConfig(levels=((4, 3),), scorer=lambda rows: rows[:, 0], w_ro=0.65))
    assert found.n_forwards == 17, "the perturbed pass is what a scorer saves"
    best = found.terms[0]["score"].topk(3).indices.sort().values
    assert torch.equal(found.terms[0]["kept"].nonzero()[:, 1].view(2, 3), best)


def test_what_noise_does_not_change_answers_in_a_lattice() -> None:
    images, model = scenes(3), WithEmbedding()
    plain, robust = (run(images, model, HCSConfig(w_ro=weight, noise=0.5)) for weight in (0.0, 100.0))
    assert plain.engine == robust.engine == "crop"
    term = robust.terms[0]["ro"]
    assert torch.equal(robust.terms[0]["kept"].nonzero()[:, 1], term.argmax(dim=1)), "nearly the only term"
    assert torch.equal(plain.terms[0]["kept"].nonzero()[:, 1], plain.terms[0]["loss"].argmin(dim=1))
    assert ((term > 0) & (term <= 1)).all()


@pytest.mark.parametrize(
    "config", [HCSConfig(search="lattice"), HCSConfig(engine="scan", keep=1, heard=0)], ids=["lattice", "scan"]
)
def test_the_surest_of_many_sure_regions_is_found(config: HCSConfig) -> None:
    model = Counting()
    # Logits so far apart that losses are far below rounding.
    model.linear.weight.data *= 6
    found = run(scenes(4), model, config)
    kept, loss = found.terms[0]["kept"], found.terms[0]["loss"]
    assert (loss.topk(5, dim=1, largest=False).values < 1e-6).all()
    assert torch.equal(kept.nonzero()[:, 1], loss.argmin(dim=1))


class TestSecondLook:
    def test_crops_correct_the_map_and_energies_weigh(self) -> None:
        images, model, config = scenes(3, 72, 64), Counting(), HCSConfig(engine="scan")
        found = run(images, model, config)
        maps = model.features(images)
        for image, (boxes, weights, logits) in enumerate(zip(found.boxes, found.weights, found.logits, strict=True)):
            crops, windows = boxes[: config.keep].tolist(), boxes[config.keep :].tolist()
            cut = [images[image, :, y0:y1, x0:x1] for x0, y0, x1, y1 in crops]
            small = [nn.functional.interpolate(one[None], (8, 8), mode="bilinear", antialias=True) for one in cut]
            said = torch.cat([model(one) for one in small]).double()
            # A cell of the map is two pixels wide.
            pooled = [
                maps[image, :, y0 // 2 : y1 // 2, x0 // 2 : x1 // 2].mean((1, 2)) for x0, y0, x1, y1 in boxes.tolist()
            ]
            read = model.linear(torch.stack(pooled)).double()
            off = (said - read[: len(crops)]).mean(dim=0)
            heard = read[len(crops) :] + off
            assert len(windows) == config.heard
            together = torch.cat([said, heard])
            expected = (together.logsumexp(dim=1) / 4).softmax(dim=0)
            torch.testing.assert_close(weights.double(), expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                logits.softmax(0).double(), expected @ together.softmax(dim=1), rtol=1e-4, atol=1e-5
            )

    def test_an_offset_of_the_map_changes_nothing_that_is_heard(self) -> None:
        images, model = scenes(2), Counting()
        config = HCSConfig(engine="scan", keep=4, heard=3)
        shift = torch.linspace(-1, 1, model.linear.out_features)

        def biased(rows: Tensor) -> Tensor:
            return model.linear(rows) + shift

        # The first ranking reads the map as it is: all windows of a flat loss are as good as each other.
        flat = replace(config, loss=lambda logits: torch.zeros(len(logits), dtype=logits.dtype))
        plain = refine(images, model, flat, input_size=8, features=model.features, head=model.linear)
        other = refine(images, model, flat, input_size=8, features=model.features, head=biased)
        torch.testing.assert_close(other.logits, plain.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other.weights, plain.weights, rtol=1e-4, atol=1e-4)

    def test_without_energy_the_loss_weighs(self) -> None:
        logits = torch.tensor([[8.0, 0.0], [1.0, 0.5]])
        scores = torch.tensor([-0.1, -0.9])
        kept = Kept(torch.zeros(2, 4), scores, logits.log_softmax(dim=1), None)
        weights = fuse_regions(kept, "prob", 0.25, None, energy_tau=4.0)[1]
        torch.testing.assert_close(weights, (scores / 0.25).softmax(0), check_dtype=False)

    def test_a_strong_voice_outweighs_many_faint_sure_ones(self) -> None:
        strong, faint = torch.tensor([[20.0, 0.0, 9.0]]), torch.tensor([[-30.0, 0.0, -30.0]])
        kept = Kept(torch.zeros(6, 4), torch.zeros(6), torch.cat([strong, faint.expand(5, -1)]), None)
        assert fuse_regions(kept, "prob", 0.25, None, energy_tau=4.0)[0].argmax() == 0
        assert fuse_regions(kept, "prob", 0.25, None)[0].argmax() == 1

    def test_forbidden_classes_stay_forbidden(self) -> None:
        class Forbidding(Counting):
            def forward(self, images: Tensor) -> Tensor:
                return super().forward(images).index_fill(1, torch.tensor([1]), -torch.inf)

        model = Forbidding()

        def head(rows: Tensor) -> Tensor:
            return model.linear(rows).index_fill(1, torch.tensor([1]), -torch.inf)

        found = refine(scenes(2), model, HCSConfig(engine="scan"), input_size=8, features=model.features, head=head)
        assert not torch.isnan(found.logits).any()
        assert (found.logits.softmax(1)[:, 1] < 1e-9).all()


def test_features_are_fused_before_the_head() -> None:
    model = WithEmbedding()
    found = refine(scenes(2), model, HCSConfig(fuse="feature"), input_size=8, head=model.linear)
    torch.testing.assert_close(found.logits, model.linear(found.embedding), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="fuse='feature' needs a model that gives"):
        refine(scenes(2), Counting(), HCSConfig(fuse="feature"), input_size=8)


class TestAnalysis:
    def test_the_truth_leaks_and_is_marked(self) -> None:
        images, labels = scenes(30), torch.arange(30) % 5
        knowing = run(images, Counting(), HCSConfig(analysis=True, fuse="best"), labels=labels)
        assert knowing.analysis
        before, after = knowing.accuracy()
        honest = run(images, Counting(), HIERARCHICAL, labels=labels)
        assert not honest.analysis
        assert after > honest.accuracy()[1]
        assert before == honest.accuracy()[0]

    def test_without_labels_it_is_refused(self) -> None:
        with pytest.raises(ValueError, match="analysis=True needs labels="):
            run(scenes(1), Counting(), HCSConfig(analysis=True))


class TestGate:
    @pytest.mark.parametrize("side", [8, 11])
    def test_small_scenes_are_the_models_own_bit_for_bit(self, side: int) -> None:
        model, images = WithEmbedding(), scenes(3, side)
        embedding, logits = model(images)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = run(images, model, HCSConfig())
        assert found.gated
        assert torch.equal(found.logits, logits)
        assert torch.equal(found.embedding, embedding)
        assert (found.depth, found.n_forwards, found.n_calls) == (0, 1, 1)
        assert found.boxes.shape == (3, 0, 4)
        assert found.heatmap.shape == (3, side, side)

    def test_images_that_were_shrunk_already_get_one_warning(self) -> None:
        with pytest.warns(UserWarning, match="8 x 8 pixels are no larger than the model's input") as caught:
            run(scenes(1, 8), Counting(), HCSConfig())
        assert len(caught) == 1

    def test_a_zoom_in_between_is_silent(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert run(scenes(1, 11), Counting(), HCSConfig()).gated


class TestSegmentation:
    def test_pixels_outside_of_the_regions_keep_the_whole_views_logits(self) -> None:
        found = refine(scenes(2), Segmenting(), HCSConfig(levels=((4, 3),)), input_size=16)
        assert found.logits.shape == found.logits_whole.shape == (2, 5, 64, 64)
        outside = ~found.mask.unsqueeze(1).expand_as(found.logits)
        assert torch.equal(found.logits[outside], found.logits_whole[outside])
        assert not torch.equal(found.logits, found.logits_whole)
        assert torch.isfinite(found.logits).all()

    def test_alpha_is_the_share_of_the_regions(self) -> None:
        images = scenes(1)
        none, half, all_of_it = (
            refine(images, Segmenting(), HCSConfig(levels=((4, 3),), alpha=alpha), input_size=16).logits.softmax(1)
            for alpha in (0.0, 0.5, 1.0)
        )
        torch.testing.assert_close(half, (none + all_of_it) / 2, rtol=1e-4, atol=1e-5)

    def test_the_importance_is_that_of_mean_losses(self) -> None:
        images, model = scenes(1), Segmenting()
        found = refine(images, model, HCSConfig(levels=((4, 3),), w_sy=0), input_size=16)
        crops = torch.nn.functional.unfold(images, 16, stride=16).view(3, 16, 16, 16).permute(3, 0, 1, 2)
        expected = torch.special.entr(model(crops).softmax(1)).sum(1).mean((1, 2))
        torch.testing.assert_close(found.terms[0]["loss"][0].float(), expected, rtol=1e-4, atol=1e-5)

    def test_batches_and_chunks_change_nothing(self) -> None:
        images = scenes(3)
        whole = refine(images, Segmenting(), HIERARCHICAL, input_size=8)
        assert_same(whole, refine(images, Segmenting(), HCSConfig(search="hierarchical", chunk=5), input_size=8))
        assert_same(whole, refine(images[1:2], Segmenting(), HIERARCHICAL, input_size=8), slice(1, 2))

    def test_what_is_of_classification_is_refused(self) -> None:
        with pytest.raises(ValueError, match="are of classification"):
            refine(scenes(1), Segmenting(), HCSConfig(loss="vote"), input_size=8)


def test_the_share_of_a_union() -> None:
    boxes = torch.randint(0, 20, (6, 5, 2), generator=torch.Generator().manual_seed(0))
    boxes = torch.cat([boxes, boxes + torch.randint(0, 9, (6, 5, 2))], dim=2)
    for scene, share in zip(boxes, covered_share(boxes, (30, 30)), strict=True):
        seen = torch.zeros(30, 30)
        for x0, y0, x1, y1 in scene.tolist():
            seen[y0:y1, x0:x1] = 1
        assert share.item() == pytest.approx(seen.mean().item())


def bad(output: Any) -> Any:
    return lambda crops: output(len(crops))


BAD_INPUT = {
    "three dimensions": (torch.zeros(3, 64, 64), None, {}, r"images have shape \[3, 64, 64\]: give \[B, C, H, W\]"),
    "whole numbers": (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), None, {}, "images are torch.uint8: give floats"),
    "a path": ("scene.tif", None, {}, "images are a str: give a tensor"),
    "no size": (scenes(1), None, {"input_size": None}, "input_size is not known"),
    "a wrong size": (scenes(1), None, {"input_size": (3, 0)}, "input_size=.* is not accepted"),
    "no callable": (scenes(1), 5, {}, "forward is a int: give a callable"),
    "a dict": (scenes(1), bad(lambda n: {"x": 1}), {}, r"gave a dict with keys \['x'\]: logits"),
    "nothing": (scenes(1), bad(lambda n: None), {}, "gave a NoneType: logits"),
    "tokens": (scenes(1), bad(lambda n: torch.zeros(n, 7, 3)), {}, r"\[1, 7, 3\] for 1 crops, no logits"),
    "class numbers": (scenes(1), bad(lambda n: torch.zeros(n, 3).long()), {}, "torch.int64.*no logits"),
    "one row": (scenes(3), bad(lambda n: torch.zeros(1, 3)), {}, r"\[1, 3\] for 3 crops, no logits"),
    "no classes": (scenes(1), bad(lambda n: torch.zeros(n, 0)), {}, "no logits"),
    "NaN": (scenes(1), bad(lambda n: torch.full((n, 3), torch.nan)), {}, "logits are NaN or infinite, first in crop 0"),
    "infinite": (scenes(1), bad(lambda n: torch.full((n, 3), torch.inf)), {}, "logits are NaN or infinite"),
    "an embedding short": (
        scenes(2),
        bad(lambda n: (torch.zeros(1, 4), torch.zeros(n, 3))),
        {},
        r"embedding is \[1, 4\] for 2 crops",
    ),
    "labels short": (scenes(2), None, {"labels": torch.zeros(1).long()}, r"labels are torch.int64 \[1\] for 2 scenes"),
    "a class too many": (
        scenes(1),
        None,
        {"labels": torch.tensor([9]), "config": HCSConfig(analysis=True)},
        "labels hold 9, but the model knows 5 classes",
    ),
    "K above": (scenes(1), None, {"config": HCSConfig(levels=((2, 5),))}, "5 regions are to be kept of the 4"),
    "finer than pixels": (scenes(1), None, {"config": HCSConfig(levels=((65, 5),))}, "finer than the pixels"),
    "no map": (scenes(1), None, {"config": HCSConfig(engine="scan")}, "engine='scan' needs a feature map"),
    "a map that is none": (
        scenes(1),
        None,
        {"config": HCSConfig(engine="scan"), "features": lambda images: images.mean(1), "head": nn.Identity()},
        r"features gave \[1, 64, 64\] for 1 scenes",
    ),
    "saliency": (scenes(1), None, {"config": HCSConfig(saliency=torch.zeros(4, 4))}, r"saliency has shape \[4, 4\]"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
@pytest.mark.filterwarnings("ignore:Cells of the")
def test_bad_input_is_one_clear_line(case: str) -> None:
    images, forward, given, message = BAD_INPUT[case]
    with pytest.raises(ValueError, match=message) as caught:
        refine(images, Counting() if forward is None else forward, **({"input_size": 8} | given))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("grid", [4, 8])
@pytest.mark.parametrize(
    "config", [HCSConfig(), HCSConfig(w_ro=0.65), HCSConfig(search="lattice")], ids=["", "ro", "R2"]
)
def test_crops_of_one_chunk_are_alive_at_a_time_however_many_regions_there_are(grid: int, config: HCSConfig) -> None:
    given: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    model = Counting()

    def forward(crops: Tensor) -> Tensor:
        given.append(weakref.ref(crops))
        alive.append(sum(len(one) for one in (ref() for ref in given) if one is not None))
        return model(crops)

    levels = "auto" if config.search == "lattice" else ((grid, 4),)
    refine(scenes(4), forward, replace(config, levels=levels, chunk=5), input_size=8)
    assert max(alive) <= 5
    assert len(given) > 4 * grid * grid / 5 or config.search == "lattice"


def test_bad_levels_are_told_before_the_model_works() -> None:
    model = Counting()
    with pytest.raises(ValueError, match="regions are to be kept"):
        refine(scenes(1), model, HCSConfig(levels=((2, 5),)), input_size=8)
    assert model.calls == []
