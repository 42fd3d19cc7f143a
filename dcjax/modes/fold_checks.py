"""Checks all folds of a cross-validation before the first of its runs, which may take hours."""

import json
from collections.abc import Iterable

from ml_collections import ConfigDict

from dcjax.core.errors import InputError
from dcjax.data import datasets
from dcjax.data.datasets import validation
from dcjax.experiment import checks, inputs


def check(configs: Iterable[ConfigDict]) -> None:
    """Checks that the classes of each fold can be validated on, and the others trained on.

    The lists of images are read, once for each data set, and no image.

    Args:
      configs: of the runs.

    Raises:
      InputError: naming the fold.
    """
    indexes: dict[str, datasets.Splits] = {}
    checked = set()
    for config in configs:
        changed = config.copy_and_resolve_references()
        changed.seed = 0  # on which no check depends
        if (run := json.dumps(changed.to_dict(), sort_keys=True)) in checked:
            continue
        checked.add(run)
        changed.dataset.validation_classes = 0.0
        changed.dataset.validation_fold = 0
        data = json.dumps(changed.dataset.to_dict(), sort_keys=True)
        if data not in indexes:
            indexes[data] = inputs.load_index(changed.dataset)
        try:
            wanted = inputs.hold_out(config.dataset)
            checks.check_classes(config, validation.hold_out(indexes[data], wanted))
        except InputError as error:
            number = round(1 / config.dataset.validation_classes)
            fold = config.dataset.validation_fold + 1
            raise InputError(
                f"Fold {fold} of --folds={number} cannot be trained: {error} Take fewer folds."
            ) from error
