"""Not of a paper: the backbone's activations in float32 and in bfloat16.

python launch.py --sweep --config=configs/ablations/precision.py:cub
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations

RUNS = "ablations"
SCORES = ablations.SCORES

_ROWS: dict[str, ablations.Settings] = {
    f"{name}, {precision}": settings | {"model.precision": precision}
    for name, settings in (("Margin", ablations.BASELINE), ("Ours (learn)", ablations.LEARN))
    for precision in ("float32", "bfloat16")
}


def get_config(data: str = "cub") -> ConfigDict:
    """Returns the settings that the rows start from."""
    return ablations.experiment(data)


def sweep(data: str = "cub") -> list[dict[str, Any]]:
    """Returns the rows."""
    del data
    return ablations.rows(_ROWS)
