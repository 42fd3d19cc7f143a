"""Packages that only some modes need: extras of the installation."""

import importlib
from collections.abc import Sequence

from dcjax.core.errors import SettingError


def require(extra: str, packages: Sequence[str], mode: str) -> None:
    """Checks that the packages of an extra can be imported.

    Args:
      extra: its name in pyproject.toml.
      packages: names of modules to import.
      mode: which needs them.

    Raises:
      SettingError: if one is not installed.
    """
    for name in packages:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            raise SettingError(
                f"--mode={mode} needs the package {name}, which is not installed; install the "
                f"extra {extra}: pip install '.[{extra}]' in the folder of dcjax."
            ) from None
