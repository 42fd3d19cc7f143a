"""Writes the report of a run, or one that compares several, as a page for a browser."""

import shlex
import sys
from collections.abc import Sequence

import jax
from etils import epath
from ml_collections import ConfigDict

from dcjax.core import programs
from dcjax.core.console import Console
from dcjax.core.errors import FileError, MissingFileError
from dcjax.distributed import processes
from dcjax.experiment import embedder
from dcjax.experiment.report import collection, comparison
from dcjax.pages import report as pages
from dcjax.runs import workdirs
from dcjax.runs.checkpoints import is_there

_FOLDER, _PAGE, _COMPARISON = "report", "index.html", "comparison.html"


def report(
    given: Sequence[str],
    config: ConfigDict | None,
    *,
    output: str = "",
    trust_custom_code: bool = False,
) -> None:
    """Writes the page of a run, or the comparison of several with the first.

    Args:
      given: workdirs, or checkpoints in them.
      config: replaces the saved ones, see `embedder.load`.
      output: the file; by default report/index.html in the folder of the run, of several
        report/comparison.html in that of the first.
      trust_custom_code: whether to import the backbones that the runs or the config name.

    Raises:
      MissingFileError: if a run has no checkpoint.
      FileError: if the page cannot be written.
    """
    if empty := [workdir for workdir in given if not is_there(workdir)]:
        raise MissingFileError(
            f"No checkpoint in {', '.join(empty)}; give the --workdir of runs that have saved one."
        )
    given = list(dict.fromkeys(given))
    console = Console()
    several = len(given) > 1
    file = _file(given[0], output, _COMPARISON if several else _PAGE)
    workdirs.create(file.parent)
    runs = {
        workdir: embedder.restore(workdir, config, trust_custom_code=trust_custom_code)
        for workdir in given
    }
    if several:
        page = pages.render_comparison(comparison.collect(runs, str(file.parent), console))
    else:
        page = pages.render(collection.collect(given[0], runs[given[0]], console))
    workdirs.write(file, page)
    console.print_line(f"report    wrote {file} ({len(page.encode()) / 2**20:.1f} MiB)")


def _file(workdir: str, output: str, name: str) -> epath.Path:
    if not output:
        return workdirs.locate(workdir)[0] / _FOLDER / name
    file = workdirs.absolute(output)
    if file.is_dir():
        raise FileError(f"--output must be a file, but {file} is a folder.")
    return file


def report_after_training(config: ConfigDict, workdir: str) -> None:
    """Writes the report of a run that has just ended; if that fails, prints why and how to retry.

    Of a run of many processes, it prints the command: one of them alone cannot embed.

    Args:
      config: of the run.
      workdir: of the run.
    """
    console = Console(quiet=not processes.is_first())
    if jax.process_count() > 1:
        console.print_line(f"report    by one process: {command(workdir)}")
        return
    try:
        report([workdir], config, trust_custom_code=True)
    except (Exception, KeyboardInterrupt) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        console.print_line(f"report    failed, the run is complete: {reason}")
        console.print_line(f"          try again: {command(workdir)}")


def command(workdir: str) -> str:
    """Returns the command that writes the report of a run."""
    program = programs.command(sys.argv[:1])
    return shlex.join([*program, "--mode=report", f"--workdir={workdir}"])
