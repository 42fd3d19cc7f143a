"""P21 (Sanakoyeu et al., PAMI 2021), Table IV: the number of clusters at the end, fixed masks.

    python launch.py --sweep --config=configs/ablations/p21_table_4.py:sop

The paper has SOP, with T = 2. The clusters double every T epochs, so a run of E epochs gets to
2^floor((E - 1) / T) at most: with eight clusters a small experiment of six epochs and T = 2 equals
one with four, unless train.num_epochs or division.every_epochs says otherwise.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations

RUNS = "ablations"
SCORES = ablations.SCORES

_COLUMNS = ("recall_at_1", "nmi", "marp_paper")
_PAPER: ablations.Paper = {
    "sop": {
        "K = 1": (77.11, 89.65, 76.98),
        "K = 2": (78.25, 89.88, 78.10),
        "K = 4": (78.71, 89.89, 78.53),
        "K = 8": (79.19, 89.79, 78.96),
        "K = 16": (79.28, 89.70, 79.14),
        "K = 32": (79.54, 89.58, 79.35),
        "K = 64": (79.51, 89.42, 79.31),
    }
}


def get_config(data: str = "sop") -> ConfigDict:
    """Returns the settings that the rows start from."""
    return ablations.experiment(data)


def sweep(data: str = "sop") -> list[dict[str, Any]]:
    """Returns the rows."""
    settings = {
        f"K = {k}": ablations.FIX | {"division.max_clusters": k} if k > 1 else ablations.BASELINE
        for k in ablations.that_fit(data, (1, 2, 4, 8, 16, 32, 64))
    }
    return ablations.rows(settings, _COLUMNS, _PAPER.get(data))
