"""Study of division: networks of which all weights are trained, for long.

python launch.py --sweep --config=configs/ablations/study_long.py:study.characters
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations
from configs.ablations import study_division

RUNS = study_division.RUNS
SCORES = study_division.SCORES


def get_config(data: str = "study.characters") -> ConfigDict:
    """Returns the settings that the rows start from."""
    return ablations.experiment(data)


def sweep(data: str = "study.characters") -> list[dict[str, Any]]:
    """Returns the rows."""
    return ablations.rows(study_division.KINDS)
