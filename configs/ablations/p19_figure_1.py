"""P19 (Sanakoyeu et al., CVPR 2019), Figure 1: how many clusters, all from the start.

    python launch.py --sweep --config=configs/ablations/p19_figure_1.py:sop

The paper has curves only; its best is K = 8.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations
from configs.ablations import p19

RUNS = p19.RUNS
SCORES = ablations.SCORES


def get_config(data: str = "sop") -> ConfigDict:
    """Returns the settings that the rows start from."""
    return p19.get_config(data)


def sweep(data: str = "sop") -> list[dict[str, Any]]:
    """Returns the rows."""
    fitting = ablations.that_fit(data, (1, 2, 3, 4, 8, 16))
    return ablations.rows({f"K = {k}": {"division.max_clusters": k} for k in fitting})
