"""A vision transformer as PyTorch users have it, timm's: the peer that ours is timed beside."""

import timm
import torch
from torch import nn

from dcjax.models import pixel_statistics

# Ours: timm's network of the same size, with patches of 16 pixels.
NETWORKS = {
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "vit_large": "vit_large_patch16_224",
}


class Embedder(nn.Module):
    """From uint8 images [n, h, w, 3] to L2-normalised embeddings [n, D] of the class token."""

    def __init__(self, backbone: str, size: int, dimension: int) -> None:
        super().__init__()
        self.backbone = timm.create_model(NETWORKS[backbone], num_classes=0, img_size=size)
        self.dropout = nn.Dropout(0.01)
        self.embedding = nn.Linear(self.backbone.num_features, dimension)
        for name, values in pixel_statistics.KNOWN["imagenet"]._asdict().items():
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns embeddings [n, D]."""
        x = (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        x = self.backbone(x)
        with torch.autocast(x.device.type, enabled=False):  # as ours, in float32 from here on
            return nn.functional.normalize(self.embedding(self.dropout(x.float())))
