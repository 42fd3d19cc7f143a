"""A vision transformer as PyTorch users have it, that of transformers: the peer of ours."""

import torch
import transformers
from torch import nn

from dcjax.models import pixel_statistics, vit


class Embedder(nn.Module):
    """From uint8 images [n, h, w, 3] to L2-normalised embeddings [n, D] of the class token."""

    def __init__(self, backbone: str, size: int, dimension: int) -> None:
        super().__init__()
        width, depth, heads = vit.SIZES[backbone]
        config = transformers.ViTConfig(
            image_size=size,
            patch_size=16,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
        )
        self.backbone = transformers.ViTModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(0.01)
        self.embedding = nn.Linear(width, dimension)
        for name, values in pixel_statistics.KNOWN["imagenet"]._asdict().items():
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns embeddings [n, D]."""
        x = (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        x = self.backbone(x).last_hidden_state[:, 0]
        with torch.autocast(x.device.type, enabled=False):  # as ours, in float32 from here on
            return nn.functional.normalize(self.embedding(self.dropout(x.float())))
