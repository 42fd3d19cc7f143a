"""Locates the config files that dcjax comes with, in a clone and after installation.

In a clone the folder lies beside the package; a wheel holds it as `dcjax/configs`, so that no
package of the general name `configs` is installed. Config files import one another as
`from configs import default` either way.
"""

import importlib.util
import os
import pathlib
import sys

_PACKAGE = pathlib.Path(__file__).parents[1]
_NAME = "configs"


def folder() -> pathlib.Path:
    """Returns the folder of the experiments that dcjax comes with."""
    installed = _PACKAGE / _NAME
    return installed if installed.is_dir() else _PACKAGE.with_name(_NAME)


def paths() -> list[str]:
    """Returns the experiments that dcjax comes with, as `--config` names them."""
    files = sorted(folder().rglob("*.py"))
    return [str(_NAME / path.relative_to(folder())) for path in files]


def find(path: str) -> str:
    """Returns a path, or that of the experiment it names if there is no such file.

    Args:
      path: of a config file, such as `configs/cub.py`.
    """
    first, *rest = pathlib.PurePath(path).parts or ("",)
    shipped = folder().joinpath(*rest)
    if first == _NAME and not os.path.exists(path) and shipped.is_file():
        return str(shipped)
    return path


def make_importable() -> None:
    """Makes `configs` importable: the local folder of that name, and dcjax's for other files.

    Does nothing if `configs` has been imported already.
    """
    if _NAME in sys.modules:
        return
    local = pathlib.Path(_NAME).absolute()
    folders = [path for path in dict.fromkeys((local, folder())) if path.is_dir()]
    inits = [path / "__init__.py" for path in folders]
    spec = importlib.util.spec_from_file_location(
        _NAME,
        next(filter(pathlib.Path.is_file, inits)),
        submodule_search_locations=list(map(str, folders)),
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"Cannot import {inits[-1]}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    spec.loader.exec_module(module)
