"""Progress of a run: the best epoch."""

from dcjax.runs.progress import Progress


def test_later_of_equal_epochs_is_best() -> None:
    progress = Progress()
    for score in (0.5, 0.75, 0.75, 0.25):
        progress = progress.after_epoch().with_scores({"recall_at_1": score}, "recall_at_1")
    assert (progress.epoch, progress.scores) == (4, {"recall_at_1": 0.25})
    assert (progress.best_epoch, progress.best_scores) == (3, {"recall_at_1": 0.75})
