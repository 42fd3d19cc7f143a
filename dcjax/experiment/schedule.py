"""What each epoch does: clusters (P21 section 3), learning rates, evaluations."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dcjax.division import division


def num_clusters(config: ConfigDict, epoch: int) -> int:
    """Returns K of an epoch."""
    return division.num_clusters_at(
        epoch,
        divide_every_epochs=config.division.every_epochs,
        max_clusters=config.division.max_clusters,
        hierarchy=config.division.hierarchy,
    )


def period(config: ConfigDict, epoch: int) -> int:
    """Returns the number of the division that holds in an epoch."""
    return 0 if config.division.max_clusters == 1 else epoch // config.division.every_epochs


def controls(config: ConfigDict, epoch: int) -> dict[str, Any]:
    """Returns what the schedule sets for an epoch, as `steps.train_step` takes it.

    The backbone stands still in the first epochs of each period, as P21's released recipe has it;
    the masks if they are not learned, and once the full embedding is trained. With max_clusters 1
    there are neither periods nor subspaces: the baseline.
    """
    rates, dividing = config.optimizer, config.division
    divides = dividing.max_clusters > 1
    full = 0 <= config.train.full_embedding_from_epoch <= epoch
    frozen = divides and epoch % dividing.every_epochs < dividing.freeze_backbone_epochs
    learned = divides and config.model.masks == "learned" and not full
    base = rates.learning_rate
    learning_rates = {
        "backbone": 0.0 if frozen else base,
        "embedding": base * rates.embedding_multiplier,
        "masks": base * rates.masks_multiplier if learned else 0.0,
        "loss": rates.loss_learning_rate,
    }
    return {
        "learning_rates": {group: np.float32(rate) for group, rate in learning_rates.items()},
        "full_embedding": np.bool_(full),
        "memory": np.bool_(epoch >= config.loss.memory_from_epoch),
    }


def is_due(config: ConfigDict, every_epochs: int, epoch: int) -> bool:
    """Returns whether what happens every so many epochs happens after this one, or it is the last.

    `every_epochs` 0 means only after the last one.
    """
    done = epoch + 1
    return done == config.train.num_epochs or (every_epochs > 0 and done % every_epochs == 0)
