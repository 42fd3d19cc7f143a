"""The requirements: one complete common list within tested bounds, and variants of JAX."""

import ast
import importlib.metadata
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

_ROOT = Path(__file__).parents[1]
_COMMON = "requirements/common.txt"
_SEARCH = "requirements/search.txt"
# Packages whose name differs from the imported module.
_PACKAGES = {
    "PIL": "pillow",
    "absl": "absl-py",
    "ml_collections": "ml-collections",
    "numpy": "jax",  # its bounds of NumPy count
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
    "tensorflow": "tensorflow-cpu",
    "tensorflow_datasets": "tensorflow-datasets",
}


def _lines(name: str) -> list[str]:
    lines = (_ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize(
    ("flavour", "extra"),
    [
        ("requirements.txt", "cuda"),
        ("requirements-cpu.txt", ""),
        ("requirements-tpu.txt", "tpu"),
    ],
)
def test_platform_requirements_add_a_jax_extra_to_the_common_list(flavour: str, extra: str) -> None:
    added = [f"requirements/{extra}.txt"] if extra else []
    assert _lines(flavour) == [f"-r {name}" for name in [_COMMON, *added]]
    for name in added:
        (requirement,) = map(Requirement, _lines(name))
        assert (requirement.name, requirement.extras) == ("jax", {extra})
        assert not requirement.specifier  # the bounds are in the common list


@pytest.mark.parametrize(
    "line", [*_lines(_COMMON), *_lines(_SEARCH), *_lines("requirements/dev.txt")]
)
def test_installed_versions_satisfy_the_bounds(line: str) -> None:
    requirement = Requirement(line)
    operators = {bound.operator for bound in requirement.specifier}
    assert operators == {">=", "<"}
    if requirement.marker is None or requirement.marker.evaluate():
        installed = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(installed, prereleases=True)


def test_every_imported_package_is_required() -> None:
    required = {Requirement(line).name for line in _lines(_COMMON) + _lines(_SEARCH)}
    imported: set[str] = set()
    for path in [_ROOT / "launch.py", *(_ROOT / "dcjax").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
    outside = imported - sys.stdlib_module_names - {"dcjax"}
    assert {_PACKAGES.get(name, name) for name in outside} <= required
