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
    rows: list[dict[str, Any]] = [
        {"name": "K = 1", "settings": ablations.BASELINE},
        {"name": "learned masks", "settings": ablations.LEARN, "baseline": "K = 1"},
    ]
    for name, changes in _RIVALS.items():
        settings = ablations.BASELINE | changes
        rows.append({"name": f"K = 1, {name}", "settings": settings, "baseline": "K = 1"})
    rows += [
        {
            "name": f"learned masks, {name}",
            "settings": ablations.LEARN | _RIVALS[name],
            "baseline": f"K = 1, {name}",
        }
        for name in _COMBINED
    ]
    return rows
