"""Experiments of dcjax are found from any folder, after those in the user's `configs/`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcjax.core.errors import SettingError
from dcjax.experiment import config_files

_MINE = """
from configs import default, digits

def get_config():
    config = digits.get_config()
    config.seed = 7
    return config
"""
_DIGITS = """
from configs import default

def get_config():
    config = default.get_config()
    config.dataset.name = "mine"
    return config
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, empty, in a process that has not imported `configs`."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_configs(name)}
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in filter(_is_configs, list(sys.modules)):
        del sys.modules[name]
    sys.modules.update(before)


def _is_configs(name: str) -> bool:
    return name.split(".")[0] == "configs"


def test_experiments_are_found_from_any_folder(project: Path) -> None:
    assert config_files.load("configs/digits.py").dataset.name == "digits"
    assert config_files.load("./configs/ablations/p21_table_1.py:small.grocery").seed == 0
    (project / "mine.py").write_text(_MINE)
    assert config_files.load("mine.py").seed == 7


@pytest.mark.parametrize("init", [True, False])
def test_local_experiments_come_first(init: bool, project: Path) -> None:
    (project / "configs").mkdir()
    if init:
        (project / "configs" / "__init__.py").write_text("")
    (project / "configs" / "mine.py").write_text(_MINE)
    (project / "configs" / "digits.py").write_text(_DIGITS)
    mine = config_files.load("configs/mine.py")
    assert (mine.seed, mine.dataset.name) == (7, "mine")
    assert config_files.load("configs/digits.py").dataset.name == "mine"
    assert config_files.load("configs/cub.py").dataset.name == "cub"
    assert config_files.load("configs/ablations/p21_table_1.py:mine").seed == 7


@pytest.mark.parametrize("place", ["configs/digit.py", "configs/small/groceries.py"])
def test_nearest_experiment_is_named(place: str, project: Path) -> None:
    with pytest.raises(SettingError, match=r"the nearest is configs/(digits|small/grocery)\.py"):
        config_files.load(place)


@pytest.mark.parametrize("place", ["configs", "configs/", "configs/nothing.py", "digits.py"])
def test_paths_that_are_no_experiment_are_refused(place: str, project: Path) -> None:
    with pytest.raises(SettingError, match="must be a Python file"):
        config_files.load(place)
