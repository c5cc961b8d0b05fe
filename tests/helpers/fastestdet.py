"""FastestDet in torchvision's form, for the COCO weights in the folder of real data.

The network of github.com/dog-qiuqiu/FastestDet (BSD-3-Clause), written anew from its description.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, roi_align

SIDE = 352
_OVERLAP = 0.45
_LOWEST = 0.001


def conv1x1(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Conv1x1(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1x1 = conv1x1(inputs, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        return self.conv1x1(rows)


class Head(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv5x5 = nn.Sequential(
            nn.Conv2d(inputs, inputs, 5, padding=2, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, rows: Tensor) -> Tensor:
        return self.conv5x5(rows)


class Unit(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = outputs // 2
        self.stride = stride
        taken = inputs if stride == 2 else inputs // 2
        self.branch_main = nn.Sequential(
            nn.Conv2d(taken, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.Conv2d(middle, outputs - inputs if stride == 2 else middle, 1, bias=False),
            nn.BatchNorm2d(outputs - inputs if stride == 2 else middle),
            nn.ReLU(),
        )
        if stride == 2:
            self.branch_proj = nn.Sequential(
                nn.Conv2d(inputs, inputs, 3, 2, 1, groups=inputs, bias=False),
                nn.BatchNorm2d(inputs),
                nn.Conv2d(inputs, inputs, 1, bias=False),
                nn.BatchNorm2d(inputs),
                nn.ReLU(),
            )

    def forward(self, rows: Tensor) -> Tensor:
        if self.stride == 2:
            return torch.cat([self.branch_proj(rows), self.branch_main(rows)], dim=1)
        return torch.cat([rows[:, ::2], self.branch_main(rows[:, 1::2])], dim=1)


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for name, inputs, outputs, units in (("stage2", 24, 48, 4), ("stage3", 48, 96, 8), ("stage4", 96, 192, 4)):
            rest = [Unit(outputs, outputs, 1) for _ in range(units - 1)]
            setattr(self, name, nn.Sequential(Unit(inputs, outputs, 2), *rest))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        second = self.stage2(self.maxpool(self.first_conv(images)))
        third = self.stage3(second)
        return second, third, self.stage4(third)


class SPP(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.Conv1x1 = Conv1x1(inputs, width)
        for row in (1, 2, 3):
            steps: list[nn.Module] = []
            for _ in range(row):
                steps += [nn.Conv2d(width, width, 5, 1, 2, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            setattr(self, f"S{row}", nn.Sequential(*steps))
        self.output = nn.Sequential(nn.Conv2d(3 * width, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, rows: Tensor) -> Tensor:
        rows = self.Conv1x1(rows)
        joined = torch.cat([self.S1(rows), self.S2(rows), self.S3(rows)], dim=1)
        return torch.relu(rows + self.output(joined))


class DetectHead(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1x1 = Conv1x1(width, width)
        self.obj_layers = Head(width, 1)
        self.reg_layers = Head(width, 4)
        self.cls_layers = Head(width, classes)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = self.conv1x1(rows)
        return self.obj_layers(rows).sigmoid(), self.reg_layers(rows), self.cls_layers(rows).softmax(dim=1)


class FastestDet(nn.Module):
    """A list of images ``[3, H, W]`` in [0, 1] in, a dict for each out; label 1 is the first class."""

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.SPP = SPP(336, 96)
        self.detect_head = DetectHead(96, classes)
        self.avg_pool = nn.AvgPool2d(3, 2, 1)

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        sized = [nn.functional.interpolate(image[None].flip(1), (SIDE, SIDE), mode="bilinear") for image in images]
        second, third, fourth = self.backbone(torch.cat(sized))
        doubled = nn.functional.interpolate(fourth, scale_factor=2.0, mode="nearest")
        maps = self.SPP(torch.cat([self.avg_pool(second), third, doubled], dim=1))
        found = zip(*self.detect_head(maps), maps, images, strict=True)
        return [self.decoded(*one) for one in found]

    def decoded(
        self, objectness: Tensor, regression: Tensor, classes: Tensor, rows: Tensor, image: Tensor
    ) -> dict[str, Tensor]:
        side = objectness.shape[-1]
        best, labels = classes.max(dim=0)
        scores = (objectness[0] ** 0.6 * best**0.4).flatten()
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        center = (regression[:2].tanh() + torch.stack([x, y])) / side
        half = regression[2:].sigmoid() / 2
        shares = torch.cat([center - half, center + half]).flatten(1).T.clamp(0, 1)
        height, width = image.shape[-2:]
        boxes = shares * shares.new_tensor([width, height, width, height])
        labels = labels.flatten()
        # Ties of scores to the first cell.
        order = torch.argsort(scores, descending=True, stable=True)
        order = order[scores[order] > _LOWEST]
        kept = order[batched_nms(boxes[order], scores[order], labels[order], _OVERLAP)]
        pooled = roi_align(rows[None], [shares[kept] * SIDE], 7, side / SIDE, sampling_ratio=2).mean(dim=(2, 3))
        return {"boxes": boxes[kept], "labels": labels[kept] + 1, "scores": scores[kept], "features": pooled}


def load_fastestdet(folder: Path) -> tuple[FastestDet, list[str]]:
    """The detector with its COCO weights, and the names of its classes."""
    model = FastestDet()
    state = torch.load(folder / "weights" / "fastestdet_coco80.pt", weights_only=True)
    model.load_state_dict(state)
    names = (folder / "weights" / "coco80_names.txt").read_text().split("\n")
    return model.eval(), [name.strip() for name in names if name.strip()]
