"""Evaluates finished runs, side by side."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from dcjax.core.console import Console
from dcjax.distributed import processes
from dcjax.experiment import agreement, cameras, embedder, same_test
from dcjax.experiment.reporter import describe_protocol, show_scores
from dcjax.runs import checkpoints
from dcjax.runs.progress import Scores


def compare(
    workdirs: Sequence[str], config: ConfigDict | None, *, trust_custom_code: bool = False
) -> None:
    """Evaluates the runs of these workdirs, and shows their scores in one table.

    Args:
      workdirs: of runs on the same data.
      config: replaces the saved ones, see `embedder.load`.
      trust_custom_code: whether to import the backbones that the runs or the config name.
    """
    agreement.check_settings(None if config is None else config.to_dict())
    checkpoints.require(workdirs)
    runs = {
        workdir: embedder.restore(workdir, config, trust_custom_code=trust_custom_code)
        for workdir in workdirs
    }
    rows: dict[str, Scores] = {}
    notes: list[str] = []
    for workdir, run, splits in same_test.load_each(runs):
        if not rows and run.config.eval.pixels:
            rows["raw pixels"] = run.score_pixels(splits)
        if not notes:
            labels, seen = zip(*((x.labels, x.cameras) for x in splits.test_sets), strict=True)
            notes = list(cameras.notes(labels, seen, run.config.eval))
        name = f"{workdir}, {run.place}"
        rows[name] = run.evaluate(splits)
        if run.validation_scores:
            rows[f"{name}, validation classes, as recorded"] = dict(run.validation_scores)
    best_by = runs[workdirs[0]].config.eval.best_by
    console = Console(quiet=not processes.is_first())
    for note in notes:
        console.print_line(note)
    protocol = describe_protocol(runs[workdirs[0]].config.eval)
    show_scores(console, f"Unseen classes{protocol}", rows, best_by)
