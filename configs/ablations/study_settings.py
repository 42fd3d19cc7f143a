"""Study of division: other numbers of clusters, widths, batches, losses and rates.

    python launch.py --sweep --config=configs/ablations/study_settings.py:study.heads

Each is compared with the run that differs from it in not dividing.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations
from configs.ablations import study_division

RUNS = study_division.RUNS
SCORES = study_division.SCORES

# What a divided run changes beside its masks.
_DIVIDED: dict[str, ablations.Settings] = {
    "K = 2": {"division.max_clusters": 2},
    "K = 4": {},
    "K = 8": {"division.max_clusters": 8},
    "K = 16": {"division.max_clusters": 16},
    "K = 4, from the start": {"division.hierarchy": "direct"},
    "K = 4, T = 2": {"division.every_epochs": 2},
    "K = 4, T = 15": {"division.every_epochs": 15},
    "K = 4, joined for the last third": {"train.full_embedding_from_epoch": 40},
}
# What both runs of a pair change.
_BOTH: dict[str, ablations.Settings] = {
    "D = 64": {"model.embedding_dim": 64},
    "D = 1024": {"model.embedding_dim": 1024},
    "D = 2048": {"model.embedding_dim": 2048},
    "B = 16": {"sampling.batch_size": 16},
    "B = 256": {"sampling.batch_size": 256},
    "soft triplet": {"loss.name": "soft_triplet"},
    "proxy-anchor": {"loss.name": "proxy_anchor"},
    "averaged weights": {"train.ema_decay": 0.999},
    "memory of 1024": {"loss.memory_size": 1024},
}
_RATES = (3e-5, 3e-4, 1e-3)
_MASKS_RATE = 1e-3


def get_config(data: str = "study.heads") -> ConfigDict:
    """Returns the settings that the rows start from."""
    return ablations.experiment(data)


def sweep(data: str = "study.heads") -> list[dict[str, Any]]:
    """Returns the rows."""
    rows = ablations.rows({"K = 1": ablations.BASELINE})
    for suffix, masks in (("", {}), (", masks at 1e-2", study_division.FAST)):
        divided = {
            f"{name}{suffix}": ablations.LEARN | changes | masks
            for name, changes in _DIVIDED.items()
        }
        rows += ablations.rows(divided, baseline="K = 1")
    for name, changes in _BOTH.items():
        rows += _pair(name, changes, ablations.LEARN)
    for rate in _RATES:
        masks = {"optimizer.masks_multiplier": _MASKS_RATE / rate}
        rows += _pair(f"rate {rate:g}", {"optimizer.learning_rate": rate}, ablations.LEARN | masks)
    return rows


def _pair(name: str, both: ablations.Settings, divided: ablations.Settings) -> list[dict[str, Any]]:
    """Returns the rows of runs that do not and that do divide, with the same other settings."""
    baseline = f"{name}, K = 1"
    return [
        *ablations.rows({baseline: ablations.BASELINE | both}),
        *ablations.rows({f"{name}, K = 4": divided | both}, baseline=baseline),
    ]
