"""P21 (Sanakoyeu et al., PAMI 2021), Table III: epochs between two divisions, fixed masks.

    python launch.py --sweep --config=configs/ablations/p21_table_3.py:sop

The paper has SOP. Of a small experiment's few epochs longer periods would leave too few divisions.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations

RUNS = "ablations"
SCORES = ablations.SCORES

_COLUMNS = ("recall_at_1", "nmi", "marp_paper")
_PAPER: ablations.Paper = {
    "sop": {
        "T = 1": (79.01, 89.55, 78.82),
        "T = 2": (79.54, 89.58, 79.35),
        "T = 5": (78.68, 89.48, 78.53),
        "T = 10": (78.24, 89.45, 78.05),
        "T = 20": (77.22, 89.24, 77.09),
    }
}


def get_config(data: str = "sop") -> ConfigDict:
    """Returns the settings that the rows start from."""
    return ablations.experiment(data)


def sweep(data: str = "sop") -> list[dict[str, Any]]:
    """Returns the rows."""
    periods = (1, 2, 3) if ablations.is_small(data) else (1, 2, 5, 10, 20)
    settings = {f"T = {t}": ablations.FIX | {"division.every_epochs": t} for t in periods}
    # guess: not in the paper or its code. With T = 1 a frozen epoch would freeze all of them.
    settings["T = 1"] |= {"division.freeze_backbone_epochs": 0}
    return ablations.rows(settings, _COLUMNS, _PAPER.get(data))
