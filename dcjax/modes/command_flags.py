"""The flags of the command line, and which mode takes them."""

import itertools
import os
import pathlib

from absl import flags

from dcjax.core import naming
from dcjax.core.errors import SettingError

MODE = flags.DEFINE_enum(
    "mode",
    "train",
    [
        "train",
        "evaluate",
        "check_data",
        "forecast",
        "embed",
        "score",
        "export",
        "report",
        "search",
        "table",
    ],
    "What to do; evaluate, embed, export, report and search need no --config, score and table "
    "neither a run nor --config.",
)
CONFIG = flags.DEFINE_string(
    "config",
    None,
    "Experiment: a file in configs/, FILE:ARGUMENT where it takes one. --config.GROUP.NAME=VALUE "
    "changes a setting, see configs/default.py.",
)
WORKDIR = flags.DEFINE_multi_string(
    "workdir",
    None,
    "Folder of the run or of a sweep's runs, by default runs/NAME OF CONFIG. evaluate and report "
    "take several: --workdir=A,B, or the flag again for each.",
)
PROFILE = flags.DEFINE_bool(
    "profile", False, "Trace steps 51 to 100 of a training, and say how long the devices idle."
)
SWEEP = flags.DEFINE_bool(
    "sweep", False, "Train every row of the config's sweep(), and make a table of the scores."
)
FOLDS = flags.DEFINE_integer(
    "folds",
    0,
    "Cross-validation: cut the training classes into so many parts, hold each out for validation "
    "once, and make a table; with --sweep, for each of its rows.",
    lower_bound=0,
)
SEEDS = flags.DEFINE_list("seeds", [], "Of a sweep: train each row with each of these seeds.")
BASELINE = flags.DEFINE_string(
    "baseline",
    "",
    "Of a sweep or table: the row that the others are compared with, by default the one that "
    "each names, or the first.",
)
UNTIL = flags.DEFINE_enum(
    "until",
    None,
    ["decided"],
    "Of a sweep: train each row with the seeds 0, 1, 2, ... until an always-valid interval shows "
    "that it is better or worse than the baseline, or equal within --margin, or --budget is spent.",
)
MARGIN = flags.DEFINE_float(
    "margin",
    None,
    "With --until: a difference in eval.best_by that does not matter, in percent, such as 0.5.",
    lower_bound=0,
)
BUDGET = flags.DEFINE_integer(
    "budget", None, "With --until: how many seeds a row has at most.", lower_bound=1
)
INTERVAL = flags.DEFINE_enum(
    "interval",
    None,
    ["t", "bootstrap"],
    "Of a sweep: intervals of the differences between rows by Student's t over seeds, the default, "
    "or by a bootstrap over seeds and classes of the queries.",
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Of a sweep: print its commands and end.")
RUNS = flags.DEFINE_string(
    "runs",
    None,
    "Of table: the scores of each run of a sweep, which this wrote as NAME.runs.csv.",
)
SCORES = flags.DEFINE_list("scores", [], "Of table: its scores in order, by default all.")
DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "on", "off"],
    "Whether to join other processes: auto, where JAX detects a TPU pod, GKE, SLURM or Open MPI; "
    "on, or end with an error; off.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, to join processes where nothing is detected."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", 0, "Processes, with --coordinator.", lower_bound=0
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", -1, "Of this process, with --coordinator.", lower_bound=-1
)
VIRTUAL_DEVICES = flags.DEFINE_integer(
    "virtual_devices",
    0,
    "Train on so many pretended CPU devices, to try out what many do.",
    lower_bound=0,
    upper_bound=1024,
)
TRUST_CUSTOM_CODE = flags.DEFINE_bool(
    "trust_custom_code",
    False,
    "To evaluate, embed, export, report or search without --config: import and run code outside "
    "dcjax that a run names.",
)
IMAGES = flags.DEFINE_string(
    "images",
    None,
    "To embed: a folder (its sub-folders are the classes, if all images lie directly in one), a "
    "table (.csv, .tsv or .parquet with the column path and, if wanted, label and split) or a list "
    "(a path a line); by default the test images of the run.",
)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Of embed: PREFIX of the files, by default WORKDIR/embeddings/NAME OF IMAGES. Of score: folder "
    "of scores.json, by default that of the embeddings. Of export and report: the file to write, "
    "by default WORKDIR/export/embedder.jax, WORKDIR/report/index.html and, for several runs, "
    "report/comparison.html in the first WORKDIR. Of forecast: the JSON file to write, by default "
    "none. Of table: PREFIX of the files, by default that of --runs.",
)
EMBEDDINGS = flags.DEFINE_string(
    "embeddings",
    None,
    "To score: FILE, or FILE,GALLERY; .parquet with the columns vector and label, or .npy with the "
    "labels in a .csv of the same name.",
)
KS = flags.DEFINE_list("ks", [], "Of score: ks of recall at k, by default 1,2,4,8.")
NMI = flags.DEFINE_bool("nmi", False, "Of score: also cluster the embeddings, for NMI.")
NORMALIZE = flags.DEFINE_bool("normalize", False, "Of score: scale the embeddings to length 1.")
GALLERY = flags.DEFINE_string(
    "gallery",
    None,
    "To search: a folder, table or list of images as of --images, or a file of embeddings that "
    "--mode=embed wrote; by default the test images of the run.",
)
HOST = flags.DEFINE_string(
    "host",
    None,
    "To search: name or address to listen at, by default 127.0.0.1, which only this machine can "
    "reach.",
)
PORT = flags.DEFINE_integer(
    "port",
    None,
    "To search: port to listen at, by default 8000; 0 takes a free one.",
    lower_bound=0,
    upper_bound=65535,
)
TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error came from.")
VERSION = flags.DEFINE_bool("version", False, "Print the versions of what runs, and end.")

# Modes that read a saved run.
SAVED = ["evaluate", "embed", "export", "report", "search"]
# Modes that take several runs.
_SEVERAL = ["evaluate", "report"]
# Modes that join other processes.
JOINING = ["train", "evaluate", "embed"]


def check() -> None:
    """Checks that the flags are of the mode.

    Raises:
      SettingError: naming a flag of another mode, or one that is missing.
    """
    modes = (
        (PROFILE, ["train"]),
        (TRUST_CUSTOM_CODE, SAVED),
        (IMAGES, ["embed"]),
        (OUTPUT, ["embed", "score", "export", "report", "forecast", "table"]),
        (EMBEDDINGS, ["score"]),
        (RUNS, ["table"]),
        (SCORES, ["table"]),
        (KS, ["score"]),
        (NMI, ["score"]),
        (NORMALIZE, ["score"]),
        (GALLERY, ["search"]),
        (HOST, ["search"]),
        (PORT, ["search"]),
        (WORKDIR, ["train", "evaluate", "check_data", "embed", "export", "report", "search"]),
    )
    for flag, allowed in modes:
        if flag.value is None or flag.value is False or flag.value == []:
            continue
        if MODE.value not in allowed:
            raise SettingError(
                f"--{flag.name} is for --mode={' or --mode='.join(allowed)}, got "
                f"--mode={MODE.value}."
            )
        if flag.value == "":
            raise SettingError(
                f"Require a value of --{flag.name}, got ''; give one or leave it out."
            )
    if MODE.value not in JOINING and (joined := _joining_flag()):
        raise SettingError(
            f"--mode={MODE.value} runs in one process, got {joined}; start it on one host without "
            "that flag."
        )
    if MODE.value == "table":
        if RUNS.value is None:
            raise SettingError("--mode=table takes --runs=NAME.runs.csv, got none.")
        if CONFIG.value is not None:
            raise SettingError("--mode=table needs no --config; leave it out.")
    if MODE.value == "score":
        if not 1 <= len(embeddings()) <= 2:
            raise SettingError(
                "--mode=score takes --embeddings=FILE or --embeddings=FILE,GALLERY, got "
                f"{EMBEDDINGS.value or 'none'}."
            )
        if not all(map(_is_k, KS.value)):
            raise SettingError(
                f"Require --ks of whole numbers from 1 on, got {','.join(KS.value)}; such as "
                "--ks=1,10,100."
            )


def of_sweeps() -> list[str]:
    """Returns the flags given that only a sweep takes."""
    flags_of_sweeps = [SEEDS, UNTIL, MARGIN, BUDGET, INTERVAL, DRY_RUN]
    flags_of_sweeps += [] if MODE.value == "table" else [BASELINE]
    return [f"--{flag.name}" for flag in flags_of_sweeps if flag.value]


def _joining_flag() -> str:
    """Returns a flag that asks to join other processes, "" if there is none."""
    if DISTRIBUTED.value == "on":
        return "--distributed=on"
    is_given = {
        "--coordinator": COORDINATOR.value,
        "--num_processes": NUM_PROCESSES.value,
        "--process_id": PROCESS_ID.value >= 0,
    }
    return next((name for name, given in is_given.items() if given), "")


def embeddings() -> list[str]:
    """Returns the files of --embeddings, whose names may hold a comma."""
    given = EMBEDDINGS.value or ""
    if os.path.exists(naming.expand(given)):
        return [given]
    return list(filter(None, given.split(",")))


def workdirs() -> list[str]:
    """Returns the folders given; for modes that take several, also separated by commas."""
    if not WORKDIR.value:
        file = (CONFIG.value or "").partition(":")[0]
        return [str(pathlib.Path("runs") / pathlib.Path(file).stem)]
    if MODE.value not in _SEVERAL:
        return WORKDIR.value
    parts = [
        [given] if os.path.exists(naming.expand(given)) else given.split(",")
        for given in WORKDIR.value
    ]
    return list(filter(None, itertools.chain(*parts))) or [""]


def require_one(given: list[str]) -> str:
    """Returns the one workdir.

    Raises:
      SettingError: if there are several.
    """
    if len(given) > 1:
        raise SettingError(f"--mode={MODE.value} takes one --workdir, got {', '.join(given)}.")
    return given[0]


def trusts_custom_code() -> bool:
    """Returns whether a backbone outside dcjax may be imported.

    The user wrote, or chose, a file given as --config; else the settings are those of a saved run.
    """
    return TRUST_CUSTOM_CODE.value or CONFIG.value is not None


def _is_k(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 2**31
