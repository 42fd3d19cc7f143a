"""Collects the whole report of a run."""

from dcjax.core.console import Console
from dcjax.core.errors import DcjaxError
from dcjax.experiment.embedder import Embedder
from dcjax.experiment.report import divisions, embedding_map, failures, saved, summary, training
from dcjax.experiment.report.retrieval import retrieve
from dcjax.pages import content


def collect(workdir: str, run: Embedder, console: Console) -> content.Report:
    """Returns what the report of a run shows; what is missing is a text that says why.

    Args:
      workdir: of the run, or one of its checkpoints.
      run: restored from there.
      console: for bars.
    """
    files = saved.read(workdir, run)
    try:
        found = retrieve(run, run.load_test(), console)
    except DcjaxError as error:
        missing = f"The test images cannot be shown: {error}"
        is_scored = files.is_scored_as(run.config) and not files.progress.epoch_step
        scores = dict(run.scores) if is_scored else {}
        return content.Report(
            title=files.title,
            state=files.state,
            summary=summary.collect(run, files, scores),
            failures=missing,
            divisions=divisions.collect(run, files, missing, None, console),
            training=training.collect(files),
            map=missing,
        )
    where_it_fails, *pictures = failures.collect(found, run.config, console)
    return content.Report(
        title=files.title,
        state=files.state,
        summary=summary.collect(run, files, found.scores),
        failures=where_it_fails,
        divisions=divisions.collect(run, files, found, (pictures[0], pictures[1]), console),
        training=training.collect(files),
        map=embedding_map.collect(found, run.config, console),
    )
