"""The command line: python launch.py --config=configs/cub.py [--workdir=DIR] [--mode=MODE].

With --sweep, every row of a config's `sweep()` is trained, see `dcjax/sweeps.py`.
"""

import json
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from dcjax import machine
from dcjax.errors import DcjaxError, InputError

_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate", "check_data"],
    "What to do; evaluate needs no --config.",
)
_WORKDIR = flags.DEFINE_list(
    "workdir",
    None,
    "Folder of the run or of a sweep's runs, by default runs/NAME OF CONFIG; evaluate takes more.",
)
_PROFILE = flags.DEFINE_bool(
    "profile", False, "Trace steps 51 to 100 of a training, and say how long the devices idle."
)
_SWEEP = flags.DEFINE_bool(
    "sweep", False, "Train every row of the config's sweep(), and make a table of the scores."
)
_SEEDS = flags.DEFINE_list("seeds", [], "Of a sweep: train each row with each of these seeds.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Of a sweep: print its commands and end.")
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "on", "off"],
    "Whether to join other processes: auto, where JAX detects a TPU pod, GKE, SLURM or Open MPI; "
    "on, or end with an error; off.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, to join processes where nothing is detected."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "Processes, with --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Of this process, with --coordinator.")
_VIRTUAL_DEVICES = flags.DEFINE_integer(
    "virtual_devices",
    0,
    "Train on so many pretended CPU devices, to try out what many do.",
    lower_bound=0,
)
_TRUST_CUSTOM_CODE = flags.DEFINE_bool(
    "trust_custom_code",
    False,
    "To evaluate without --config: import and run the code outside dcjax that a run names.",
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error came from.")

# What ml_collections puts before the reason.
_NOT_LOADED = "Configuration is not available because of an earlier failure to load: "
_IN_CONFIG = "Error whilst parsing config file:"


def main(argv: Sequence[str]) -> None:
    """Runs a mode or a sweep, and turns errors into one line."""
    logging.set_verbosity(logging.ERROR)
    machine.choose_platform(_VIRTUAL_DEVICES.value)
    machine.keep_quiet()
    machine.keep_compilations()
    try:
        modes = {"train": _train, "evaluate": _evaluate, "check_data": _check_data}
        if _SWEEP.value:
            _sweep(_config(), argv[0])
        elif _SEEDS.value or _DRY_RUN.value:
            raise InputError("--seeds and --dry_run belong to a sweep: give --sweep too.")
        else:
            modes[_MODE.value](_config(), _workdirs())
    except KeyboardInterrupt:
        _end(1, "launch.py: interrupted; a run goes on from its last checkpoint.")
    except Exception as error:
        _end(1, traceback.format_exc().rstrip() if _TRACEBACK.value else _told(error))


def _told(error: Exception) -> str:
    """Returns the line that says what is wrong, or the traceback of what nobody has foreseen."""
    if isinstance(error, DcjaxError | OSError):
        return f"launch.py: {error}"
    jax = sys.modules.get("jax")
    if jax and jax.distributed.is_initialized() and isinstance(error, jax.errors.JaxRuntimeError):
        return (
            f"launch.py: {' '.join(str(error).split())[:300]}; if another process has ended, start "
            "all of them again: they go on from the last checkpoint."
        )
    return traceback.format_exc().rstrip()


def _end(code: int, error: str = "") -> None:
    """Ends at once: waits neither for a division under way nor, of many processes, for others."""
    if error:
        sys.stderr.write(f"{error}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _train(config: ConfigDict, workdirs: list[str]) -> None:
    _join()
    import jax

    from dcjax.quiet_tensorflow import hide_devices
    from dcjax.train import train

    hide_devices()
    if train(config, _only(workdirs), profiled=_PROFILE.value) is None:  # stopped
        if jax.distributed.is_initialized():
            jax.distributed.shutdown()
        _end(0)


def _evaluate(config: ConfigDict | None, workdirs: list[str]) -> None:
    from dcjax.comparison import compare
    from dcjax.quiet_tensorflow import hide_devices

    if _PROFILE.value:
        raise InputError("--profile traces training steps; an evaluation has none.")
    _join()
    hide_devices()
    # A file given as --config is the user's own; the settings may else be those that a run saved.
    trusted = _TRUST_CUSTOM_CODE.value or flags.FLAGS["config"].present > 0
    compare(workdirs, config, trust_custom_code=trusted)


def _check_data(config: ConfigDict, workdirs: list[str]) -> None:
    from dcjax.data_check import check_data
    from dcjax.quiet_tensorflow import hide_devices

    if _PROFILE.value:
        raise InputError("--profile traces training steps; a look at the data has none.")
    hide_devices()
    if not check_data(config, _only(workdirs)):
        sys.exit(1)


def _sweep(config: ConfigDict, program: str) -> None:
    from dcjax import runner, sweeps

    if _MODE.value != "train" or _PROFILE.value:
        raise InputError("--sweep trains: leave out --mode and --profile.")
    if _DISTRIBUTED.value != "auto" or _COORDINATOR.value:
        raise InputError(
            "--sweep trains each run in one process: leave out --distributed and --coordinator; "
            "the same sweep may be started on several hosts, which share the runs."
        )
    flag = flags.FLAGS["config"]
    sweep = sweeps.plan(
        config,
        program=program,
        path=config_flags.get_config_filename(flag),
        changes=config_flags.get_override_values(flag),
        seeds=_SEEDS.value,
        workdir=_only(_WORKDIR.value) if _WORKDIR.value else None,
    )
    if _DRY_RUN.value:
        sys.stdout.writelines(f"{command}\n" for command in runner.commands(sweep))
    elif not runner.run(sweep):
        sys.exit(1)


def _join() -> None:
    """Joins the other processes of this run, if there are any."""
    import jax

    from dcjax import processes

    processes.join(
        _DISTRIBUTED.value,
        coordinator=_COORDINATOR.value,
        num_processes=_NUM_PROCESSES.value,
        process_id=_PROCESS_ID.value,
    )
    found = machine.accelerators()
    if found and "JAX_PLATFORMS" not in os.environ and jax.default_backend() == "cpu":
        sys.stderr.write(
            f"launch.py: this machine has {found[0]}, but JAX computes on the CPU; install "
            "requirements.txt for a GPU or requirements-tpu.txt for a TPU, or set "
            "JAX_PLATFORMS=cpu.\n"
        )


def _only(workdirs: list[str]) -> str:
    if len(workdirs) > 1:
        raise InputError(f"--mode={_MODE.value} takes one --workdir, got {', '.join(workdirs)}.")
    return workdirs[0]


def _config() -> ConfigDict | None:
    return flags.FLAGS.config


def _workdirs() -> list[str]:
    if _WORKDIR.value:
        return _WORKDIR.value
    file = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    return [str(pathlib.Path("runs") / pathlib.Path(file).stem)]


def _define_config(argv: Sequence[str]) -> None:
    """Defines --config: a file; or the settings of the one run that is to be evaluated."""
    if not any(argument.startswith(("--config=", "-config=")) for argument in argv):
        flags.FLAGS(argv, known_only=True)
        saved = pathlib.Path((_WORKDIR.value or [""])[0]) / "config.json"
        if _MODE.value == "evaluate" and len(_WORKDIR.value or []) == 1 and saved.is_file():
            settings = ConfigDict(json.loads(saved.read_text(), object_hook=_with_tuples))
            settings.dataset.download = False  # which the command line allows, not the run
            config_flags.DEFINE_config_dict("config", settings, lock_config=True)
            return
    config_flags.DEFINE_config_file("config", None, "Experiment, a file in configs/.")


def _with_tuples(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(x) if isinstance(x, list) else x for key, x in tree.items()}


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags; ends with one line and code 2 for a wrong key, value or file."""
    try:
        _define_config(argv)
        rest = flags.FLAGS(argv)
        if (config := _config()) is not None:
            config.to_dict()
        elif _WORKDIR.value is None or _MODE.value != "evaluate":
            raise flags.Error("Give --config=configs/NAME.py, or --workdir=DIR to evaluate a run.")
        if rest[1:]:
            raise flags.Error(f"Unexpected argument {rest[1]!r}; settings are --config.KEY=VALUE.")
    except (
        flags.Error,
        AttributeError,
        ImportError,
        OSError,
        SyntaxError,
        TypeError,
        ValueError,
    ) as error:
        text = str(error).strip()
        if error.args and isinstance(error.args[0], KeyError):  # of an AttributeError
            text = f"configs/default.py has no such setting: {error.args[0].args[0]}"
        if _IN_CONFIG in text:  # and then a traceback
            text = text.splitlines()[-1].removeprefix("ValueError: ")
        one_line = " ".join(text.split())
        sys.stderr.write(f"launch.py: {one_line.removeprefix(_NOT_LOADED)}\n")
        sys.exit(2)
    return rest


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
