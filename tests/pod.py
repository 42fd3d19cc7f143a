"""A run in float64 on real digits, as one process of a pod trains it: python tests/pod.py ...

python tests/pod.py WORKDIR DEVICES COORDINATOR NUM_PROCESSES PROCESS_ID HEARTBEAT [KEY=VALUE ...]
"""

import functools
import sys

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
    "eval.pixels": False,
    "checkpoint.every_epochs": 1,
}


def main() -> None:
    """Joins the others, and trains."""
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
    from dcjax import experiment, models, processes
    from dcjax.train import train

    # What no setting does: numbers in which devices differ by rounding alone, and no more.
    experiment.models.create = functools.partial(models.create, dtype=jnp.float64)
    counted = experiment.create_train_step
    steps = []

    def create_train_step(*arguments: object) -> object:
        steps.append(counted(*arguments))
        return steps[-1]

    experiment.create_train_step = create_train_step
    if "disagree" in changes and process_id == "1":
        first = processes.from_first
        processes.from_first = lambda tree: tuple(x[::-1].copy() for x in first(tree))
    config = digits.get_config()
    typed = {
        key: type(SETTINGS[key])(value)
        for key, value in (x.split("=") for x in changes if "=" in x)
    }
    config.update_from_flattened_dict(SETTINGS | typed)
    scores = train(config, workdir)
    compiled = [step._cache_size() for step in steps]
    sys.stdout.write(f"finished {bool(scores)}, compilations {compiled}\n")


if __name__ == "__main__":
    main()
