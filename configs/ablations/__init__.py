"""The papers' ablations: one file for each table, on the experiment of any data set.

    python launch.py --sweep --config=configs/ablations/p21_table_1.py:cub

What stands behind the colon is the name of a file in configs/, `small.grocery` for
configs/small/grocery.py. Tables with the same `RUNS` share the runs that they have in common.
"""

import importlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

import configs
from dcjax.core.errors import SettingError

Settings = dict[str, Any]
Paper = dict[str, dict[str, tuple[float, ...]]]  # percent, by experiment and row

# P21's names of what its tables compare.
BASELINE: Settings = {"division.max_clusters": 1}
FIX: Settings = {"model.masks": "fixed"}
LEARN: Settings = {"model.masks": "learned"}
NOT_PROGRESSIVE: Settings = FIX | {"division.hierarchy": "direct"}
NO_SUBSPACES: Settings = {"model.masks": "none"}

_LARGEST = {"cub": 32, "cars": 32, "vit.cub": 32, "vit.cars": 32, "digits": 2}
_LARGEST_OF_SMALL = 8

WITHOUT_SUPER_CLASSES = ("digits", "folder", "vid")

# Of P21's tables; map_at_r, which divides by R, stands beside the papers' mARP.
SCORES = ("recall_at_1", "nmi", "marp_paper", "map_at_r")

_NO_EXPERIMENTS = ("default", "ablations")


def experiment(data: str) -> ConfigDict:
    """Returns the settings of configs/<data>.py.

    Raises:
      SettingError: if there is no such file, naming those that there are.
    """
    if data not in (known := experiments()):
        raise SettingError(f"Unknown experiment {data!r}; known are {', '.join(known)}.")
    config = importlib.import_module(f"configs.{data}").get_config()
    config.paper = {}  # of one row; a table has those of all rows
    return config


def experiments() -> list[str]:
    """Returns the names of all experiments in configs/, the user's and those of dcjax."""
    files = (
        path.relative_to(folder).with_suffix("")
        for folder in configs.__path__
        for path in pathlib.Path(folder).rglob("*.py")
    )
    return sorted(
        {
            ".".join(file.parts)
            for file in files
            if file.name != "__init__" and file.parts[0] not in _NO_EXPERIMENTS
        }
    )


def is_small(data: str) -> bool:
    """Returns whether an experiment is one of a few classes and epochs."""
    return data == "digits" or data.startswith("small.")


def that_fit(data: str, numbers_of_clusters: Sequence[int]) -> list[int]:
    """Returns those that an experiment can hold: each needs two classes, and images for batches."""
    largest = _LARGEST.get(data, _LARGEST_OF_SMALL if is_small(data) else max(numbers_of_clusters))
    return [k for k in numbers_of_clusters if k <= largest]


def rows(
    settings: Mapping[str, Settings],
    scores: Sequence[str] = (),
    paper: Mapping[str, tuple[float, ...]] | None = None,
    baseline: str = "",
) -> list[dict[str, Any]]:
    """Returns the rows of a table, as `sweep` of a config file lists them.

    Args:
      settings: what each row sets, by the row's name in the paper.
      scores: names of the paper's columns.
      paper: the paper's percent in these columns, by row; None where it has no such table.
      baseline: the row that these are compared with; "": the first one of the table.
    """
    figures = {
        name: dict(zip(scores, values, strict=True)) for name, values in (paper or {}).items()
    }
    return [
        {"name": name, "settings": changes, "paper": figures.get(name, {}), "baseline": baseline}
        for name, changes in settings.items()
    ]
