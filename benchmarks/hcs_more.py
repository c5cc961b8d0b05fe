"""What `hcs` measures beside mosaics: street scenes, harm on photographs, time, a token map."""

import io
import json
import statistics
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.common import example, interleaved, mean_and_spread, show
from benchmarks.hcs_methods import REFINEMENTS, fused
from benchmarks.hcs_networks import Memory, load
from benchmarks.hcs_scenes import KINDS, Tiles, cifar10_tiles, normalized, resisc12_tiles, scenes
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.regions import Adapter, HCSConfig, from_module, refine
from lightning_coreset.regions.lattice import lattice_boxes
from lightning_coreset.regions.views import TensorScenes, resized

STREET, STREET_INPUT = (180, 240), (48, 64)
CLASSES, IGNORED = 11, 11
# ImageNet classes that are the things of voc5, as the README of the weights counts them.
_IMAGENET = {
    "car": (436, 468, 511, 609, 627, 656, 661, 705, 717, 734, 751, 817, 864),
    "cat": (281, 282, 283, 284, 285),
    "train": (466, 547, 565, 705, 820, 829),
    "bus": (654, 779, 874),
}
_CIFAR = {"car": 1, "cat": 3}


def read_streets(folder: Path, part: str, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Frames ``[N, 3, 180, 240]`` in [0, 1] and their masks."""
    with zipfile.ZipFile(folder / "camvid" / "camvid.zip") as files:
        names = sorted(one for one in files.namelist() if one.startswith(f"{part}/images/"))[:count]

        def opened(name: str) -> np.ndarray:
            return np.asarray(Image.open(io.BytesIO(files.read(name))))

        frames = np.stack([opened(name) for name in names])
        masks = np.stack([opened(name.replace("/images/", "/masks/").replace(".jpg", ".png")) for name in names])
    return torch.tensor(frames).permute(0, 3, 1, 2).float() / 255, torch.tensor(masks).long()


class SmallUNet(nn.Module):
    """Three scales, some 120,000 weights."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(3, width), _block(width, 2 * width), _block(2 * width, 4 * width)])
        self.up = nn.ModuleList([_block(6 * width, 2 * width), _block(3 * width, width)])
        self.last = nn.Conv2d(width, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of each pixel."""
        first = self.down[0](images)
        second = self.down[1](nn.functional.max_pool2d(first, 2))
        third = self.down[2](nn.functional.max_pool2d(second, 2))
        second = self.up[0](torch.cat([nn.functional.interpolate(third, second.shape[2:]), second], dim=1))
        return self.last(self.up[1](torch.cat([nn.functional.interpolate(second, first.shape[2:]), first], dim=1)))


def _block(incoming: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (incoming, channels):
        layers += [nn.Conv2d(width, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


def trained_segmenter(frames: Tensor, masks: Tensor, steps: int, seed: int = 0) -> SmallUNet:
    """A segmenter for inputs of 48 x 64, trained on whole frames and on parts of them, at random scales."""
    torch.manual_seed(seed)
    network = SmallUNet().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    generator = seeded_generator("streets", seed)
    for _ in range(steps):
        inputs, wanted = [], []
        for item in torch.randint(len(frames), (16,), generator=generator).tolist():
            zoom = 1 + 2.75 * float(torch.rand(1, generator=generator)) ** 2
            height, width = round(STREET[0] / zoom), round(STREET[1] / zoom)
            y, x = (
                int(torch.randint(whole - side + 1, (1,), generator=generator))
                for whole, side in zip(STREET, (height, width), strict=True)
            )
            part = frames[item : item + 1, :, y : y + height, x : x + width]
            mask = masks[item : item + 1, None, y : y + height, x : x + width].float()
            inputs.append(resized(part, STREET_INPUT))
            wanted.append(nn.functional.interpolate(mask, STREET_INPUT, mode="nearest").long().squeeze(1))
        logits = network(normalized(torch.cat(inputs)))
        loss = nn.functional.cross_entropy(logits, torch.cat(wanted), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def dice(said: Tensor, masks: Tensor) -> float:
    """Mean Dice over the classes that occur, each over the whole split, in percent."""
    seen = masks != IGNORED
    scores = []
    for number in range(CLASSES):
        truth, found = (masks == number) & seen, (said == number) & seen
        if bool(truth.any()):
            scores.append(200 * float((truth & found).sum()) / float(truth.sum() + found.sum()))
    return statistics.mean(scores)


def _grey_squares(images: Tensor, seed: int, share: float = 0.3, side: int = 20) -> Tensor:
    covered = images.clone()
    rows, columns = -(-images.shape[2] // side), -(-images.shape[3] // side)
    for number, image in enumerate(covered):
        order = torch.randperm(rows * columns, generator=seeded_generator("grey", seed, number))
        for place in order[: round(share * rows * columns)].tolist():
            y, x = (place // columns) * side, (place % columns) * side
            image[:, y : y + side, x : x + side] = 0
    return covered


def segmentation(folder: Path, given: Any) -> None:
    """Dice on CamVid: the whole view, and regions of it pasted back, by what chooses them."""
    steps, tested = (20, 10) if given.quick else (1500, None)
    frames, masks = read_streets(folder, "train", 20 if given.quick else None)
    images, truth = read_streets(folder, "test", tested)
    configs = {
        "whole view": None,
        "default": HCSConfig(levels=((4, 6),)),
        "default, automatic levels": HCSConfig(),
        "default + w_ro 0.65": HCSConfig(levels=((4, 6),), w_ro=0.65),
        "random regions": HCSConfig(levels=((4, 6),), select="random"),
        "literal terms": HCSConfig.paper(levels=((4, 6),), eps=None),
        "all 16 regions": HCSConfig(levels=((4, 16),)),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in configs}
    for seed in range(1 if given.quick else given.seeds):
        network = trained_segmenter(frames, masks, steps, seed)
        for name, config in configs.items():
            cells = []
            for scene in (normalized(images), _grey_squares(normalized(images), seed)):
                maps = []
                for part in scene.split(32):
                    refined = refine(part, network, config or HCSConfig(levels=((1, 1),)), input_size=STREET_INPUT)
                    maps.append((refined.logits_whole if config is None else refined.logits).argmax(1))
                cells.append(dice(torch.cat(maps), truth))
            found[name].append((cells[0], cells[1]))
    base = found["whole view"]
    rows = []
    for name, runs in found.items():
        row: list[object] = [name]
        for column in range(2):
            values = [run[column] for run in runs]
            gains = [run[column] - other[column] for run, other in zip(runs, base, strict=True)]
            row += [mean_and_spread(values, 1), mean_and_spread(gains, 2)]
        rows.append(row)
    note = (
        f"Mean Dice of 11 classes in percent on the {len(images)} frames of the test split (240 x 180), a U-Net of "
        f"{sum(p.numel() for p in SmallUNet().parameters()):,} weights with an input of 64 x 48 that was trained on "
        f"frames and parts of them, {len(base)} seeds; 4 x 4 regions, 6 kept, alpha 0.5."
    )
    header = ["regions", "clean", "less whole", "30 % grey", "less whole"]
    show("HCS, CamVid, regions pasted back", note, header, rows, given.append)


def harm(folder: Path, given: Any) -> None:
    """Photographs in which one thing fills the frame: gated, and what would happen without the gate."""
    with zipfile.ZipFile(folder / "voc5" / "voc5.zip") as files:
        listed = json.loads(files.read("annotations/val.json"))
        names = {one["id"]: one["file_name"] for one in listed["images"]}
        kinds = {one["id"]: one["name"] for one in listed["categories"]}
        largest: dict[int, tuple[float, str]] = {}
        for one in listed["annotations"]:
            area = one["bbox"][2] * one["bbox"][3]
            largest[one["image_id"]] = max(largest.get(one["image_id"], (0.0, "")), (area, kinds[one["category_id"]]))
        chosen = [number for number, (_, kind) in sorted(largest.items()) if kind in _IMAGENET]
        chosen = chosen[: 6 if given.quick else 120]
        pictures = [
            torch.tensor(np.asarray(Image.open(io.BytesIO(files.read(f"images/{names[number]}"))).convert("RGB")))
            for number in chosen
        ]
    photographs = [normalized(picture.permute(2, 0, 1).unsqueeze(0).float() / 255) for picture in pictures]
    network = _imagenet_squeezenet(folder)
    own, same = [], 0
    with torch.no_grad(), warnings.catch_warnings():
        # Some sides are no larger than 224 pixels, of which refine warns.
        warnings.simplefilter("ignore")
        for number, photograph in zip(chosen, photographs, strict=True):
            said = network(photograph)
            same += torch.equal(refine(photograph, network, input_size=224).logits, said)
            own.append(int(said.argmax(1)) in _IMAGENET[largest[number][1]])
    count = len(chosen)
    rows: list[list[object]] = [
        ["SqueezeNet, 224 px, voc5", count, _percent(own), "gated", f"{same} of {count} the same bits"]
    ]
    cifar = load("resnet20", folder, given.cache / "hcs")
    drawn = torch.randperm(len(cifar.tiles.images), generator=seeded_generator("harm"))[: 6 if given.quick else 200]
    wide = nn.functional.interpolate(cifar.tiles.images[drawn], (256, 256), mode="bilinear")
    own_photographs = [
        (normalized(image.unsqueeze(0)), int(cifar.tiles.labels[item])) for item, image in zip(drawn, wide, strict=True)
    ]
    foreign = [
        (photograph, _CIFAR[largest[number][1]])
        for number, photograph in zip(chosen, photographs, strict=True)
        if largest[number][1] in _CIFAR
    ]
    for words, pictured in (("CIFAR-10 at 256 px", own_photographs), ("voc5, cars and cats", foreign)):
        for name in ("crop, hierarchical", "crop, lattice", "scan"):
            config, maps = REFINEMENTS[name]
            before, after = [], []
            for photograph, label in pictured:
                refined = refine(photograph, Memory(cifar).adapter(maps), config)
                before.append(int(cifar.encode(resized(photograph, (32, 32)))[1].argmax(1)) == label)
                after.append(int(refined.logits.argmax(1)) == label)
            rows.append([f"ResNet-20, 32 px, {words}", len(pictured), _percent(before), name, _percent(after)])
    note = (
        "Top-1 in percent of the whole view, and of regions that are switched on although one thing fills the frame. "
        "voc5: photographs of the val split whose largest box is a car, cat, train or bus, longest side 320; ImageNet "
        "classes that fit count as right, and for CIFAR-10 automobile and cat."
    )
    header = ["network and photographs", "n", "whole view", "engine", "regions"]
    show("HCS, harm on photographs", note, header, rows, given.append)


def _percent(right: list[bool]) -> str:
    return f"{100 * statistics.mean(right):.1f}"


def _imagenet_squeezenet(folder: Path) -> nn.Module:
    from torchvision.models import squeezenet1_0

    network = squeezenet1_0(weights=None)
    state = torch.load(folder / "weights" / "squeezenet1_0_imagenet_fp16.pt", weights_only=True)
    network.load_state_dict({name: values.float() for name, values in state.items()})
    return network.eval().to(memory_format=torch.channels_last)


def cost(folder: Path, given: Any) -> None:
    """Time as a ratio to the forwards it is made of, interleaved."""
    network = example.ResNet20()
    network.load_state_dict(torch.load(folder / "weights" / "cifar_resnet20_jpeg.pt", weights_only=True))
    network = network.eval().to(memory_format=torch.channels_last)
    adapter = from_module(network, input_size=32, probe=True)
    images = torch.randn(4, 3, 256, 256, generator=seeded_generator("cost")).contiguous(
        memory_format=torch.channels_last
    )
    crop = torch.randn(1, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        seconds = interleaved(
            {
                "one forward": lambda: [network(crop) for _ in range(41)],
                "native pass": lambda: adapter.features(images),
                "hierarchical": lambda: refine(images, network, HCSConfig(search="hierarchical"), input_size=32),
                "lattice": lambda: refine(images, network, HCSConfig(search="lattice"), input_size=32),
                "dense": lambda: refine(images, adapter, HCSConfig.fast()),
                "scan": lambda: refine(images, adapter, HCSConfig(engine="scan")),
            },
            1 if given.quick else 7,
        )
    best = {name: min(some) for name, some in seconds.items()}
    rows = [
        [name, f"{1e3 * best[name] / 4:.1f}", f"{best[name] / 4 / floor:.2f}", words, bound]
        for name, floor, words, bound in (
            ("hierarchical", best["one forward"], "41 x one forward", "1.25"),
            ("lattice", best["one forward"], "41 x one forward", "1.25"),
            ("dense", best["native pass"] / 4, "native pass", "1.30"),
            ("scan", best["native pass"] / 4, "native pass", ""),
        )
    ]
    note = "ResNet-20, 4 scenes of 256 px at once, one thread, best of 7 rounds; crops go through in batches."
    show("HCS, time", note, ["engine", "ms a scene", "ratio", "to", "bound"], rows, given.append)


def transformer(folder: Path, given: Any) -> None:
    """Whether `scan` holds on the token map of a small ViT trained here."""
    epochs = 1 if given.quick else 12
    with np.load(folder / "cifar10" / "cifar10_train.npz") as arrays:
        data, cut, labels = arrays["jpeg"], arrays["offsets"], torch.tensor(arrays["labels"].astype(np.int64))
    count = 500 if given.quick else 20_000
    pictures = [np.asarray(Image.open(io.BytesIO(data[cut[i] : cut[i + 1]].tobytes()))) for i in range(count)]
    train = normalized(torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255)
    torch.manual_seed(0)
    settings = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 3, "num_classes": 10}
    network = timm.models.VisionTransformer(**settings, global_pool="avg", dynamic_img_size=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    steps = epochs * (count // 100)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    generator = seeded_generator("vit")
    for _ in range(steps):
        drawn = torch.randint(count, (100,), generator=generator)
        batch = train[drawn]
        batch = torch.where((torch.rand(100, 1, 1, 1, generator=generator) < 0.5), batch.flip(3), batch)
        y, x = torch.randint(9, (2,), generator=generator).tolist()
        batch = nn.functional.pad(batch, (4, 4, 4, 4))[:, :, y : y + 32, x : x + 32]
        loss = nn.functional.cross_entropy(network(batch), labels[drawn], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    images, truth = cifar10_tiles(folder)
    with torch.no_grad():
        single = torch.cat([network(part).argmax(1) for part in normalized(images[:2000]).split(200)])
    accuracy = 100 * float((single == truth[:2000]).float().mean())
    clutter, _, _ = resisc12_tiles(folder, "test", 32)
    tiles = Tiles(images, truth, clutter, 10)
    found = from_module(network, input_size=32)
    adapter = found if found.features is not None else Adapter(network, input_size=(32, 32))
    rows = []
    scenes_each = 4 if given.quick else 40
    for kind in KINDS:
        wide, right = scenes(tiles, kind, "unaligned", 10, scenes_each)
        answers: dict[str, Tensor] = {}
        for name, (config, maps) in REFINEMENTS.items():
            if name in ("scan", "dense", "crop, hierarchical", "crop, lattice") and (not maps or adapter.features):
                answers[name] = torch.cat([refine(part, adapter, config).logits for part in wide.split(10)])
        boxes = lattice_boxes(72, (256, 256), (32, 32))
        view = TensorScenes(wide)
        with torch.no_grad():
            places = torch.arange(len(wide)).repeat_interleave(72)
            crops = view.crops(places, boxes.repeat(len(wide), 1), (32, 32))
            said = torch.cat([network(part) for part in crops.split(144)]).unflatten(0, (len(wide), 72))
        answers["quasi-random 72, most certain"] = fused(said, 72)["random 72, most certain"]
        cells = {name: float((said.argmax(1) == right).float().mean()) for name, said in answers.items()}
        rows.append([kind, *(f"{100 * value:.1f}" for value in cells.values())])
        header = ["kind", *cells]
    note = (
        f"A ViT of 4 layers, width 96, patches of 4 pixels, trained here on {count:,} images of CIFAR-10 for {epochs} "
        f"epochs: {accuracy:.1f} % of single tiles. Top-1 in percent, {scenes_each} unaligned scenes a kind, one seed. "
        "Its map are the patch tokens of a pass over the whole scene, positions interpolated."
    )
    show("HCS, a transformer's token map", note, header, rows, given.append)
