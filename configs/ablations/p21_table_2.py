"""P21 (Sanakoyeu et al., PAMI 2021), Table II: clusters without and with subspaces.

    python launch.py --sweep --config=configs/ablations/p21_table_2.py:cub

The paper has CUB, CARS, SOP and In-shop Clothes.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations

RUNS = "ablations"
SCORES = (
    *("recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "recall_at_10", "recall_at_100"),
    *("nmi", "marp_paper", "map_at_r"),
)

_ROWS = {
    "Margin": ablations.BASELINE,
    "No subspaces": ablations.NO_SUBSPACES,
    "Ours (fix)": ablations.FIX,
    "Ours (learn)": ablations.LEARN,
}
_COLUMNS = {
    "sop": ("recall_at_1", "recall_at_10", "recall_at_100", "nmi", "marp_paper"),
    "cub": ("recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "nmi", "marp_paper"),
    "cars": ("recall_at_1", "recall_at_2", "recall_at_4", "nmi", "marp_paper"),
    "inshop": ("recall_at_1", "recall_at_10", "nmi", "marp_paper"),
}
_PAPER: ablations.Paper = {
    "sop": {
        "Margin": (77.11, 89.33, 95.57, 89.65, 76.98),
        "No subspaces": (79.23, 90.04, 95.04, 89.61, 79.05),
        "Ours (fix)": (79.54, 90.24, 95.13, 89.58, 79.35),
        "Ours (learn)": (79.77, 90.39, 95.20, 89.67, 79.56),
    },
    "cub": {
        "Margin": (66.93, 77.43, 85.15, 90.92, 69.12, 54.07),
        "No subspaces": (67.42, 77.41, 85.13, 90.72, 68.64, 54.47),
        "Ours (fix)": (68.43, 78.68, 85.85, 91.32, 69.74, 55.47),
        "Ours (learn)": (68.16, 78.14, 85.97, 91.64, 69.49, 55.35),
    },
    "cars": {
        "Margin": (85.12, 91.07, 94.87, 69.31, 63.45),
        "No subspaces": (83.90, 89.90, 93.89, 66.36, 61.69),
        "Ours (fix)": (86.46, 91.66, 94.97, 68.79, 64.55),
        "Ours (learn)": (87.76, 92.52, 95.35, 70.67, 65.97),
    },
    "inshop": {
        "Margin": (87.87, 96.26, 89.16, 86.14),
        "No subspaces": (89.17, 96.60, 88.94, 87.16),
        "Ours (fix)": (90.15, 97.62, 89.96, 88.15),
        "Ours (learn)": (90.40, 97.52, 89.91, 88.47),
    },
}


def get_config(data: str = "cub") -> ConfigDict:
    """Returns the settings that the rows start from."""
    return ablations.experiment(data)


def sweep(data: str = "cub") -> list[dict[str, Any]]:
    """Returns the rows."""
    return ablations.rows(_ROWS, _COLUMNS.get(data, ()), _PAPER.get(data))
