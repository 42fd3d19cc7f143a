"""Training steps and embedding as PyTorch users write them: the peer that ours is timed beside."""

from typing import Any

import torch
import torch_resnet
from compare import Job
from pytorch_metric_learning import losses, miners
from random_images import random_batches
from torch import nn

from dcjax.models import vit


def train(
    backbone: str,
    num_stages: int,
    dimension: int,
    *,
    precision: str,
    size: int,
    batch_size: int,
    repeats: int,
) -> Job:
    """Prepares steps with pytorch-metric-learning's margin loss and miner, and Adam."""
    images, labels = map(torch.from_numpy, random_batches(size, batch_size, repeats))
    model, device = _network(backbone, num_stages, dimension, size)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # frozen statistics; scale and shift are trained, as ours
    miner = miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4)
    loss = losses.MarginLoss(margin=0.2, beta=1.2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, weight_decay=1e-4)
    labels = labels.to(device)

    def job() -> None:
        for batch in images:
            optimizer.zero_grad()
            with _autocast(device, precision):
                embeddings = model(batch.to(device))
            value = loss(embeddings, labels, miner(embeddings, labels))
            value.backward()
            optimizer.step()
        value.item()

    return job


def embed(
    backbone: str,
    num_stages: int,
    dimension: int,
    *,
    precision: str,
    size: int,
    batch_size: int,
    repeats: int,
) -> Job:
    """Prepares the embedding of batches, which come back to the host."""
    images: Any = torch.from_numpy(random_batches(size, batch_size, repeats)[0])
    model, device = _network(backbone, num_stages, dimension, size)
    model.eval()

    def job() -> None:
        with torch.inference_mode(), _autocast(device, precision):
            for batch in images:
                model(batch.to(device)).cpu().numpy()

    return job


def _network(
    backbone: str, num_stages: int, dimension: int, size: int
) -> tuple[nn.Module, torch.device]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if backbone in vit.SIZES:
        import torch_vit  # transformers takes seconds to import, which ResNets do without

        return torch_vit.Embedder(backbone, size, dimension).to(device), device
    return torch_resnet.Embedder(backbone, num_stages, dimension).to(
        device, memory_format=torch.channels_last
    ), device


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
