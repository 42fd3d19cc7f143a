"""Times training steps and embedding of a backbone beside PyTorch, on one device.

Ours is the whole step of a run (margin loss with distance-weighted sampling, one cluster, Adam,
frozen BatchNorm), with matrix products, or XLA's own convolutions by `--methods xla`. The peer is
the same network (v1.5, channels_last) with pytorch-metric-learning's loss and miner; of a vision
transformer, with patches of 16 pixels, it is that of transformers. All get new images from the host
at each step. With --precision=bfloat16 the backbone's activations are bfloat16, the
peer's by autocast.

About five minutes on two cores; other sizes and networks by arguments. On a GPU:

    python benchmarks/training.py --size 224 --batch_size 80 --steps 20 --methods xla
      --precision float32 bfloat16
    python benchmarks/training.py --backbone vit_small --size 224 --batch_size 80 --steps 20
      --precision float32 bfloat16

A large batch whole (0) and in chunks, ours alone, with the memory that XLA has planned for a step:

    python benchmarks/training.py --jobs train --size 64 --batch_size 512 --chunk_size 0 64
      --methods matmul --no_peer --rounds 1
"""

import argparse
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from compare import Job, compare
from random_images import random_batches

from configs import default
from dcjax.experiment import parts
from dcjax.models import masked_embedder, resnet, vit
from dcjax.training import optimizers, state, steps

_LEARNING_RATE = 1e-5
_DIMENSION = 512
_GROUPS = ("backbone", "embedding", "masks", "loss")


def main() -> None:
    """Times each size in training, then in embedding."""
    parser = argparse.ArgumentParser(description=__doc__)
    networks = [*resnet.BACKBONES, *vit.SIZES]
    parser.add_argument("--backbone", default="resnet50", choices=networks)
    parser.add_argument("--num_stages", type=int, default=0, help="0: all")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, nargs="+", default=[64, 224], help="pixels")
    parser.add_argument("--batch_size", type=int, nargs="+", default=[32, 16], help="per size")
    parser.add_argument(
        "--chunk_size", type=int, nargs="+", default=[0], help="in training; 0: the whole batch"
    )
    parser.add_argument("--no_peer", action="store_true", help="time ours alone")
    parser.add_argument("--steps", type=int, default=0, help="in a round; 0: few, as for a CPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", nargs="+", default=["train", "embed"])
    parser.add_argument(
        "--methods", nargs="+", default=["matmul"], help="of convolution: matmul, xla"
    )
    parser.add_argument(
        "--precision", nargs="+", default=["float32"], choices=masked_embedder.PRECISIONS
    )
    arguments = parser.parse_args()
    network = (arguments.backbone, arguments.num_stages, arguments.width)
    prepare = {"train": _ours_train, "embed": _ours_embed}
    sizes = zip(arguments.size, arguments.batch_size, strict=True)
    for job, (size, batch_size), precision in itertools.product(
        arguments.jobs, sizes, arguments.precision
    ):
        repeats = arguments.steps or max(1, 64 * 64 * 128 // (size * size * batch_size))
        options = {"precision": precision, "size": size, "batch_size": batch_size}
        options["repeats"] = repeats
        methods = ["xla"] if arguments.backbone in vit.SIZES else arguments.methods
        chunks = arguments.chunk_size if job == "train" else [0]
        contestants: dict[str, Callable[[], Job]] = {
            f"dcjax, {method}, {f'chunks of {chunk}' if chunk else 'whole'}": functools.partial(
                prepare[job], *network, method, chunk, **options
            )
            for method, chunk in itertools.product(methods, chunks)
        }
        if not arguments.no_peer and _has_peer(arguments.backbone, arguments.width):
            import torch_training  # the peer's packages are needed for it alone

            peer = getattr(torch_training, job)
            contestants["PyTorch"] = functools.partial(peer, *network[:2], _DIMENSION, **options)
        compare(
            f"{job}: {arguments.backbone}, {size} px, batches of {batch_size}, {precision}",
            contestants,
            rounds=arguments.rounds,
            repeats=repeats,
            work=batch_size,
            unit="images",
        )


def _has_peer(backbone: str, width: int) -> bool:
    return backbone in vit.SIZES or (backbone != "resnet_small" and width == 64)


def _model(
    backbone: str,
    num_stages: int,
    width: int,
    convolution: str,
    precision: str,
    chunk_size: int,
) -> masked_embedder.MaskedEmbedder:
    is_vit = backbone in vit.SIZES
    return masked_embedder.create(
        backbone,
        num_stages=num_stages or (4 if is_vit else len(resnet.BACKBONES[backbone][1])),
        vit={"patch_size": 16, "layer_scale": False},
        pixels="imagenet",
        width=width,
        batch_norm="frozen",
        convolution=convolution,
        custom={},
        precision=precision,
        embedding_dim=_DIMENSION,
        max_clusters=1,
        pooling="class" if is_vit else "average",
        dropout=0.01,
        chunk_size=chunk_size,
        test_masks="sum",
    )


def _ours_train(
    backbone: str,
    num_stages: int,
    width: int,
    convolution: str,
    chunk_size: int,
    *,
    precision: str,
    size: int,
    batch_size: int,
    repeats: int,
) -> Job:
    images, labels = random_batches(size, batch_size, repeats)
    model = _model(backbone, num_stages, width, convolution, precision, chunk_size)
    loss = parts.create_loss(default.get_config(), np.ones(batch_size, int))
    optimizer = optimizers.create(decay="coupled", weight_decays=dict.fromkeys(_GROUPS, 1e-4))
    run = state.create(
        model, loss, optimizer, key=jax.random.key(0), image_size=size, memory_size=0
    )
    step = jax.jit(
        functools.partial(
            steps.train_step,
            model=model,
            loss=loss,
            optimizer=optimizer,
            orthogonality_weight=0.0,
        ),
        donate_argnums=0,
    )
    controls = {
        "learning_rates": dict.fromkeys(_GROUPS, jnp.asarray(_LEARNING_RATE)),
        "full_embedding": jnp.asarray(False),
        "memory": jnp.asarray(False),
    }
    key, cluster = jax.random.key(1), np.zeros(1, np.int32)
    inputs = {"image": images[:1], "label": labels[None].astype(np.int32), "cluster": cluster}
    compiled = step.lower(run, inputs, controls, key).compile()
    memory: Any = compiled.memory_analysis()
    planned = {"planned MiB": memory.temp_size_in_bytes / 2**20}

    def job() -> dict[str, float]:
        nonlocal run
        for batch in images:
            run, metrics = compiled(run, inputs | {"image": batch[None]}, controls, key)
        jax.block_until_ready((run.params, metrics))
        return planned

    return job


def _ours_embed(
    backbone: str,
    num_stages: int,
    width: int,
    convolution: str,
    chunk_size: int,
    *,
    precision: str,
    size: int,
    batch_size: int,
    repeats: int,
) -> Job:
    images, _ = random_batches(size, batch_size, repeats)
    model = _model(backbone, num_stages, width, convolution, precision, chunk_size)
    variables = jax.jit(model.init)(jax.random.key(0), images[0])
    step = jax.jit(functools.partial(steps.embed_step, model=model))

    def job() -> None:
        for batch in images:
            np.asarray(step(variables, batch)["embedding"])

    return job


if __name__ == "__main__":
    main()
