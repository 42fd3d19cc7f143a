"""Times the value and gradient of every loss beside pytorch-metric-learning's.

A batch of 128 embeddings of 512 numbers, four of each class, float32, with the settings of
configs/default.py and all cores. Both normalise the embeddings and differentiate by what they were
before, and by the loss's own parameters; ours also returns what a run logs. Losses of proxies have
100 and 10,000 classes. Before anything is timed, both have to give the same value wherever they
compute the same thing; where not, the table says what the peer does instead.

About five minutes on two cores; some losses by `--only`.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from compare import Job, compare

from configs import default
from dcjax.division import masks
from dcjax.experiment import parts
from dcjax.losses import Loss, memory

BATCH, DIM, IMAGES_PER_CLASS = 128, 512, 4
MEMORY = 4096  # what an image is compared with, its own batch among it


@dataclasses.dataclass(frozen=True)
class Case:
    """A loss and its peer.

    Attributes:
      loss: its name here.
      peer: its name in `torch_losses`.
      repeats: evaluations in a job, the same of both.
      changes: settings that differ from configs/default.py.
      num_classes: of the training set.
      has_memory: whether the batch is also compared with a memory.
      difference: what the peer computes instead; "": the same.
      same_with: settings with which both compute the same even so, to check values; None: none.
    """

    loss: str
    peer: str
    repeats: int = 20
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_classes: int = 100
    has_memory: bool = False
    difference: str = ""
    same_with: Mapping[str, Any] | None = None


def _cases() -> dict[str, Case]:
    band = "all triplets within the margin, not the nearest negative"
    mined = "TripletMarginMiner"
    cases = {
        "margin": Case("margin", "MarginLoss, DistanceWeightedMiner", 10, difference="other draws"),
        "triplet": Case("triplet", f"TripletMarginLoss, {mined}", difference=band),
        "triplet, all": Case("triplet", "TripletMarginLoss", changes={"loss.triplet.miner": "all"}),
        "soft_triplet": Case(
            "soft_triplet", f"TripletMarginLoss, smooth, {mined}", difference=band
        ),
        "soft_triplet, all": Case(
            "soft_triplet", "TripletMarginLoss, smooth", changes={"loss.soft_triplet.miner": "all"}
        ),
        "n_pairs": Case("n_pairs", "SupConLoss, temperature 1"),
        "supervised_contrastive": Case("supervised_contrastive", "SupConLoss"),
        "contrastive": Case("contrastive", "ContrastiveLoss"),
        "contrastive, memory": Case("contrastive", "ContrastiveLoss", 10, has_memory=True),
        "multi_similarity": Case("multi_similarity", "MultiSimilarityLoss, MultiSimilarityMiner"),
        "circle": Case("circle", "CircleLoss"),
        "smooth_ap": Case(
            "smooth_ap", "SmoothAPLoss", 10, difference="an anchor is its own positive too"
        ),
        "recall_at_k": Case("recall_at_k", "plain PyTorch", 10),
    }
    for num_classes, repeats in ((100, 20), (10_000, 2)):
        of = partial(Case, repeats=repeats, num_classes=num_classes)
        proxies = {
            "proxy_nca": of(
                "proxy_nca",
                "ProxyNCALoss",
                difference="a sum over all classes",
                same_with={"loss.proxy_nca.denominator": "all"},
            ),
            "proxy_anchor": of("proxy_anchor", "ProxyAnchorLoss"),
            "normalized_softmax": of("normalized_softmax", "NormalizedSoftmaxLoss"),
            "cosface": of("cosface", "CosFaceLoss"),
            "arcface": of("arcface", "ArcFaceLoss"),
            "sub_center_arcface": of("sub_center_arcface", "SubCenterArcFaceLoss"),
            "soft_triple": of("soft_triple", "SoftTripleLoss"),
        }
        if num_classes > 100:
            proxies["soft_triple, tau 0"] = of(
                "soft_triple",
                "SoftTripleLoss, no regulariser",
                changes={"loss.soft_triple.tau": 0.0},
            )
            proxies["soft_triple"] = of(
                "soft_triple",
                "SoftTripleLoss, no regulariser",
                difference="no regulariser, which would take 40 GB",
                same_with={"loss.soft_triple.tau": 0.0},
            )
        cases |= {f"{name}, {num_classes:,}": case for name, case in proxies.items()}
    return cases


CASES = _cases()


def main() -> None:
    """Checks all losses, then times each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose title begins so")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    chosen = [title for title in CASES if title.startswith(arguments.only)]
    for title in chosen:
        _check(title, CASES[title])
    for title in chosen:
        case = CASES[title]
        peer_name = ": ".join(filter(None, (case.peer, case.difference)))
        compare(
            f"loss {title}",
            {"dcjax": partial(ours, case), peer_name: partial(peer, case)},
            rounds=arguments.rounds,
            repeats=case.repeats,
        )


def images(case: Case, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings [size, D] before they are normalised, and classes, four of each in turn.

    Images are more or less far from the centre of their class, so that some are hard.
    """
    rng = np.random.default_rng(seed)
    few = rng.permutation(case.num_classes)[: size // IMAGES_PER_CLASS]
    labels = np.resize(np.repeat(few, IMAGES_PER_CLASS), size)
    common = np.random.default_rng(0).standard_normal((case.num_classes + 1, DIM))
    noise = rng.uniform(1, 3, (size, 1)) * rng.standard_normal((size, DIM))
    return (2 * common[-1] + common[labels] + noise).astype(np.float32), labels


def _loss(case: Case) -> Loss:
    config = default.get_config()
    config.model.embedding_dim = DIM
    config.loss.name = case.loss
    config.update_from_flattened_dict(case.changes)
    return parts.create_loss(config, np.ones(case.num_classes, int))


def _evaluate(loss: Loss, kept: memory.Memory, *arguments: Any) -> tuple[Any, memory.Memory]:
    """Returns ((value, scalars to log), gradients), and the memory with the batch enqueued."""
    params, raw, labels, key = arguments
    cluster = jnp.zeros((), jnp.int32)
    references = memory.references(kept, jnp.ones(DIM), cluster)
    more = {"memory": references} if references else {}

    def of_raw(params: Any, raw: jax.Array) -> Any:
        embeddings = masks.l2_normalize(raw)
        value, stats = loss.apply(params, embeddings, labels, key, **more)
        return value, (stats, embeddings)

    found, gradients = jax.value_and_grad(of_raw, argnums=(0, 1), has_aux=True)(params, raw)
    value, (stats, embeddings) = found
    updated = memory.enqueue(kept, embeddings[None], labels[None], cluster[None])
    return ((value, stats), gradients), updated


def _filled(case: Case) -> memory.Memory:
    """Returns the memory of past images, {} for none."""
    if not case.has_memory:
        return {}
    raw, labels = images(case, MEMORY - BATCH, seed=2)
    empty = memory.empty(len(raw), DIM)
    rows = masks.l2_normalize(jnp.asarray(raw))
    return memory.enqueue(empty, rows[None], jnp.asarray(labels)[None], jnp.zeros(1, jnp.int32))


def ours(case: Case) -> Job:
    """Prepares a job that returns the last value."""
    loss, kept, key = _loss(case), _filled(case), jax.random.key(1)
    step = jax.jit(partial(_evaluate, loss), donate_argnums=0)
    params, batch = loss.init(jax.random.key(0)), jax.device_put(images(case, BATCH, seed=1))

    def job() -> Mapping[str, float]:
        nonlocal kept
        for _ in range(case.repeats):
            found, kept = step(kept, params, *batch, key)
            jax.block_until_ready((found, kept))
        return {"value": float(found[0][0])}

    return job


def peer(case: Case, params: np.ndarray | None = None) -> Job:
    """Prepares the same by PyTorch, with these values of its parameters if given."""
    import torch
    import torch_losses

    raw, labels = (torch.from_numpy(part) for part in images(case, BATCH, seed=1))
    raw.requires_grad_()
    loss = torch_losses.create(case.peer, case.num_classes, DIM)
    if case.has_memory:
        loss = torch_losses.with_memory(*images(case, MEMORY - BATCH, seed=2), MEMORY)
    if params is not None:
        loss.load(params)

    def job() -> Mapping[str, float]:
        for _ in range(case.repeats):
            value = loss.apply(raw, labels)
            torch.autograd.grad(value, [raw, *loss.params])
        return {"value": value.item()}

    return job


def _check(title: str, case: Case) -> None:
    """Requires the same value of both, wherever they compute the same thing."""
    if case.difference and case.same_with is None:
        return
    changes = {**case.changes, **(case.same_with or {})}
    once = dataclasses.replace(case, changes=changes, repeats=1)
    params = jax.tree.leaves(_loss(once).init(jax.random.key(0)))
    found, expected = ours(once)(), peer(once, np.asarray(params[0]) if params else None)()
    np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-4, err_msg=title)


if __name__ == "__main__":
    main()
