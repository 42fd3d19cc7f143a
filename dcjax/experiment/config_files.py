"""Reads settings: from Python config files, and from the config.json of a run."""

import glob
import inspect
import json
import os
import pathlib
import re
import sys
import types
from typing import Any

from ml_collections import ConfigDict

from dcjax.core import naming
from dcjax.core.errors import InputError, SettingError, file_errors, nearest
from dcjax.experiment import shipped_configs, versions


def load(place: str) -> ConfigDict:
    """Returns the settings of a config file.

    Errors within the file pass through with their traceback.

    Args:
      place: FILE, or FILE:ARGUMENT for a get_config that takes an argument.

    Raises:
      SettingError: if there is no such file, or it has no get_config like that.
    """
    file, colon, argument = place.partition(":")
    module = run(file)
    if not callable(get_config := getattr(module, "get_config", None)):
        raise SettingError(f"{file} has no function get_config(), which returns the settings.")
    try:
        config = call(get_config, [argument] if colon else [], file)
    except (AttributeError, KeyError) as error:
        # A locked ConfigDict says '"Key "NAME" does not exist ...' or "'NAME'", without the group.
        match = re.match(r"""['"]+(?:Key ")?(\w+)""", str(error))
        if match and (names := versions.names_ending_in(match[1])):
            renamed = ", ".join(f"{before} is {now} now" for before, now in names.items())
            raise SettingError(f"{file} uses a setting that was renamed: {renamed}.") from error
        raise
    if not isinstance(config, ConfigDict):
        raise SettingError(
            f"get_config of {file} must return a ConfigDict, got a {type(config).__name__}."
        )
    return config


def run(file: str) -> types.ModuleType:
    """Runs a Python file as a module.

    Args:
      file: its path; `configs/NAME.py` is an experiment of dcjax if there is no such file here.

    Raises:
      SettingError: if there is no such file.
      FileError: if it cannot be read.
    """
    path = shipped_configs.find(naming.expand(file))
    if not (path.endswith(".py") and os.path.isfile(path)):
        known = glob.glob("configs/**/*.py", recursive=True) + shipped_configs.paths()
        raise SettingError(
            f"--config must be a Python file, got {file!r}"
            f"{nearest(path, known) or '; configs/ has the experiments, such as configs/cub.py'}."
        )
    with file_errors(f"Cannot read the config file {path}"):
        source = pathlib.Path(path).read_bytes()
    shipped_configs.make_importable()
    module = types.ModuleType(f"config_file_{pathlib.Path(path).stem}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    exec(compile(source, path, "exec"), module.__dict__)
    return module


def call(function: Any, arguments: list[str], file: str) -> Any:
    """Returns what a function of a config file returns.

    Raises:
      SettingError: if it does not take just these arguments.
    """
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        given = f"--config={file}:{arguments[0]}" if arguments else f"--config={file}"
        raise SettingError(
            f"{function.__name__} of {file} cannot be called as {given} asks: {error}; what it "
            "takes stands behind a colon, --config=FILE:ARGUMENT."
        ) from error
    return function(*arguments)


def read_saved(path: pathlib.Path) -> ConfigDict:
    """Returns the settings in a run's config.json.

    Raises:
      SettingError: if it does not hold any, or those of a newer version.
      FileError: if it cannot be read.
    """
    with file_errors(f"Cannot read {path}"):
        content = path.read_bytes()
    try:
        tree = json.loads(content)
        if not isinstance(tree, dict):
            raise TypeError(f"it holds a {type(tree).__name__}, not an object")
        config = ConfigDict(versions.parse(tree, str(path)))
        config.dataset.download = False  # only the command line may allow it
    except InputError as error:  # of a newer version, or one that lacks settings
        raise SettingError(str(error)) from error
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingError(
            f"{path} does not hold the settings of a run ({reason}); restore it, or move it away: "
            "the checkpoints hold them too."
        ) from error
    return config
