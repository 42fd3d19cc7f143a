"""Not of a paper: K-means of a division from random images, and from the clusters before.

python launch.py --sweep --config=configs/ablations/kmeans_start.py:small.cub_crops
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations

RUNS = "ablations"
SCORES = ablations.SCORES

_ROWS: dict[str, ablations.Settings] = {
    start: {"division.start": start} for start in ("random", "previous")
}


def get_config(data: str = "cub") -> ConfigDict:
    """Returns the settings that the rows start from."""
    return ablations.experiment(data)


def sweep(data: str = "cub") -> list[dict[str, Any]]:
    """Returns the rows."""
    del data
    return ablations.rows(_ROWS)
