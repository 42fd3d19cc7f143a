"""One process of a pod that trains a run in float64 on real digits: python tests/pod.py ...

python tests/pod.py WORKDIR DEVICES COORDINATOR NUM_PROCESSES PROCESS_ID HEARTBEAT [CHANGE ...]

A change is KEY=VALUE; "disagree", by which process 1 takes another division; or "stop in" division,
evaluation or save, by which one process is told to stop as soon as it is there.
"""

import dataclasses
import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

SETTINGS = {
    "devices.cluster_parallel": 1,
    "sampling.clusters_per_step": 1,
    "model.width": 4,
    "model.num_stages": 1,
    "model.embedding_dim": 8,
    "model.dropout": 0.1,
    "loss.margin.learn_beta": "per_class",
    "division.max_clusters": 2,
    "division.every_epochs": 1,
    "sampling.batch_size": 16,
    "sampling.images_per_class": 4,
    "optimizer.learning_rate": 1e-3,
    "train.num_epochs": 2,
    "train.log_every_steps": 1,
    "eval.batch_size": 64,
    "eval.every_epochs": 0,
    "eval.nmi": "never",
    "eval.at_start": False,
    "train.report": False,
    "eval.pixels": False,
    "checkpoint.every_epochs": 1,
}


def with_stop_signal(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function so that it first sends this process SIGTERM, twice, as schedulers do."""

    def stopped(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        return function(*arguments, **options)

    return stopped


def main() -> None:
    """Joins the other processes and trains."""
    workdir, num_devices, coordinator, num_processes, process_id, heartbeat, *changes = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(num_devices))
    jax.config.update("jax_enable_x64", True)
    if int(num_processes) > 1:
        jax.distributed.initialize(
            coordinator,
            int(num_processes),
            int(process_id),
            heartbeat_timeout_seconds=int(heartbeat),
        )
    from configs import digits
    from dcjax.division import division
    from dcjax.experiment import build, epochs
    from dcjax.models import masked_embedder
    from dcjax.modes.train import train
    from dcjax.retrieval import evaluation
    from dcjax.runs.checkpoints import Checkpoints

    # Not possible by settings: float64, so that devices differ only by its rounding.
    masked_embedder.create = functools.partial(masked_embedder.create, dtype=jnp.float64)
    train_step = build.Experiment.train_step
    build_step, compiled_steps = train_step.func, []

    def counted(experiment: build.Experiment) -> object:
        compiled_steps.append(build_step(experiment))
        return compiled_steps[-1]

    train_step.func = counted
    if "disagree" in changes and process_id == "1":
        received = epochs.receive_from_first
        epochs.receive_from_first = lambda *arguments: dataclasses.replace(
            first := received(*arguments), cluster=first.cluster[::-1].copy()
        )
    for owner, name, moment, number in (
        (division, "divide", "division", "0"),  # process 0 divides for all
        (evaluation, "evaluate", "evaluation", "1"),
        (Checkpoints, "save", "save", "1"),
    ):
        if f"stop in {moment}" in changes and process_id == number:
            setattr(owner, name, with_stop_signal(getattr(owner, name)))
    config = digits.get_config()
    typed = {
        key: type(SETTINGS[key])(value)
        for key, value in (x.split("=") for x in changes if "=" in x)
    }
    config.update_from_flattened_dict(SETTINGS | typed)
    scores = train(config, workdir)
    compiled = [step._cache_size() for step in compiled_steps]
    sys.stdout.write(f"finished {bool(scores)}, compilations {compiled}\n")


if __name__ == "__main__":
    main()
