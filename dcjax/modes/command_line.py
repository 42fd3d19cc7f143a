"""The command line: reads flags and settings, starts a mode, reports errors.

`launch.py` and the installed command `dcjax` call `run`. JAX and TensorFlow are imported only after
the flags are checked, so that --help and errors in flags do not wait for them.
"""

import functools
import importlib.metadata
import os
import pathlib
import platform
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

import dcjax
from dcjax.core import extras, naming, programs
from dcjax.core.errors import DcjaxError, SettingError
from dcjax.distributed import machine
from dcjax.experiment import config_files
from dcjax.modes import command_flags
from dcjax.runs import error_log, output, workdirs
from dcjax.runs.startup import StartUp

# Settings that --mode=score uses, besides those that are flags.
_SCORE_SETTINGS = {
    *("eval.protocol", "eval.gallery_draws", "eval.nmi_runs", "eval.kmeans", "eval.fmr"),
    *("eval.rerank", "eval.reranking.k1", "eval.reranking.k2", "eval.reranking.original_weight"),
}
_SETTINGS = flags.FlagValues()  # --config.GROUP.NAME, where there are settings to change
_OVERRIDE = re.compile(r"--?(no)?config\.([^=]*)")
_USAGE = """{program} --config=configs/cub.py [--workdir=DIR] [--mode=MODE]

With --sweep, trains every row of the config's sweep(), with --folds=N holds each of N parts of the
training classes out once, and makes a table of the scores.
"""


def run() -> None:
    """Runs the program that `sys.argv` asks for, and ends the process."""
    machine.use_utf8()
    # Modules in the current folder can be imported, but do not shadow installed packages.
    sys.path.append("")
    for flag in flags.FLAGS.flags_by_module_dict()[command_flags.__name__]:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)  # which --help shows
    usage = _USAGE.format(program=shlex.join(programs.command(sys.argv[:1])))
    sys.modules["__main__"].__doc__ = usage  # where absl takes the head of --help from
    app.run(main, flags_parser=_parse)


def main(argv: Sequence[str]) -> None:
    """Runs a mode or a sweep; if it fails, prints why."""
    start_up = StartUp.of_process("settings")
    start_up.enter("imports")
    trains = command_flags.MODE.value == "train" and not command_flags.DRY_RUN.value
    ended = "the output cannot be written any more ({reason}); the run goes on without it."
    output.protect(f"{programs.name()}: {ended}" if trains else "")
    logging.set_verbosity(logging.ERROR)
    try:
        modes: dict[str, Callable[[Any, list[str]], None]] = {
            "train": functools.partial(_train, start_up),
            "evaluate": _evaluate,
            "check_data": _check_data,
            "forecast": _forecast,
            "embed": _embed,
            "score": _score,
            "export": _export,
            "report": _report,
            "search": _search,
        }
        machine.leave_devices_to_jax()  # also by a sweep, whose runs need them
        if command_flags.SWEEP.value or command_flags.FOLDS.value:
            _sweep(_config(), argv[0])
        elif given := command_flags.of_sweeps():
            raise SettingError(
                f"Only a sweep takes {', '.join(given)}: give --sweep or --folds too."
            )
        elif command_flags.MODE.value == "table":
            _table()
        else:
            if command_flags.MODE.value in command_flags.JOINING:
                _join()
            modes[command_flags.MODE.value](_config(), command_flags.workdirs())
    except KeyboardInterrupt:
        rest = {
            "train": "; a run goes on from its last checkpoint",
            "embed": "; the same command continues with the parts that are complete",
        }
        _end(1, f"{programs.name()}: interrupted{rest.get(command_flags.MODE.value, '')}.")
    except Exception as error:
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    """Ends with one line for errors that a user can correct, else with a traceback, also logged."""
    line = _error_line(error)
    code = error.exit_code if isinstance(error, DcjaxError) else 1
    if line and not (flags.FLAGS.is_parsed() and command_flags.TRACEBACK.value):
        _end(code, line)
    text = traceback.format_exc().rstrip()
    if line or not (folder := _log_folder()):
        _end(code, text)
    jax = sys.modules.get("jax")
    process = jax.process_index() if jax and jax.distributed.is_initialized() else 0
    kept = error_log.append(
        folder, text, programs.command(sys.argv), version=dcjax.__version__, process=process
    )
    _end(code, f"{text}\n{programs.name()}: {kept}")


def _error_line(error: Exception) -> str:
    """Returns the line for an error, "" if it needs a traceback."""
    if isinstance(error, DcjaxError):
        return f"{programs.name()}: {error}"
    jax = sys.modules.get("jax")
    if jax and jax.distributed.is_initialized() and isinstance(error, jax.errors.JaxRuntimeError):
        reason = " ".join(str(error).split())[:300]
        return (
            f"{programs.name()}: {reason}; if another process has ended, start all of them again: "
            "they go on from the last checkpoint."
        )
    return ""


def _log_folder() -> pathlib.Path | None:
    """Returns the folder for the log of tracebacks, None if nothing is to be written."""
    writes = flags.FLAGS.is_parsed() and command_flags.MODE.value in ("train", "check_data")
    if not writes or command_flags.SWEEP.value or command_flags.FOLDS.value:
        return None
    try:
        return workdirs.on_disk(command_flags.require_one(command_flags.workdirs()))
    except DcjaxError:
        return None


def _end(code: int, error: str = "") -> NoReturn:
    """Ends at once, without waiting for a division under way or for other processes."""
    if error:
        sys.stderr.write(f"{error}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _train(start_up: StartUp, config: ConfigDict, workdirs: list[str]) -> None:
    import jax

    from dcjax.modes.train import refit_workdir, train

    workdir = command_flags.require_one(workdirs)
    profiled = command_flags.PROFILE.value
    if train(config, workdir, profiled=profiled, start_up=start_up) is None:  # stopped
        if jax.distributed.is_initialized():
            jax.distributed.shutdown()
        _end(0)
    if config.train.report:
        from dcjax.modes import report  # which imports what draws

        with_traceback = command_flags.TRACEBACK.value
        for folder in [workdir, refit_workdir(workdir)] if config.train.refit else [workdir]:
            report.report_after_training(config, folder, with_traceback=with_traceback)


def _evaluate(config: ConfigDict | None, workdirs: list[str]) -> None:
    from dcjax.modes.evaluate import compare

    compare(workdirs, config, trust_custom_code=command_flags.trusts_custom_code())


def _embed(config: ConfigDict | None, workdirs: list[str]) -> None:
    from dcjax.modes.embed import embed

    is_finished = embed(
        command_flags.require_one(workdirs),
        config,
        images=command_flags.IMAGES.value,
        output=command_flags.OUTPUT.value,
        trust_custom_code=command_flags.trusts_custom_code(),
    )
    if not is_finished:
        _end(0)


def _score(config: ConfigDict, workdirs: list[str]) -> None:
    del workdirs
    from dcjax.modes.score import score

    if command_flags.KS.value:
        config.eval.ks = tuple(map(int, command_flags.KS.value))
    score(
        command_flags.embeddings(),
        config,
        with_nmi=command_flags.NMI.value,
        normalize=command_flags.NORMALIZE.value,
        output=command_flags.OUTPUT.value,
    )


def _export(config: ConfigDict | None, workdirs: list[str]) -> None:
    from dcjax.modes.export import export

    export(
        command_flags.require_one(workdirs),
        config,
        output=command_flags.OUTPUT.value or "",
        trust_custom_code=command_flags.trusts_custom_code(),
    )


def _report(config: ConfigDict | None, workdirs: list[str]) -> None:
    from dcjax.modes.report import report

    report(
        workdirs,
        config,
        output=command_flags.OUTPUT.value or "",
        trust_custom_code=command_flags.trusts_custom_code(),
    )


def _search(config: ConfigDict | None, workdirs: list[str]) -> None:
    extras.require("search", ("starlette", "uvicorn", "python_multipart"), "search")
    from dcjax.modes.search import search

    search(
        command_flags.require_one(workdirs),
        config,
        gallery=command_flags.GALLERY.value,
        host=command_flags.HOST.value or "127.0.0.1",
        port=8000 if command_flags.PORT.value is None else command_flags.PORT.value,
        trust_custom_code=command_flags.trusts_custom_code(),
    )
    _end(0)  # without waiting for searches under way


def _check_data(config: ConfigDict, workdirs: list[str]) -> None:
    from dcjax.modes.check_data import check_data

    if not check_data(config, command_flags.require_one(workdirs)):
        sys.exit(1)


def _forecast(config: ConfigDict, workdirs: list[str]) -> None:
    del workdirs
    from dcjax.modes.forecast import forecast

    forecast(config, output=command_flags.OUTPUT.value)


def _sweep(config: ConfigDict, path: str) -> None:
    from dcjax.modes import sweep_runner, sweeps

    if command_flags.MODE.value != "train" or command_flags.PROFILE.value:
        raise SettingError("--sweep and --folds train: leave out --mode and --profile.")
    if command_flags.DISTRIBUTED.value != "auto" or command_flags.COORDINATOR.value:
        raise SettingError(
            "A sweep trains each run in one process: leave out --distributed and --coordinator; "
            "the same sweep may be started on several hosts, which share the runs."
        )
    sequence = command_flags.UNTIL, command_flags.MARGIN, command_flags.BUDGET
    if len({flag.value is None for flag in sequence}) > 1:
        missing = ", ".join(f"--{flag.name}" for flag in sequence if flag.value is None)
        raise SettingError(
            "--until=decided, --margin=PERCENT and --budget=SEEDS belong together, such as "
            f"--until=decided --margin=0.5 --budget=30; got no {missing}."
        )
    sweep = sweeps.plan(
        config,
        program=path,
        path=command_flags.CONFIG.value or "",
        changes=config_flags.get_override_values(_SETTINGS["config"]),
        seeds=command_flags.SEEDS.value,
        workdir=command_flags.require_one(command_flags.WORKDIR.value)
        if command_flags.WORKDIR.value
        else None,
        folds=command_flags.FOLDS.value,
        has_rows=command_flags.SWEEP.value,
        baseline=command_flags.BASELINE.value,
        margin=command_flags.MARGIN.value or 0.0,
        budget=command_flags.BUDGET.value or 0,
        bootstraps=command_flags.INTERVAL.value == "bootstrap",
    )
    if command_flags.DRY_RUN.value:
        sys.stdout.writelines(f"{command}\n" for command in sweep_runner.commands(sweep))
    elif not sweep_runner.run(sweep):
        sys.exit(1)


def _table() -> None:
    from dcjax.core.console import Console
    from dcjax.modes import sweep_files

    files = sweep_files.write_again(
        pathlib.Path(naming.expand(command_flags.RUNS.value or "")),
        command=shlex.join(programs.command(sys.argv)),
        names=command_flags.SCORES.value,
        baseline=command_flags.BASELINE.value,
        output=command_flags.OUTPUT.value or "",
    )
    for file in files:
        Console().print_line(f"wrote     {file}")


def _join() -> None:
    """Joins the other processes of this run, if there are any."""
    import jax

    from dcjax.distributed import processes

    processes.join(
        command_flags.DISTRIBUTED.value,
        coordinator=command_flags.COORDINATOR.value,
        num_processes=command_flags.NUM_PROCESSES.value,
        process_id=command_flags.PROCESS_ID.value,
    )
    device_files = machine.accelerators()
    if device_files and "JAX_PLATFORMS" not in os.environ and jax.default_backend() == "cpu":
        sys.stderr.write(
            f"{programs.name()}: this machine has {device_files[0]}, but JAX computes on the CPU; "
            "install jax[cuda] for a GPU or jax[tpu] for a TPU, or set JAX_PLATFORMS=cpu.\n"
        )


def _config() -> ConfigDict | None:
    return _SETTINGS.config if "config" in _SETTINGS else None


def _load_settings() -> ConfigDict | None:
    """Returns the settings of --config, or those of the one run that is to be evaluated."""
    if command_flags.CONFIG.value is not None:
        return config_files.load(command_flags.CONFIG.value)
    if command_flags.MODE.value == "score":
        return config_files.load("configs/default.py")
    if command_flags.MODE.value == "table":
        return None
    if command_flags.MODE.value not in command_flags.SAVED or not command_flags.WORKDIR.value:
        raise flags.Error(
            "Give --config=configs/NAME.py, or --workdir=DIR to evaluate, embed with, export, "
            "report or search with a run."
        )
    first, *others = command_flags.workdirs()
    saved = workdirs.as_path(first) / "config.json"
    return config_files.read_saved(saved) if not others and saved.is_file() else None


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags; ends with one line and exit code 2 if one is wrong."""
    output.protect()
    try:
        expanded = [argv[0], *flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=True)]
        flags.FLAGS.set_gnu_getopt(True)
        try:
            rest = flags.FLAGS(expanded, known_only=True)  # but for settings, and what is wrong
        except SystemExit:  # --help has shown it
            _end(0)
        for argument in rest[1:]:
            if argument.startswith("-") and not _OVERRIDE.match(argument):
                flags.FLAGS([argv[0], argument])  # raises, and names similar flags
        if command_flags.VERSION.value:
            sys.stdout.write(_versions())
            _end(0)
        command_flags.check()
        # A config file may import JAX, which reads the environment once.
        machine.choose_platform(command_flags.VIRTUAL_DEVICES.value)
        machine.keep_quiet()
        machine.keep_compilations()
        return _parse_settings(rest, _load_settings())
    except flags.Error as error:
        _end(2, f"{programs.name()}: {' '.join(str(error).split())}")
    except Exception as error:
        _fail(error)


def _versions() -> str:
    """Returns the versions for a bug report, without importing JAX."""
    versions = [f"dcjax {dcjax.__version__}", f"Python {platform.python_version()}"]
    for package in ("jax", "jaxlib", "flax"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    return f"{', '.join(versions)}\n{platform.platform()}\n"


def _parse_settings(argv: list[str], config: ConfigDict | None) -> list[str]:
    """Applies --config.NAME=VALUE to the config; returns the remaining arguments."""
    overrides: dict[str, str] = {}
    for argument in argv[1:]:
        match = _OVERRIDE.match(argument)
        if match and overrides.setdefault(match[2], argument) != argument:
            raise flags.Error(f"Require one of {overrides[match[2]]} and {argument}, got both.")
    if config is None:
        if overrides:
            raise flags.Error(
                f"{next(iter(overrides.values()))} changes the settings of "
                "--config=configs/NAME.py, or of the one run that is evaluated or embeds; got none."
            )
        rest = argv
    else:
        _check_names(overrides, config)
        try:
            config_flags.DEFINE_config_dict(
                "config", config, flag_values=_SETTINGS, lock_config=True, sys_argv=argv
            )
            rest = _SETTINGS(argv)
        except flags.Error:
            raise
        except Exception as error:  # whatever a value is that cannot be parsed
            raise flags.Error(f"Cannot set {', '.join(overrides)}: {error}") from error
    if rest[1:]:
        raise flags.Error(f"Unexpected argument {rest[1]!r}; settings are --config.KEY=VALUE.")
    return rest


def _check_names(overrides: Iterable[str], config: ConfigDict) -> None:
    """Checks that the settings to change exist."""
    from dcjax.experiment import same_run, versions

    known = same_run.flatten(config.to_dict())
    if command_flags.MODE.value == "score" and (others := sorted(set(overrides) - _SCORE_SETTINGS)):
        raise flags.Error(
            f"--config.{others[0]} changes nothing in --mode=score, which uses --ks, --nmi and "
            f"--config.{', --config.'.join(sorted(_SCORE_SETTINGS))}; leave it out."
        )
    for name in overrides:
        if inner := [key for key in known if key.startswith(f"{name}.")]:
            raise flags.Error(
                f"--config.{name} is a group of settings; set one of --config.{', '.join(inner)}."
            )
        if name not in known:
            place = command_flags.CONFIG.value or "the run"
            raise flags.Error(
                f"--config.{name}: there is no setting {name!r} in {place}"
                f"{versions.hint(name, known)}."
            )
