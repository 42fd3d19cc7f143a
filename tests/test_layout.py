"""The layout: imports point one way, every outside library has its door."""

import ast
import collections
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]

# From the bottom up: a module imports its own layer and those before it.
_LAYERS = {
    "concepts": "errors naming plugins ranges streams error_log output pairs distance_weighting "
    "mining losses masks memory convolution strategies crops counting clustering shares rounding "
    "device_lloyd device_kmeans grouping division walks sampling selection galleries settling "
    "ranking retrieval",
    "boundaries": "machine config_files regular_files datasets archives downloads quiet_tensorflow "
    "exif bitmaps gifs jpeg_xl headers decoding inspection devices processes pipeline "
    "device_cache host_cache augment distortions resnet models hub torch_pickle weight_files "
    "pretrained optimizers writers preemption profiling checksums locks versions workdirs "
    "shared_workdirs store",
    "joints": "state steps evaluation inputs experiment resuming settings agreement checks "
    "schedule epochs progress checkpoints reporting embedder comparison data_check tables sweeps "
    "runner",
    "loop": "train",
}
_FREE = sys.stdlib_module_names | {"numpy", "jax"}
_DOORS = {
    "etils": {"checksums", "host_cache", "reporting", "shared_workdirs", "store", "workdirs"},
    "filelock": {"datasets.sources", "host_cache", "runner"},
    "flax": {"models", "pretrained", "resnet", "state"},
    "huggingface_hub": {"hub"},
    "ml_collections": {
        "train",
        "agreement",
        "checks",
        "comparison",
        "config_files",
        "data_check",
        "epochs",
        "schedule",
        "experiment",
        "inputs",
        "resuming",
        "settings",
        "embedder",
        "reporting",
        "sweeps",
    },
    "optax": {"optimizers", "state", "steps", "experiment"},
    "orbax": {"checkpoints", "processes", "store"},
    "pyarrow": {"datasets.manifest"},
    "rich": {"writers"},
    "safetensors": {"weight_files"},
    "scipy": {"counting", "division", "datasets.cars"},
    "sklearn": {"clustering", "datasets.digits"},
    "tensorboardX": {"writers"},
    "tensorflow": {"quiet_tensorflow"},
    "tensorflow_datasets": {"datasets.builders", "datasets.prepared"},
    "threadpoolctl": {"clustering"},
}


def _module(path: Path) -> str:
    """Returns "dcjax.data.datasets" for dcjax/data/datasets/__init__.py."""
    parts = path.relative_to(_ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_PATHS = {_module(path): path for path in sorted((_ROOT / "dcjax").rglob("*.py"))}


def _imports(path: Path) -> Iterator[str]:
    """Yields the modules that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            outer = str(node.module)
            inner = [f"{outer}.{alias.name}" for alias in node.names]
            yield from (name if name in _PATHS else outer for name in inner)


def _layer(module: str) -> int:
    name = module.split(".")[1]
    return next(i for i, names in enumerate(_LAYERS.values()) if name in names.split())


_IMPORTS = {module: set(_imports(path)) for module, path in _PATHS.items()}
_OURS = {module: sorted(names & _PATHS.keys()) for module, names in _IMPORTS.items()}


def test_every_module_has_a_layer():
    names = {module.split(".")[1] for module in _PATHS if module != "dcjax"}
    assert names == set(" ".join(_LAYERS.values()).split())


@pytest.mark.parametrize("module", sorted(_PATHS.keys() - {"dcjax"}))
def test_imports_point_down(module):
    above = [name for name in _OURS[module] if _layer(name) > _layer(module)]
    assert not above


def test_imports_have_no_cycle():
    graphlib.TopologicalSorter(_OURS).prepare()  # raises CycleError


def test_nothing_imports_the_loop():
    assert not [module for module, names in _OURS.items() if "dcjax.modes.train" in names]
    assert "dcjax.modes.train" in set(_imports(_ROOT / "launch.py"))


def test_every_outside_library_has_its_doors():
    users = collections.defaultdict(set)
    for module, names in _IMPORTS.items():
        for library in {name.split(".")[0] for name in names} - _FREE - {"dcjax"}:
            users[library].add(module.removeprefix("dcjax."))
    assert users == _DOORS


@pytest.mark.parametrize("module", sorted(_PATHS))
def test_module_names_say_what_is_in_them(module):
    assert _PATHS[module].stem not in ("common", "helpers", "utils")


def test_concepts_come_without_frameworks():
    concepts = ", ".join(f"dcjax.{name}" for name in _LAYERS["concepts"].split())
    heavy = "{'flax', 'ml_collections', 'optax', 'orbax', 'tensorflow'}"
    code = f"import sys, {concepts}; print(sorted({heavy} & sys.modules.keys()))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
