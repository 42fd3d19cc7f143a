"""P21 (Sanakoyeu et al., PAMI 2021), Table I: how the training set is divided; fixed masks.

    python launch.py --sweep --config=configs/ablations/p21_table_1.py:cub

The paper has CUB, CARS and SOP. Its ground-truth grouping is by the data set's super-classes.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations

RUNS = "ablations"
SCORES = (
    *("recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "recall_at_10", "recall_at_100"),
    *("nmi", "marp_paper", "map_at_r"),
)

_GT = "Progressive + GT grouping"
_ROWS: dict[str, ablations.Settings] = {
    "Margin": ablations.BASELINE,
    "Progressive + random splits": ablations.FIX | {"division.grouping": "random"},
    _GT: ablations.FIX | {"division.grouping": "labels"},
    "Not progressive": ablations.NOT_PROGRESSIVE,
    "Ours (fix)": ablations.FIX,
}
_COLUMNS = {
    "sop": ("recall_at_1", "recall_at_10", "recall_at_100", "nmi", "marp_paper"),
    "cub": ("recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "nmi", "marp_paper"),
    "cars": ("recall_at_1", "recall_at_2", "recall_at_4", "nmi", "marp_paper"),
}
_PAPER: ablations.Paper = {
    "sop": {
        "Margin": (77.11, 89.33, 95.57, 89.65, 76.98),
        "Progressive + random splits": (71.99, 85.87, 93.72, 88.21, 72.16),
        "Progressive + GT grouping": (75.99, 87.81, 93.79, 89.06, 75.95),
        "Not progressive": (78.67, 89.53, 94.77, 89.48, 78.56),
        "Ours (fix)": (79.54, 90.24, 95.13, 89.58, 79.35),
    },
    "cub": {
        "Margin": (66.93, 77.43, 85.15, 90.92, 69.12, 54.07),
        "Progressive + random splits": (66.96, 77.04, 85.03, 90.68, 69.89, 54.30),
        "Progressive + GT grouping": (65.02, 76.08, 83.54, 90.02, 67.65, 53.14),
        "Not progressive": (67.18, 77.23, 85.04, 90.80, 69.60, 55.26),
        "Ours (fix)": (68.43, 78.68, 85.85, 91.32, 69.74, 55.47),
    },
    "cars": {
        "Margin": (85.12, 91.07, 94.87, 69.31, 63.45),
        "Progressive + random splits": (85.02, 91.15, 94.60, 69.84, 63.33),
        "Progressive + GT grouping": (86.00, 91.54, 94.76, 68.36, 64.12),
        "Not progressive": (86.08, 91.23, 94.48, 69.37, 64.58),
        "Ours (fix)": (86.46, 91.66, 94.97, 68.79, 64.55),
    },
}


def get_config(data: str = "cub") -> ConfigDict:
    """Returns the settings that the rows start from."""
    return ablations.experiment(data)


def sweep(data: str = "cub") -> list[dict[str, Any]]:
    """Returns the rows."""
    rows = dict(_ROWS)
    if data == "sop":  # twelve super-classes make no 32 clusters
        rows[_GT] = rows[_GT] | {"division.max_clusters": 8}
    if data in ablations.WITHOUT_SUPER_CLASSES:
        del rows[_GT]
    return ablations.rows(rows, _COLUMNS.get(data, ()), _PAPER.get(data))
