"""Study of division: other measures against overfitting, at the same number of steps.

python launch.py --sweep --config=configs/ablations/study_rivals.py:study.characters
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations
from configs.ablations import study_division

RUNS = study_division.RUNS
SCORES = study_division.SCORES

_RIVALS: dict[str, ablations.Settings] = {
    "averaged weights": {"train.ema_decay": 0.998},
    "memory of 1024": {"loss.memory_size": 1024},
    "batches twice as large": {"sampling.batch_size": 64},
}
# Those that division is also combined with.
_COMBINED = ("averaged weights", "memory of 1024")


def get_config(data: str = "study.characters") -> ConfigDict:
    """Returns the settings that the rows start from."""
    return ablations.experiment(data)


def sweep(data: str = "study.characters") -> list[dict[str, Any]]:
    """Returns the rows."""
    rivals = {f"K = 1, {name}": ablations.BASELINE | changes for name, changes in _RIVALS.items()}
    rows = ablations.rows({"K = 1": ablations.BASELINE})
    rows += ablations.rows({"learned masks": ablations.LEARN} | rivals, baseline="K = 1")
    for name in _COMBINED:
        combined = {f"learned masks, {name}": ablations.LEARN | _RIVALS[name]}
        rows += ablations.rows(combined, baseline=f"K = 1, {name}")
    return rows
