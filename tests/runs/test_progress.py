"""Progress of a run: how far it is, and the best epoch."""

from dcjax.runs.progress import Progress


def test_later_of_equal_epochs_is_best() -> None:
    progress = Progress()
    for score in (0.5, 0.75, 0.75, 0.25):
        progress = progress.after_epoch().with_scores({"recall_at_1": score}, "recall_at_1")
    assert (progress.epoch, progress.scores) == (4, {"recall_at_1": 0.25})
    assert (progress.best_epoch, progress.best_scores) == (3, {"recall_at_1": 0.75})


def test_progress_is_described_by_epochs_counted_from_one() -> None:
    assert Progress(epoch=2).describe() == "after epoch 2"
    assert Progress(epoch=2).describe(num_steps=46, num_epochs=8) == "after epoch 2 of 8"
    within = Progress(epoch=2, epoch_step=23)
    assert within.describe() == "in epoch 3, after 23 steps"
    assert within.describe(num_steps=46, num_epochs=8) == "in epoch 3 of 8, after 23 of 46 steps"
