"""The command line: its flags, and the modes that they start.

`launch.py` and the installed command `dcjax` call `run`. JAX and TensorFlow are imported only after
the flags are checked, so that --help and errors in flags do not wait for them.
"""

import importlib.metadata
import itertools
import os
import pathlib
import platform
import re
import shlex
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

import dcjax
from dcjax.core import extras, naming, programs
from dcjax.core.errors import DcjaxError, SettingError
from dcjax.distributed import machine
from dcjax.experiment import config_files
from dcjax.runs import error_log, output, workdirs

_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate", "check_data", "embed", "score", "export", "report", "search"],
    "What to do; evaluate, embed, export, report and search need no --config, score neither a run "
    "nor --config.",
)
_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "Experiment: a file in configs/, FILE:ARGUMENT where it takes one. --config.GROUP.NAME=VALUE "
    "changes a setting, see configs/default.py.",
)
_WORKDIR = flags.DEFINE_multi_string(
    "workdir",
    None,
    "Folder of the run or of a sweep's runs, by default runs/NAME OF CONFIG. evaluate and report "
    "take several: --workdir=A,B, or the flag again for each.",
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
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", 0, "Processes, with --coordinator.", lower_bound=0
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", -1, "Of this process, with --coordinator.", lower_bound=-1
)
_VIRTUAL_DEVICES = flags.DEFINE_integer(
    "virtual_devices",
    0,
    "Train on so many pretended CPU devices, to try out what many do.",
    lower_bound=0,
    upper_bound=1024,
)
_TRUST_CUSTOM_CODE = flags.DEFINE_bool(
    "trust_custom_code",
    False,
    "To evaluate, embed, export, report or search without --config: import and run code outside "
    "dcjax that a run names.",
)
_IMAGES = flags.DEFINE_string(
    "images",
    None,
    "To embed: a folder (its sub-folders are the classes, if all images lie directly in one), a "
    "table (.csv, .tsv or .parquet with the column path and, if wanted, label and split) or a list "
    "(a path a line); by default the test images of the run.",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Of embed: PREFIX of the files, by default WORKDIR/embeddings/NAME OF IMAGES. Of score: folder "
    "of scores.json, by default that of the embeddings. Of export and report: the file to write, "
    "by default WORKDIR/export/embedder.jax, WORKDIR/report/index.html and, for several runs, "
    "report/comparison.html in the first WORKDIR.",
)
_EMBEDDINGS = flags.DEFINE_string(
    "embeddings",
    None,
    "To score: FILE, or FILE,GALLERY; .parquet with the columns vector and label, or .npy with the "
    "labels in a .csv of the same name.",
)
_KS = flags.DEFINE_list("ks", [], "Of score: ks of recall at k, by default 1,2,4,8.")
_NMI = flags.DEFINE_bool("nmi", False, "Of score: also cluster the embeddings, for NMI.")
_NORMALIZE = flags.DEFINE_bool("normalize", False, "Of score: scale the embeddings to length 1.")
_GALLERY = flags.DEFINE_string(
    "gallery",
    None,
    "To search: a folder, table or list of images as of --images, or a file of embeddings that "
    "--mode=embed wrote; by default the test images of the run.",
)
_HOST = flags.DEFINE_string(
    "host",
    None,
    "To search: name or address to listen at, by default 127.0.0.1, which only this machine can "
    "reach.",
)
_PORT = flags.DEFINE_integer(
    "port",
    None,
    "To search: port to listen at, by default 8000; 0 takes a free one.",
    lower_bound=0,
    upper_bound=65535,
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error came from.")
_VERSION = flags.DEFINE_bool("version", False, "Print the versions of what runs, and end.")

# Modes that read a saved run.
_SAVED = ["evaluate", "embed", "export", "report", "search"]
# Those that take several runs.
_SEVERAL = ["evaluate", "report"]
# Settings that --mode=score uses, besides those that are flags.
_SCORE_SETTINGS = {"eval.protocol", "eval.gallery_draws", "eval.nmi_runs", "eval.kmeans"}
_SETTINGS = flags.FlagValues()  # --config.GROUP.NAME, where there are settings to change
_OVERRIDE = re.compile(r"--?(no)?config\.([^=]*)")
_USAGE = """{program} --config=configs/cub.py [--workdir=DIR] [--mode=MODE]

With --sweep, trains every row of the config's sweep(), and makes a table of the scores.
"""


def run() -> None:
    """Runs the program that `sys.argv` asks for, and ends the process."""
    machine.use_utf8()
    # Modules in the current folder can be imported, but do not shadow installed packages.
    sys.path.append("")
    for flag in flags.FLAGS.flags_by_module_dict()[__name__]:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)  # which --help shows
    usage = _USAGE.format(program=shlex.join(programs.command(sys.argv[:1])))
    sys.modules["__main__"].__doc__ = usage  # where absl takes the head of --help from
    app.run(main, flags_parser=_parse)


def main(argv: Sequence[str]) -> None:
    """Runs a mode or a sweep; if it fails, prints why."""
    trains = _MODE.value == "train" and not _DRY_RUN.value
    ended = "the output cannot be written any more ({reason}); the run goes on without it."
    output.protect(f"{programs.name()}: {ended}" if trains else "")
    logging.set_verbosity(logging.ERROR)
    try:
        modes = {
            "train": _train,
            "evaluate": _evaluate,
            "check_data": _check_data,
            "embed": _embed,
            "score": _score,
            "export": _export,
            "report": _report,
            "search": _search,
        }
        if _SWEEP.value:
            _sweep(_config(), argv[0])
        elif _SEEDS.value or _DRY_RUN.value:
            raise SettingError("--seeds and --dry_run belong to a sweep: give --sweep too.")
        else:
            if _MODE.value in ("train", "evaluate", "embed"):
                _join()
            from dcjax.data.quiet_tensorflow import hide_devices

            hide_devices()
            modes[_MODE.value](_config(), _workdirs())
    except KeyboardInterrupt:
        rest = {
            "train": "; a run goes on from its last checkpoint",
            "embed": "; the same command continues with the parts that are complete",
        }
        _end(1, f"{programs.name()}: interrupted{rest.get(_MODE.value, '')}.")
    except Exception as error:
        _fail(error)


def _check_mode() -> None:
    """Checks that the flags are of the mode.

    Raises:
      SettingError: naming a flag of another mode, or one that is missing.
    """
    modes = (
        (_PROFILE, ["train"]),
        (_TRUST_CUSTOM_CODE, _SAVED),
        (_IMAGES, ["embed"]),
        (_OUTPUT, ["embed", "score", "export", "report"]),
        (_EMBEDDINGS, ["score"]),
        (_KS, ["score"]),
        (_NMI, ["score"]),
        (_NORMALIZE, ["score"]),
        (_GALLERY, ["search"]),
        (_HOST, ["search"]),
        (_PORT, ["search"]),
        (_WORKDIR, ["train", "evaluate", "check_data", "embed", "export", "report", "search"]),
    )
    for flag, allowed in modes:
        if flag.value is None or flag.value is False or flag.value == []:
            continue
        if _MODE.value not in allowed:
            raise SettingError(
                f"--{flag.name} is for --mode={' or --mode='.join(allowed)}, got "
                f"--mode={_MODE.value}."
            )
        if flag.value == "":
            raise SettingError(
                f"Require a value of --{flag.name}, got ''; give one or leave it out."
            )
    if _MODE.value == "score":
        if not 1 <= len(_embeddings()) <= 2:
            raise SettingError(
                "--mode=score takes --embeddings=FILE or --embeddings=FILE,GALLERY, got "
                f"{_EMBEDDINGS.value or 'none'}."
            )
        if not all(map(_is_k, _KS.value)):
            raise SettingError(
                f"Require --ks of whole numbers from 1 on, got {','.join(_KS.value)}; such as "
                "--ks=1,10,100."
            )


def _embeddings() -> list[str]:
    """Returns the files of --embeddings, whose names may hold a comma."""
    given = _EMBEDDINGS.value or ""
    if os.path.exists(naming.expand(given)):
        return [given]
    return list(filter(None, given.split(",")))


def _is_k(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 2**31


def _fail(error: Exception) -> NoReturn:
    """Ends with one line for errors that a user can correct, else with a traceback, also logged."""
    line = _error_line(error)
    code = error.exit_code if isinstance(error, DcjaxError) else 1
    if line and not (flags.FLAGS.is_parsed() and _TRACEBACK.value):
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
    writes = flags.FLAGS.is_parsed() and _MODE.value in ("train", "check_data")
    if not writes or _SWEEP.value:
        return None
    try:
        return workdirs.on_disk(_require_one(_workdirs()))
    except DcjaxError:
        return None


def _end(code: int, error: str = "") -> NoReturn:
    """Ends at once, without waiting for a division under way or for other processes."""
    if error:
        sys.stderr.write(f"{error}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _train(config: ConfigDict, workdirs: list[str]) -> None:
    import jax

    from dcjax.modes.train import train

    workdir = _require_one(workdirs)
    if train(config, workdir, profiled=_PROFILE.value) is None:  # stopped
        if jax.distributed.is_initialized():
            jax.distributed.shutdown()
        _end(0)
    if config.train.report:
        from dcjax.modes import report  # which imports what draws

        report.report_after_training(config, workdir)


def _evaluate(config: ConfigDict | None, workdirs: list[str]) -> None:
    from dcjax.modes.evaluate import compare

    compare(workdirs, config, trust_custom_code=_trusts_custom_code())


def _embed(config: ConfigDict | None, workdirs: list[str]) -> None:
    from dcjax.modes.embed import embed

    is_finished = embed(
        _require_one(workdirs),
        config,
        images=_IMAGES.value,
        output=_OUTPUT.value,
        trust_custom_code=_trusts_custom_code(),
    )
    if not is_finished:
        _end(0)


def _trusts_custom_code() -> bool:
    # The user wrote, or chose, a file given as --config; else the settings are those of a saved
    # run.
    return _TRUST_CUSTOM_CODE.value or _CONFIG.value is not None


def _score(config: ConfigDict, workdirs: list[str]) -> None:
    del workdirs
    from dcjax.modes.score import score

    if _KS.value:
        config.eval.ks = tuple(map(int, _KS.value))
    score(
        _embeddings(),
        config,
        with_nmi=_NMI.value,
        normalize=_NORMALIZE.value,
        output=_OUTPUT.value,
    )


def _export(config: ConfigDict | None, workdirs: list[str]) -> None:
    from dcjax.modes.export import export

    export(
        _require_one(workdirs),
        config,
        output=_OUTPUT.value or "",
        trust_custom_code=_trusts_custom_code(),
    )


def _report(config: ConfigDict | None, workdirs: list[str]) -> None:
    from dcjax.modes.report import report

    report(workdirs, config, output=_OUTPUT.value or "", trust_custom_code=_trusts_custom_code())


def _search(config: ConfigDict | None, workdirs: list[str]) -> None:
    extras.require("search", ("starlette", "uvicorn", "python_multipart"), "search")
    from dcjax.modes.search import search

    search(
        _require_one(workdirs),
        config,
        gallery=_GALLERY.value,
        host=_HOST.value or "127.0.0.1",
        port=8000 if _PORT.value is None else _PORT.value,
        trust_custom_code=_trusts_custom_code(),
    )
    _end(0)  # without waiting for searches under way


def _check_data(config: ConfigDict, workdirs: list[str]) -> None:
    from dcjax.modes.check_data import check_data

    if not check_data(config, _require_one(workdirs)):
        sys.exit(1)


def _sweep(config: ConfigDict, path: str) -> None:
    from dcjax.modes import sweep_runner, sweeps

    if _MODE.value != "train" or _PROFILE.value:
        raise SettingError("--sweep trains: leave out --mode and --profile.")
    if _DISTRIBUTED.value != "auto" or _COORDINATOR.value:
        raise SettingError(
            "--sweep trains each run in one process: leave out --distributed and --coordinator; "
            "the same sweep may be started on several hosts, which share the runs."
        )
    sweep = sweeps.plan(
        config,
        program=path,
        path=_CONFIG.value or "",
        changes=config_flags.get_override_values(_SETTINGS["config"]),
        seeds=_SEEDS.value,
        workdir=_require_one(_WORKDIR.value) if _WORKDIR.value else None,
    )
    if _DRY_RUN.value:
        sys.stdout.writelines(f"{command}\n" for command in sweep_runner.commands(sweep))
    elif not sweep_runner.run(sweep):
        sys.exit(1)


def _join() -> None:
    """Joins the other processes of this run, if there are any."""
    import jax

    from dcjax.distributed import processes

    processes.join(
        _DISTRIBUTED.value,
        coordinator=_COORDINATOR.value,
        num_processes=_NUM_PROCESSES.value,
        process_id=_PROCESS_ID.value,
    )
    device_files = machine.accelerators()
    if device_files and "JAX_PLATFORMS" not in os.environ and jax.default_backend() == "cpu":
        sys.stderr.write(
            f"{programs.name()}: this machine has {device_files[0]}, but JAX computes on the CPU; "
            "install jax[cuda] for a GPU or jax[tpu] for a TPU, or set JAX_PLATFORMS=cpu.\n"
        )


def _require_one(given: list[str]) -> str:
    if len(given) > 1:
        raise SettingError(f"--mode={_MODE.value} takes one --workdir, got {', '.join(given)}.")
    return given[0]


def _config() -> ConfigDict | None:
    return _SETTINGS.config if "config" in _SETTINGS else None


def _workdirs() -> list[str]:
    """Returns the folders given; for modes that take several, also separated by commas."""
    if not _WORKDIR.value:
        file = (_CONFIG.value or "").partition(":")[0]
        return [str(pathlib.Path("runs") / pathlib.Path(file).stem)]
    if _MODE.value not in _SEVERAL:
        return _WORKDIR.value
    parts = [
        [given] if os.path.exists(naming.expand(given)) else given.split(",")
        for given in _WORKDIR.value
    ]
    return list(filter(None, itertools.chain(*parts))) or [""]


def _load_settings() -> ConfigDict | None:
    """Returns the settings of --config, or those of the one run that is to be evaluated."""
    if _CONFIG.value is not None:
        return config_files.load(_CONFIG.value)
    if _MODE.value == "score":
        return config_files.load("configs/default.py")
    if _MODE.value not in _SAVED or not _WORKDIR.value:
        raise flags.Error(
            "Give --config=configs/NAME.py, or --workdir=DIR to evaluate, embed with, export, "
            "report or search with a run."
        )
    first, *others = _workdirs()
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
        if _VERSION.value:
            sys.stdout.write(_versions())
            _end(0)
        _check_mode()
        # Config files import JAX, which reads the environment once.
        machine.choose_platform(_VIRTUAL_DEVICES.value)
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
    if _MODE.value == "score" and (others := sorted(set(overrides) - _SCORE_SETTINGS)):
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
            raise flags.Error(
                f"--config.{name}: there is no setting {name!r} in {_CONFIG.value or 'the run'}"
                f"{versions.hint(name, known)}."
            )
