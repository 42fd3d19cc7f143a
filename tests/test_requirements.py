"""The requirements: one list in three flavours of JAX, complete, within tested bounds."""

import ast
import importlib.metadata
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

_ROOT = Path(__file__).parents[1]
_FLAVOURS = ("requirements.txt", "requirements-cpu.txt", "requirements-tpu.txt")
# Names of packages that differ from what is imported.
_PACKAGES = {
    "absl": "absl-py",
    "ml_collections": "ml-collections",
    "numpy": "jax",  # whose bounds of NumPy count
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
    "tensorflow": "tensorflow-cpu",
    "tensorflow_datasets": "tensorflow-datasets",
}


def _lines(name: str) -> list[str]:
    lines = (_ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _is_jax(line: str) -> bool:
    return Requirement(line).name == "jax"


@pytest.mark.parametrize("name", _FLAVOURS[1:])
def test_flavours_differ_in_jax_only(name):
    here, there = ([line for line in _lines(n) if not _is_jax(line)] for n in (name, _FLAVOURS[0]))
    assert here == there


def test_flavours_have_the_same_bounds_of_jax():
    lines = [line for name in _FLAVOURS for line in _lines(name) if _is_jax(line)]
    assert len(lines) == 4
    assert len({str(Requirement(line).specifier) for line in lines}) == 1


@pytest.mark.parametrize("line", _lines("requirements-cpu.txt") + _lines("requirements-dev.txt"))
def test_bounds_hold_what_is_installed(line):
    requirement = Requirement(line)
    operators = {bound.operator for bound in requirement.specifier}
    assert operators == {">=", "<"}
    if requirement.marker is None or requirement.marker.evaluate():
        installed = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(installed, prereleases=True)


def test_everything_imported_is_required():
    required = {Requirement(line).name for line in _lines("requirements.txt")}
    imported = set()
    for path in [_ROOT / "launch.py", *(_ROOT / "dcjax").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
    outside = imported - sys.stdlib_module_names - {"dcjax"}
    assert {_PACKAGES.get(name, name) for name in outside} <= required
