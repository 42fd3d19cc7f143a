"""Writes what tests compare with PyTorch: outputs of ResNets, and files of torch.save.

Needs torch and numpy, nothing else, and is run only to make the files anew:

    PYTHONPATH=tests python benchmarks/golden_resnet.py

tests/golden/resnet.npz: outputs of each stage of torchvision's ResNet-18 and ResNet-50 (v1.5),
computed in float64. The weights and images are not there; tests draw the same ones
(`published.draw`, `published.images`).

tests/golden/torch_zip.pth, torch_legacy.pth: one state dict in both formats of torch.save.
"""

import pathlib
from collections.abc import Iterator

import numpy as np
import published
import torch
from torch import nn
from torch.nn import functional

GOLDEN = pathlib.Path(__file__).parents[1] / "tests" / "golden"
NETWORKS = ("resnet18", "resnet50")
SIZES = (64, 65)  # pixels
NUM_CHANNELS = 8  # whose whole maps are kept; of the others, the means


class Block(nn.Module):
    """A residual block with torchvision's names: basic or bottleneck, the stride on a 3 x 3."""

    def __init__(self, kind: str, channels: int, width: int, stride: int) -> None:
        super().__init__()
        wide = width if kind == "basic" else 4 * width
        if kind == "basic":
            self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, wide, 3, 1, 1, bias=False)
        else:
            self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            self.conv3 = nn.Conv2d(width, wide, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(wide)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1 or channels != wide:
            conv = nn.Conv2d(channels, wide, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(wide))
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds the branch to the shortcut."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.kind == "bottleneck":
            y = self.bn3(self.conv3(functional.relu(y)))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """torchvision's network."""

    def __init__(self, name: str) -> None:
        super().__init__()
        kind, stage_sizes = published.BLOCKS[name]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, num_blocks in enumerate(stage_sizes):
            width, blocks = 64 * 2**stage, []
            for index in range(num_blocks):
                stride = 2 if stage and not index else 1
                blocks.append(Block(kind, channels, width, stride))
                channels = width if kind == "basic" else 4 * width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, 1000)

    def stages(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yields the output of each stage, [n, channels, h, w]."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            yield x


def stage_outputs() -> dict[str, np.ndarray]:
    """Returns, by network/size/stage: maps [h, w, NUM_CHANNELS] and means [channels]."""
    found = {}
    for name in NETWORKS:
        net = ResNet(name).eval()
        weights = published.draw(published.shapes(name))
        net.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
        net = net.double()
        for size in SIZES:
            x = torch.from_numpy(published.images(size)).double().permute(0, 3, 1, 2)
            with torch.no_grad():
                outputs = [y[0].permute(1, 2, 0).numpy() for y in net.stages(x)]
            for stage, y in enumerate(outputs, 1):
                print(f"{name} {size} layer{stage} {y.shape} mean {y.mean():.3f} std {y.std():.3f}")
                key = f"{name}/{size}/layer{stage}"
                every = y.shape[-1] // NUM_CHANNELS
                found[f"{key}/maps"] = y[..., ::every].astype(np.float32)
                found[f"{key}/means"] = y.mean((0, 1)).astype(np.float32)
    return found


def state_dict() -> dict[str, torch.Tensor]:
    """Returns a tensor of every kind that a reader has to know; element i of a storage is i - 4."""
    count = torch.arange(24) - 4
    shared = count.float()
    kinds = ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8")
    return {kind: count.to(getattr(torch, kind)) for kind in kinds} | {
        "uint8": (count + 4).to(torch.uint8),
        "bool": count > 0,
        "parameter": nn.Parameter(count.float().reshape(4, 6)),
        "scalar": torch.tensor(-4.0),
        "empty": torch.zeros(0, 3),
        "transposed": count.float().reshape(2, 3, 4).permute(2, 0, 1),
        "view.front": shared[:6].reshape(2, 3),
        "view.every_third": shared[7::3],
        "expanded": shared[5].expand(3),
    }


def main() -> None:
    """Writes the files."""
    np.savez_compressed(GOLDEN / "resnet.npz", allow_pickle=False, **stage_outputs())
    torch.save(state_dict(), GOLDEN / "torch_zip.pth")
    legacy = {"epoch": 3, "state_dict": state_dict(), "optimizer": {"state": {0: [None, 0.9]}}}
    torch.save(legacy, GOLDEN / "torch_legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
