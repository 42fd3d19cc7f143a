"""P21 (Sanakoyeu et al., PAMI 2021), Table V: augmentations, without and with division.

    python launch.py --sweep --config=configs/ablations/p21_table_5.py:cub

The paper has CUB, CARS, In-shop Clothes and SOP. For photographs in colour: the pixels that are
erased, 40 x 40 at a time, are more than drawn characters or digits have.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import ablations
from dcjax.core.errors import SettingError

RUNS = "ablations"
SCORES = ablations.SCORES

_STRATEGIES = {
    "Standard": "standard",
    "Geom": "geom",
    "Geom+Color": "geom_color",
    "Color Heavy": "color_heavy",
}
_ROWS = {
    f"{method}, {name}": changes | {"augment.strategy": strategy}
    for method, changes in (("Margin", ablations.BASELINE), ("Ours (fix)", ablations.FIX))
    for name, strategy in _STRATEGIES.items()
}
_COLUMNS = ("recall_at_1", "nmi", "marp_paper")
_PAPER: ablations.Paper = {
    "cub": {
        "Margin, Standard": (66.24, 68.46, 53.63),
        "Margin, Geom": (66.31, 67.63, 53.56),
        "Margin, Geom+Color": (66.93, 69.12, 54.07),
        "Margin, Color Heavy": (65.68, 68.63, 53.62),
        "Ours (fix), Standard": (67.45, 69.71, 54.92),
        "Ours (fix), Geom": (67.35, 69.13, 54.04),
        "Ours (fix), Geom+Color": (68.43, 69.74, 55.47),
        "Ours (fix), Color Heavy": (66.26, 70.27, 54.59),
    },
    "cars": {
        "Margin, Standard": (84.15, 69.09, 62.22),
        "Margin, Geom": (81.23, 66.80, 58.65),
        "Margin, Geom+Color": (81.24, 65.43, 58.16),
        "Margin, Color Heavy": (85.12, 69.31, 63.45),
        "Ours (fix), Standard": (85.77, 69.93, 64.35),
        "Ours (fix), Geom": (84.49, 68.75, 62.51),
        "Ours (fix), Geom+Color": (84.68, 67.64, 62.61),
        "Ours (fix), Color Heavy": (86.46, 68.79, 64.55),
    },
    "inshop": {
        "Margin, Standard": (87.11, 88.79, 85.33),
        "Margin, Geom": (87.87, 89.16, 86.14),
        "Margin, Geom+Color": (87.04, 88.70, 85.26),
        "Margin, Color Heavy": (79.02, 87.53, 78.95),
        "Ours (fix), Standard": (88.67, 89.25, 86.89),
        "Ours (fix), Geom": (90.15, 89.96, 88.15),
        "Ours (fix), Geom+Color": (88.35, 89.31, 86.63),
        "Ours (fix), Color Heavy": (82.22, 87.99, 81.56),
    },
    "sop": {
        "Margin, Standard": (77.11, 89.65, 76.98),
        "Margin, Geom": (76.14, 89.48, 75.94),
        "Margin, Geom+Color": (75.84, 89.47, 75.75),
        "Margin, Color Heavy": (72.17, 88.62, 72.42),
        "Ours (fix), Standard": (79.54, 89.58, 79.35),
        "Ours (fix), Geom": (78.82, 89.50, 78.63),
        "Ours (fix), Geom+Color": (78.48, 89.41, 78.34),
        "Ours (fix), Color Heavy": (76.02, 88.77, 76.03),
    },
}


def get_config(data: str = "cub") -> ConfigDict:
    """Returns the settings that the rows start from.

    Raises:
      SettingError: if the images are smaller than what is erased.
    """
    config = ablations.experiment(data)
    if config.dataset.crop < 64:
        raise SettingError(
            f"Table V is for photographs of 64 pixels or more, but {data!r} has "
            f"dataset.crop={config.dataset.crop}; take another experiment."
        )
    return config


def sweep(data: str = "cub") -> list[dict[str, Any]]:
    """Returns the rows."""
    return ablations.rows(_ROWS, _COLUMNS, _PAPER.get(data))
