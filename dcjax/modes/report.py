"""Writes the report of a run, or one that compares several, as a page for a browser."""

import math
import shlex
import sys
import traceback
from collections.abc import Sequence

import jax
from etils import epath
from ml_collections import ConfigDict

import dcjax
from dcjax.core import checksums, programs
from dcjax.core.console import Console
from dcjax.core.errors import DcjaxError, FileError
from dcjax.distributed import processes
from dcjax.experiment import embedder
from dcjax.experiment.report import collection, comparison
from dcjax.pages import report as pages
from dcjax.runs import checkpoints, error_log, workdirs

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
    checkpoints.require(given)
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
    console.print_line(f"wrote     {file} ({len(page.encode()) / 2**20:.1f} MiB)")


def _file(workdir: str, output: str, name: str) -> epath.Path:
    if not output:
        return workdirs.locate(workdir)[0] / _FOLDER / name
    file = workdirs.as_path(output)
    if file.is_dir():
        raise FileError(f"--output must be a file, but {file} is a folder.")
    return file


def report_after_training(
    config: ConfigDict, workdir: str, *, with_traceback: bool = False
) -> None:
    """Writes the report of a run that has ended; if that fails, prints why and how to retry.

    A report that is there already, and no older than the last checkpoint, stays as it is.

    It raises nothing, since the run is complete. An unexpected error is shown with its traceback,
    which is also kept in the run's `error.log`.

    Of a run of many processes, it prints the command: one of them alone cannot embed.

    Args:
      config: of the run.
      workdir: of the run.
      with_traceback: whether to show where in the code an error came from.
    """
    console = Console(quiet=not processes.is_first())
    if jax.process_count() > 1:
        console.print_line(f"report    by one process: {command(workdir)}")
        return
    if page := _current_page(workdir):
        console.print_line(f"report    is there already: {page}")
        return
    try:
        report([workdir], config, trust_custom_code=True)
    except KeyboardInterrupt:
        reason = "interrupted."
    except DcjaxError as error:
        reason = " ".join(str(error).split())
        if with_traceback:
            sys.stderr.write(traceback.format_exc())
    except Exception as error:
        text = traceback.format_exc().rstrip()
        kept = error_log.append(
            workdirs.on_disk(workdir),
            text,
            programs.command(sys.argv),
            version=dcjax.__version__,
        )
        sys.stderr.write(f"{text}\n")
        reason = f"an unexpected {type(error).__name__}. {kept}"
    else:
        return
    console.print_line(f"report    failed, the run is complete: {reason}")
    console.print_line(f"          try again: {command(workdir)}")


def _current_page(workdir: str) -> epath.Path | None:
    """Returns the page of a run, None if it is missing or older than the last checkpoint."""
    folder, _ = workdirs.locate(workdir)
    page, saved = folder / _FOLDER / _PAGE, folder / "checkpoints"
    try:
        times = [path.stat().mtime for path in saved.glob(f"*/{checksums.NAME}")]
        return page if page.stat().mtime >= max(times, default=math.inf) else None
    except OSError:
        return None


def command(workdir: str) -> str:
    """Returns the command that writes the report of a run."""
    program = programs.command(sys.argv[:1])
    return shlex.join([*program, "--mode=report", f"--workdir={workdir}"])
