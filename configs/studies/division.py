"""Without division, and with K = 4 clusters: sampling from them alone, fixed and learned masks.

python launch.py --sweep --config=configs/studies/division.py:birds_head --seeds=0,1,2
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations, studies

RUNS = studies.RUNS
SCORES = studies.SCORES

_SLOW_MASKS = 1e-3  # the rate in the papers' code


def get_config(data: str = "birds_head") -> ConfigDict:
    """Returns the settings that the rows start from."""
    return studies.experiment(data)


def sweep(data: str = "birds_head") -> list[dict[str, Any]]:
    """Returns the rows."""
    config = studies.experiment(data)
    slow = _SLOW_MASKS / config.optimizer.learning_rate
    joined = 2 * config.train.num_epochs // 3
    return ablations.rows(
        {
            "K = 1": ablations.BASELINE,
            "clusters only": ablations.NO_SUBSPACES,
            "fixed": ablations.FIX,
            "learned": ablations.LEARN,
            "learned at 1e-3": ablations.LEARN | {"optimizer.masks_multiplier": slow},
            "fixed, joined": ablations.FIX | {"train.full_embedding_from_epoch": joined},
        }
    )
