"""Writes what tests compare with pytorch-metric-learning: values and gradients of losses.

Needs torch, pytorch-metric-learning and numpy, and is run only to make the file anew:

    python benchmarks/golden_losses.py

tests/golden/pytorch_metric_learning.npz, in float64: the value of each loss and its gradient by the
embeddings before they are normalised, and by its centers. The embeddings and labels are those of
tests/golden/losses.npz; centers and class sizes are drawn here.
"""

import pathlib
from collections.abc import Iterator

import numpy as np
import torch
from pytorch_metric_learning import losses, miners

FOLDER = pathlib.Path(__file__).parents[1] / "tests" / "golden"
CASES = ("balanced", "uneven")
CENTERS = 3


def pair_losses() -> Iterator[tuple[str, torch.nn.Module, torch.nn.Module | None]]:
    """Yields the name, the loss and the miner of each loss of pairs."""
    yield "circle", losses.CircleLoss(m=0.4, gamma=80), None
    yield "circle_face", losses.CircleLoss(m=0.25, gamma=256), None
    yield "circle_mined", losses.CircleLoss(), miners.MultiSimilarityMiner(epsilon=0.1)


def values_of_pairs(raw: torch.Tensor, labels: torch.Tensor) -> Iterator[tuple[str, np.ndarray]]:
    """Yields name/value and name/grad of each loss of pairs."""
    for name, loss, miner in pair_losses():
        value = loss(raw, labels, miner(raw, labels) if miner else None)
        (gradient,) = torch.autograd.grad(value, raw)
        yield f"{name}/value", value.detach().numpy()
        yield f"{name}/grad", gradient.numpy()


def values_of_centers(
    raw: torch.Tensor, labels: torch.Tensor, centers: np.ndarray, sizes: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields name/value, name/grad and name/centers_grad of each loss of centers [C, K, D]."""
    num_classes, _, dim = centers.shape
    of = {"num_classes": num_classes, "embedding_size": dim, "scale": 64}
    # Ha et al. 2020, section 2.2. It has no margin by class, but takes one for each image.
    margins = torch.tensor(0.5 * sizes**-0.25 + 0.05)[labels]
    cases = (
        ("sub_center_arcface", losses.SubCenterArcFaceLoss(**of, sub_centers=CENTERS), 0.5),
        ("dynamic_arcface", losses.ArcFaceLoss(**of), margins),
        ("dynamic_sub_center_arcface", losses.SubCenterArcFaceLoss(**of), margins),
    )
    for name, loss, loss.margin in cases:
        num_centers = getattr(loss, "sub_centers", 1)
        columns = torch.tensor(centers[:, :num_centers].reshape(-1, dim).T)
        loss.W = torch.nn.Parameter(columns.contiguous())
        value = loss(raw, labels)
        by_raw, by_centers = torch.autograd.grad(value, [raw, loss.W])
        yield f"{name}/value", value.detach().numpy()
        yield f"{name}/grad", by_raw.numpy()
        yield f"{name}/centers_grad", by_centers.T.reshape(num_classes, num_centers, dim).numpy()


def main() -> None:
    """Writes the file."""
    given, rng = np.load(FOLDER / "losses.npz"), np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}
    for case in CASES:
        embeddings, labels = given[f"{case}/embeddings"], given[f"{case}/labels"]
        num_classes = int(labels.max()) + 1
        centers = rng.standard_normal((num_classes, CENTERS, embeddings.shape[1]))
        sizes = rng.integers(1, 1000, num_classes)
        raw = torch.tensor(embeddings, dtype=torch.float64, requires_grad=True)
        classes = torch.tensor(labels, dtype=torch.int64)
        values = dict(values_of_pairs(raw, classes))
        values |= dict(values_of_centers(raw, classes, centers, sizes))
        values |= {"centers": centers, "class_sizes": sizes}
        found |= {f"{case}/{name}": value for name, value in values.items()}
    np.savez_compressed(FOLDER / "pytorch_metric_learning.npz", allow_pickle=False, **found)


if __name__ == "__main__":
    main()
