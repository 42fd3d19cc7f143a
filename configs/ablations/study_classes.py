"""Study of division: 60, 240 and 771 training classes, with 4 to 32 clusters.

    python launch.py --sweep --config=configs/ablations/study_classes.py:study.character_heads \
        --seeds=0,1,2

All train for as many steps and are tested on the same classes. Each is compared with the run of as
many classes that does not divide.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations
from configs.ablations import study_division

RUNS = study_division.RUNS
SCORES = study_division.SCORES

# Shares of Omniglot's 964 classes that are for validation, and numbers of clusters: each cluster
# needs two classes.
_LEVELS = {
    "60 classes": (904 / 964, (4, 16)),
    "240 classes": (724 / 964, (4, 16, 32)),
    "771 classes": (0.2, (4, 16, 32)),
}


def get_config(data: str = "study.character_heads") -> ConfigDict:
    """Returns the settings that the rows start from."""
    return ablations.experiment(data)


def sweep(data: str = "study.character_heads") -> list[dict[str, Any]]:
    """Returns the rows."""
    rows = []
    for name, (share, clusters) in _LEVELS.items():
        changes = {"dataset.validation_classes": share}
        baseline = f"{name}, K = 1"
        divided = {
            f"{name}, K = {k}": ablations.LEARN | changes | {"division.max_clusters": k}
            for k in clusters
        }
        rows += ablations.rows({baseline: ablations.BASELINE | changes})
        rows += ablations.rows(divided, baseline=baseline)
    return rows
