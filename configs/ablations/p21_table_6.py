"""P21 (Sanakoyeu et al., PAMI 2021), Tables VI, VII and VIII: losses without and with division.

    python launch.py --sweep --config=configs/ablations/p21_table_6.py:cub

N-pairs has a learned scale, whose learning rate is that of the paper's code. Table VI has CUB, CARS
and SOP. For In-shop Clothes (Table VIII) and VehicleID's large list (Table VII) the paper gives the
rows of the margin loss.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations

RUNS = "ablations"
SCORES = (
    *("recall_at_1", "recall_at_5", "recall_at_10", "recall_at_20", "recall_at_30"),
    *("nmi", "marp_paper", "map_at_r"),
)

_LOSSES: dict[str, ablations.Settings] = {
    "Triplet": {"loss.name": "triplet"},
    "Soft triplet": {"loss.name": "soft_triplet"},
    "N-pairs": {"loss.name": "n_pairs", "optimizer.loss_learning_rate": 1.0},
    "Margin": {"loss.name": "margin"},
}
_VARIANTS = {
    "": ablations.BASELINE,
    " + Not progressive (fix)": ablations.NOT_PROGRESSIVE,
    " + Ours (fix)": ablations.FIX,
    " + Ours (learn)": ablations.LEARN,
}
_ROWS = {
    f"{loss}{variant}": changes | settings
    for loss, settings in _LOSSES.items()
    for variant, changes in _VARIANTS.items()
}
_COLUMNS = {
    "cub": ("recall_at_1", "nmi", "marp_paper"),
    "cars": ("recall_at_1", "nmi", "marp_paper"),
    "sop": ("recall_at_1", "nmi", "marp_paper"),
    "inshop": (
        *("recall_at_1", "recall_at_10", "recall_at_20", "recall_at_30"),
        *("nmi", "marp_paper"),
    ),
    "vid": ("recall_at_1", "recall_at_5", "nmi", "marp_paper"),
}
_PAPER: ablations.Paper = {
    "cub": {
        "Triplet": (62.44, 65.52, 51.21),
        "Triplet + Not progressive (fix)": (64.89, 68.02, 53.59),
        "Triplet + Ours (fix)": (65.01, 67.61, 53.27),
        "Triplet + Ours (learn)": (64.33, 67.89, 53.14),
        "Soft triplet": (61.60, 65.66, 50.71),
        "Soft triplet + Not progressive (fix)": (64.89, 67.42, 53.27),
        "Soft triplet + Ours (fix)": (65.24, 67.45, 53.22),
        "Soft triplet + Ours (learn)": (64.87, 67.47, 53.27),
        "N-pairs": (62.22, 65.69, 50.77),
        "N-pairs + Not progressive (fix)": (63.52, 66.40, 52.11),
        "N-pairs + Ours (fix)": (63.94, 65.51, 51.79),
        "N-pairs + Ours (learn)": (63.83, 65.74, 51.89),
        "Margin": (66.93, 69.12, 54.07),
        "Margin + Not progressive (fix)": (67.18, 69.60, 55.26),
        "Margin + Ours (fix)": (68.43, 69.74, 55.47),
        "Margin + Ours (learn)": (68.16, 69.49, 55.35),
    },
    "cars": {
        "Triplet": (75.30, 59.66, 53.88),
        "Triplet + Not progressive (fix)": (76.52, 63.77, 56.54),
        "Triplet + Ours (fix)": (77.17, 62.95, 56.79),
        "Triplet + Ours (learn)": (77.51, 64.13, 57.20),
        "Soft triplet": (72.18, 62.17, 52.73),
        "Soft triplet + Not progressive (fix)": (76.37, 63.03, 55.98),
        "Soft triplet + Ours (fix)": (75.81, 62.55, 55.78),
        "Soft triplet + Ours (learn)": (76.73, 63.23, 55.80),
        "N-pairs": (77.11, 64.52, 56.36),
        "N-pairs + Not progressive (fix)": (77.58, 64.13, 56.79),
        "N-pairs + Ours (fix)": (78.54, 65.11, 57.81),
        "N-pairs + Ours (learn)": (79.41, 65.63, 58.37),
        "Margin": (85.12, 69.31, 63.45),
        "Margin + Not progressive (fix)": (86.08, 69.37, 64.58),
        "Margin + Ours (fix)": (86.46, 68.79, 64.55),
        "Margin + Ours (learn)": (87.76, 70.67, 65.97),
    },
    "sop": {
        "Triplet": (76.59, 90.03, 76.51),
        "Triplet + Not progressive (fix)": (77.23, 90.00, 77.03),
        "Triplet + Ours (fix)": (77.46, 90.22, 77.27),
        "Triplet + Ours (learn)": (79.05, 90.43, 78.83),
        "Soft triplet": (71.04, 88.91, 71.26),
        "Soft triplet + Not progressive (fix)": (77.04, 90.06, 76.80),
        "Soft triplet + Ours (fix)": (77.12, 90.12, 76.94),
        "Soft triplet + Ours (learn)": (77.59, 90.16, 77.38),
        "N-pairs": (78.15, 89.96, 77.94),
        "N-pairs + Not progressive (fix)": (76.79, 89.85, 76.69),
        "N-pairs + Ours (fix)": (80.14, 90.23, 79.82),
        "N-pairs + Ours (learn)": (80.32, 90.22, 80.02),
        "Margin": (77.11, 89.65, 76.98),
        "Margin + Not progressive (fix)": (78.67, 89.48, 78.56),
        "Margin + Ours (fix)": (79.54, 89.58, 79.35),
        "Margin + Ours (learn)": (79.77, 89.67, 79.56),
    },
    "inshop": {
        "Margin": (87.87, 96.26, 97.27, 97.83, 89.16, 86.14),
        "Margin + Not progressive (fix)": (89.54, 97.19, 97.65, 98.40, 89.65, 87.64),
        "Margin + Ours (fix)": (90.15, 97.62, 98.38, 98.64, 89.96, 88.15),
        "Margin + Ours (learn)": (90.40, 97.52, 98.16, 98.57, 89.91, 88.47),
    },
    "vid": {
        "Margin": (89.75, 95.26, 90.03, 86.22),
        "Margin + Not progressive (fix)": (93.50, 95.78, 90.54, 92.34),
        "Margin + Ours (fix)": (93.96, 96.24, 90.78, 92.82),
        "Margin + Ours (learn)": (94.03, 96.18, 90.67, 92.73),
    },
}


def get_config(data: str = "cub") -> ConfigDict:
    """Returns the settings that the rows start from."""
    return ablations.experiment(data)


def sweep(data: str = "cub") -> list[dict[str, Any]]:
    """Returns the rows."""
    return ablations.rows(_ROWS, _COLUMNS.get(data, ()), _PAPER.get(data))
