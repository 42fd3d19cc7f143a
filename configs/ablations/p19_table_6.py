"""P19 (Sanakoyeu et al., CVPR 2019), Table 6: what the division and the split bring.

    python launch.py --sweep --config=configs/ablations/p19_table_6.py:sop

The paper has SOP: eight clusters from the start, slices of a 128-dimensional embedding, 80 epochs.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations
from configs.ablations import p19

RUNS = p19.RUNS
SCORES = (
    *("recall_at_1", "recall_at_10", "recall_at_100", "recall_at_1000"),
    *("nmi", "marp_paper", "map_at_r"),
)

_ROWS: dict[str, ablations.Settings] = {
    "Baseline": ablations.BASELINE,
    "K-means, no embedding split": ablations.NO_SUBSPACES,
    "Random partition": {"division.grouping": "random"},
    "GT grouping": {"division.grouping": "labels"},
    "K-means and embedding split": {},
}
_COLUMNS = ("recall_at_1", "recall_at_10", "recall_at_100", "recall_at_1000")
_PAPER: ablations.Paper = {
    "sop": {
        "Baseline": (72.7, 86.2, 93.8, 98.0),
        "K-means, no embedding split": (75.0, 87.6, 94.2, 97.8),
        "Random partition": (73.2, 85.8, 93.4, 97.6),
        "GT grouping": (74.5, 87.1, 93.8, 97.6),
        "K-means and embedding split": (75.9, 88.4, 94.9, 98.1),
    }
}


def get_config(data: str = "sop") -> ConfigDict:
    """Returns the settings that the rows start from."""
    return p19.get_config(data)


def sweep(data: str = "sop") -> list[dict[str, Any]]:
    """Returns the rows."""
    rows = dict(_ROWS)
    if data in ablations.WITHOUT_SUPER_CLASSES:
        del rows["GT grouping"]
    return ablations.rows(rows, _COLUMNS, _PAPER.get(data))
