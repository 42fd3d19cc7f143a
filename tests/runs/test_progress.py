"""Progress of a run: how far it is, and the best epochs, of test and of validation classes."""

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


def test_validation_chooses_an_epoch_and_counts_evaluations_without_a_gain() -> None:
    progress, counted = Progress(), []
    for validated, test in ((0.5, 0.1), (0.5, 0.2), (0.4, 0.9), (0.6, 0.3), (0.6, 0.4), (0.1, 0.0)):
        progress = progress.after_epoch().with_validation({"recall_at_1": validated}, "recall_at_1")
        progress = progress.with_scores({"recall_at_1": test}, "recall_at_1")
        counted.append(progress.evaluations_without_gain)
    assert counted == [0, 1, 2, 0, 1, 2]  # an equal score is no gain
    assert (progress.chosen_epoch, progress.best_epoch) == (5, 3)
    assert progress.chosen_scores == {"recall_at_1": 0.4}
    assert progress.chosen_validation_scores == {"recall_at_1": 0.6}
    assert progress.validation_scores == {"recall_at_1": 0.1}
