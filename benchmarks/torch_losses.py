"""The peers' losses: pytorch-metric-learning's, and what it lacks in plain PyTorch."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from pytorch_metric_learning import losses, miners, reducers, regularizers

_Apply = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_CENTERS = 10


class Peer(NamedTuple):
    """A loss as PyTorch has it.

    Attributes:
      apply: function (embeddings[B, D], labels[B]) -> scalar. It normalises the embeddings.
      params: what is trained, with classes in rows: [classes, D] or [classes, centers, D].
      load: function (values of params) that replaces them.
    """

    apply: _Apply
    params: Sequence[torch.Tensor]
    load: Callable[[np.ndarray], None]


def create(name: str, num_classes: int, dim: int) -> Peer:
    """Returns the peer called name, with the settings of configs/default.py."""
    if name in _PAIRS:
        return Peer(_PAIRS[name](), (), lambda _: None)
    loss = _PROXIES[name](num_classes, dim)
    (param,) = loss.parameters()

    def load(values: np.ndarray) -> None:
        rows = torch.tensor(values[:num_classes].reshape(-1, dim))
        param.data = (rows if param.shape == rows.shape else rows.T).contiguous()

    return Peer(loss, (param,), load)


def with_memory(embeddings: np.ndarray, labels: np.ndarray, size: int) -> Peer:
    """Returns the contrastive loss beside a memory of so many embeddings, filled with these."""
    memory = losses.CrossBatchMemory(_PAIRS["ContrastiveLoss"](), embeddings.shape[1], size)
    memory.add_to_memory(torch.from_numpy(embeddings), torch.from_numpy(labels), len(labels))
    return Peer(memory, (), lambda _: None)


def _mined(loss: torch.nn.Module, miner: torch.nn.Module) -> _Apply:
    return lambda x, labels: loss(x, labels, miner(x, labels))


def _triplet(**options: object) -> torch.nn.Module:
    return losses.TripletMarginLoss(reducer=reducers.MeanReducer(), **options)


def _semi_hard(margin: float) -> torch.nn.Module:
    return miners.TripletMarginMiner(margin=margin, type_of_triplets="semihard")


def _recall_at_k(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns 1 - smooth recall at k (Patel et al. 2022, eq. 5 to 7); see `ranks.recall_at_k`."""
    x = torch.nn.functional.normalize(x)
    similarities, ks = x @ x.T, torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    itself = torch.eye(len(x), dtype=torch.bool)
    positives = (labels[:, None] == labels[None, :]) & ~itself
    above = torch.sigmoid((similarities[:, None, :] - similarities[:, :, None]) / 0.01)
    ranks = 1 + above.masked_fill(itself[:, None, :] | itself, 0).sum(dim=2)
    found = torch.sigmoid(ks - ranks[:, :, None]) * positives[:, :, None]
    return 1 - (found.sum(dim=1) / positives.sum(dim=1)[:, None].clamp(max=ks)).mean()


def _soft_triple(num_classes: int, dim: int, *, regularised: bool = True) -> torch.nn.Module:
    # The regulariser compares all centers with all: 40 GB at 10,000 classes.
    regulariser = (
        regularizers.SparseCentersRegularizer(num_classes, _CENTERS) if regularised else None
    )
    return losses.SoftTripleLoss(
        num_classes,
        dim,
        centers_per_class=_CENTERS,
        la=20,
        gamma=0.1,
        margin=0.01,
        weight_regularizer=regulariser,
        weight_reg_weight=0.2,
    )


_PAIRS: dict[str, Callable[[], _Apply]] = {
    "MarginLoss, DistanceWeightedMiner": lambda: _mined(
        losses.MarginLoss(margin=0.2, beta=1.2),
        miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4),
    ),
    "TripletMarginLoss, TripletMarginMiner": lambda: _mined(_triplet(margin=0.2), _semi_hard(0.2)),
    "TripletMarginLoss": lambda: _triplet(margin=0.2),
    "TripletMarginLoss, smooth, TripletMarginMiner": lambda: _mined(
        _triplet(margin=0.0, smooth_loss=True), _semi_hard(0.2)
    ),
    "TripletMarginLoss, smooth": lambda: _triplet(margin=0.0, smooth_loss=True),
    "SupConLoss, temperature 1": lambda: losses.SupConLoss(temperature=1.0),
    "SupConLoss": lambda: losses.SupConLoss(temperature=0.1),
    "ContrastiveLoss": lambda: losses.ContrastiveLoss(pos_margin=0.0, neg_margin=1.0),
    "MultiSimilarityLoss, MultiSimilarityMiner": lambda: _mined(
        losses.MultiSimilarityLoss(alpha=2.0, beta=50.0, base=0.5),
        miners.MultiSimilarityMiner(epsilon=0.1),
    ),
    "CircleLoss": lambda: losses.CircleLoss(m=0.4, gamma=80),
    "SmoothAPLoss": lambda: losses.SmoothAPLoss(temperature=0.01),
    "plain PyTorch": lambda: _recall_at_k,
}
_PROXIES: dict[str, Callable[[int, int], torch.nn.Module]] = {
    "ProxyNCALoss": lambda n, dim: losses.ProxyNCALoss(n, dim, softmax_scale=1.0),
    "ProxyAnchorLoss": lambda n, dim: losses.ProxyAnchorLoss(n, dim, margin=0.1, alpha=32),
    "NormalizedSoftmaxLoss": lambda n, dim: losses.NormalizedSoftmaxLoss(n, dim, temperature=0.05),
    "CosFaceLoss": lambda n, dim: losses.CosFaceLoss(n, dim, margin=0.35, scale=64),
    "ArcFaceLoss": lambda n, dim: losses.ArcFaceLoss(n, dim, margin=math.degrees(0.5), scale=64),
    "SubCenterArcFaceLoss": lambda n, dim: losses.SubCenterArcFaceLoss(
        num_classes=n, embedding_size=dim, margin=math.degrees(0.5), scale=64, sub_centers=3
    ),
    "SoftTripleLoss": _soft_triple,
    "SoftTripleLoss, no regulariser": lambda n, dim: _soft_triple(n, dim, regularised=False),
}
