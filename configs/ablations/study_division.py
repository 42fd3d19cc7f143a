"""Study of division: clusters without subspaces, with fixed and with learned masks, and neither.

python launch.py --sweep --config=configs/ablations/study_division.py:study.heads
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations

RUNS = "study"
SCORES = ("recall_at_1", "map_at_r")

KINDS: dict[str, ablations.Settings] = {
    "K = 1": ablations.BASELINE,
    "clusters only": ablations.NO_SUBSPACES,
    "fixed masks": ablations.FIX,
    "learned masks": ablations.LEARN,
}
# Masks that learn at 1e-2 instead of the paper's 1e-3, the rate in the experiments.
FAST: ablations.Settings = {"optimizer.masks_multiplier": 100.0}


def get_config(data: str = "study.heads") -> ConfigDict:
    """Returns the settings that the rows start from."""
    return ablations.experiment(data)


def sweep(data: str = "study.heads") -> list[dict[str, Any]]:
    """Returns the rows."""
    return ablations.rows(KINDS | {"learned masks at 1e-2": ablations.LEARN | FAST})
