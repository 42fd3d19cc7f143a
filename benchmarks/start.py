"""Times how long users wait: for help, an error, a first step and a first vector.

Each command is a process of its own, with a warm cache of compilations; where another checkout of
dcjax is given, both take turns. The least seconds by the clock and of CPU time are shown.

    python benchmarks/start.py [--before=CHECKOUT] [--rounds=5]
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

from PIL import Image

_DIGITS = ("launch.py", "--config=configs/digits.py")
_SHORT = ("--config.train.num_steps=1", "--config.train.report=False")
_LOAD = "import sys, dcjax; dcjax.load(sys.argv[1])([sys.argv[2]])"


def _commands(folder: pathlib.Path) -> Mapping[str, Sequence[str]]:
    """Returns what follows `python`, by subject; the first one trains a run for the last one."""
    picture = folder / "picture.png"
    Image.effect_noise((500, 375), 64).convert("RGB").save(picture)
    return {
        "run of one step of digits": (*_DIGITS, *_SHORT, "--workdir={run}"),
        "--help": ("launch.py", "--help"),
        "mistyped flag": (*_DIGITS, "--wrokdir=runs/one"),
        "mistyped setting": (*_DIGITS, "--config.trian.num_epochs=2"),
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
    """Prints a row for each command and checkout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", help="another checkout of dcjax")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    trees = {"now": pathlib.Path(__file__).parents[1]}
    if options.before:
        trees["before"] = pathlib.Path(options.before)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for subject, command in _commands(folder).items():
            times: dict[str, list[tuple[float, float, str]]] = {tree: [] for tree in trees}
            for number in range(options.rounds + 1):  # the first one fills caches
                for tree, path in trees.items():
                    places = {"run": folder / f"{tree}{number}", "first": folder / f"{tree}0"}
                    filled = [part.format(**places) for part in command]
                    times[tree].append(_time(filled, path))
            for tree, counted in times.items():
                seconds, cpu = (min(x[i] for x in counted[1:]) for i in (0, 1))
                print(f"{subject:34} {tree:6} {seconds:6.2f} s, {cpu:6.2f} CPU s", flush=True)
                if line := min(counted[1:])[2]:
                    print(line, flush=True)


if __name__ == "__main__":
    main()
