"""ResNet v1.5 as PyTorch users write it: the peer that training is timed beside."""

import torch
from torch import nn

from dcjax.models import pixel_statistics

# Blocks of each stage.
BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}


class _Block(nn.Module):
    """A block of torchvision's ResNet v1.5, with two 3x3 convolutions or a bottleneck."""

    def __init__(self, channels: int, width: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        layers = (
            [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
            if bottleneck
            else [(width, 3, stride), (width, 3, 1)]
        )
        modules: list[nn.Module] = []
        out = channels
        for features, size, step in layers:
            modules += _conv_norm(out, features, size, step) + [nn.ReLU(inplace=True)]
            out = features
        self.residual = nn.Sequential(*modules[:-1])
        same = stride == 1 and channels == out
        self.shortcut = nn.Sequential(*([] if same else _conv_norm(channels, out, 1, stride)))
        self.channels = out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu_(self.residual(x) + self.shortcut(x))


def _conv_norm(channels: int, features: int, size: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, features, size, stride, padding=size // 2, bias=False)
    return [conv, nn.BatchNorm2d(features)]


class Embedder(nn.Module):
    """From uint8 images [n, h, w, 3] to L2-normalised embeddings [n, D]."""

    def __init__(self, backbone: str, num_stages: int, dimension: int) -> None:
        super().__init__()
        layers = [*_conv_norm(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)]
        channels, blocks = 64, BLOCKS[backbone]
        for stage, number in enumerate(blocks[: num_stages or len(blocks)]):
            for index in range(number):
                stride = 2 if stage > 0 and index == 0 else 1
                bottleneck = backbone in {"resnet50", "resnet101"}
                block = _Block(channels, 64 * 2**stage, stride, bottleneck=bottleneck)
                layers.append(block)
                channels = block.channels
        self.backbone = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.01)
        self.embedding = nn.Linear(channels, dimension)
        for name, values in pixel_statistics.KNOWN["imagenet"]._asdict().items():
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns embeddings [n, D]."""
        x = (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        x = self.backbone(x.contiguous(memory_format=torch.channels_last))
        with torch.autocast(x.device.type, enabled=False):  # as ours, in float32 from here on
            x = self.dropout(x.float().mean(dim=(2, 3)))
            return nn.functional.normalize(self.embedding(x))
