"""Times how long users wait: for help, an error, a first step and a first vector.

Each command is a process of its own, with a warm cache of compilations; where another checkout of
dcjax is given, both take turns. About two minutes on two cores.

    python benchmarks/start.py [--before=CHECKOUT] [--rounds=3]
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

import records
import tables
from PIL import Image
from records import Timing

_DIGITS = ("launch.py", "--config=configs/digits.py")
_SHORT = ("--config.train.num_steps=1", "--config.train.report=False")
_LOAD = "import sys, dcjax; dcjax.load(sys.argv[1])([sys.argv[2]])"


def _commands(folder: pathlib.Path) -> Mapping[str, Sequence[str]]:
    """Returns what follows `python`, by subject; the first one trains a run for the last one."""
    picture = folder / "picture.png"
    Image.effect_noise((500, 375), 64).convert("RGB").save(picture)
    return {
        "a run of one step of digits": (*_DIGITS, *_SHORT, "--workdir={run}"),
        "launch.py --help": ("launch.py", "--help"),
        "a mistyped flag": (*_DIGITS, "--wrokdir=runs/one"),
        "a mistyped setting": (*_DIGITS, "--config.trian.num_epochs=2"),
        "dcjax.load and the first picture": ("-c", _LOAD, "{first}", str(picture)),
    }


def _time(command: Sequence[str], tree: pathlib.Path) -> tuple[float, float, str]:
    """Returns seconds by the clock and of CPU time, and the line of the start-up, if any."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    ended = subprocess.run(
        [sys.executable, *command], cwd=tree, text=True, capture_output=True, check=False
    )
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if "Traceback" in ended.stderr:
        raise RuntimeError(ended.stderr)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = ended.stdout.splitlines()
    return seconds, cpu, next((line for line in lines if line.startswith("start  ")), "")


def main() -> None:
    """Times each command in each checkout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", help="another checkout of dcjax")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    trees = {"dcjax": pathlib.Path(__file__).parents[1]}
    if options.before:
        trees["before"] = pathlib.Path(options.before)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for subject, command in _commands(folder).items():
            since = records.now()
            times: dict[str, list[tuple[float, float, str]]] = {tree: [] for tree in trees}
            for number in range(options.rounds + 1):  # the first one fills caches
                for tree, path in trees.items():
                    places = {"run": folder / f"{tree}{number}", "first": folder / f"{tree}0"}
                    filled = [part.format(**places) for part in command]
                    times[tree].append(_time(filled, path))
            timings = {}
            for tree, counted in times.items():
                seconds, cpu_seconds, lines = zip(*counted[1:], strict=True)
                timings[tree] = Timing(seconds, cpu_seconds)
                print(*(f"{tree}: {line}" for line in lines if line), sep="\n")
            record = records.save(subject, timings, since=since)
            print(f"\n{tables.details([record])}", flush=True)


if __name__ == "__main__":
    main()
