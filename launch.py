"""The command line: python launch.py --config=configs/cub.py [--workdir=DIR] [--mode=MODE]."""

import os
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, a file in configs/.")
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate"], "What to do; evaluate needs only --workdir."
)
_WORKDIR = flags.DEFINE_list(
    "workdir", None, "Folder of the run, by default runs/NAME OF CONFIG; evaluate takes several."
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error came from.")

# What ml_collections puts before the reason.
_NOT_LOADED = "Configuration is not available because of an earlier failure to load: "
_ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/accel*", "/dev/vfio/[0-9]*")


def main(argv: Sequence[str]) -> None:
    """Runs a mode, and turns errors into one line."""
    del argv
    logging.set_verbosity(logging.ERROR)
    _choose_platform()
    try:
        {"train": _train, "evaluate": _evaluate}[_MODE.value](_CONFIG.value, _workdirs())
    except (ValueError, OSError, FloatingPointError) as error:
        if _TRACEBACK.value:
            raise
        sys.exit(f"launch.py: {error}")


def _train(config: ConfigDict, workdirs: list[str]) -> None:
    from dcjax.train import train

    if len(workdirs) > 1:
        raise ValueError(f"Training takes one --workdir, got {', '.join(workdirs)}.")
    train(config, workdirs[0])


def _evaluate(config: ConfigDict | None, workdirs: list[str]) -> None:
    from dcjax.reporting import compare

    compare(workdirs, config)


def _workdirs() -> list[str]:
    if _WORKDIR.value:
        return _WORKDIR.value
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    return [str(pathlib.Path("runs") / name)]


def _choose_platform() -> None:
    """Keeps jax[cuda] quiet where there is no accelerator that it could look for."""
    if not any(list(pathlib.Path("/").glob(pattern[1:])) for pattern in _ACCELERATORS):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags; ends with one line and code 2 for a wrong key, value or file."""
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            _CONFIG.value.to_dict()
        elif _WORKDIR.value is None or _MODE.value == "train":
            raise flags.Error("Give --config=configs/NAME.py, or --workdir=DIR to evaluate a run.")
        if rest[1:]:
            raise flags.Error(f"Unexpected argument {rest[1]!r}; settings are --config.KEY=VALUE.")
    except (flags.Error, AttributeError, OSError, TypeError, ValueError) as error:
        one_line = " ".join(str(error).split())
        sys.stderr.write(f"launch.py: {one_line.removeprefix(_NOT_LOADED)}\n")
        sys.exit(2)
    return rest


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
