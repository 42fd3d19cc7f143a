"""Loads the image sets of an experiment."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from dcjax.data import datasets
from dcjax.experiment import same_run


def load_index(dataset: ConfigDict) -> datasets.Splits:
    """Loads the lists of images and labels, without reading images."""
    return datasets.load_index(**_options(dataset))


def load_splits(
    dataset: ConfigDict,
    *,
    with_train: bool = True,
    saved_test: Mapping[str, int] | None = None,
) -> tuple[datasets.Splits, int]:
    """Loads the image sets; also returns how many unreadable images are left out.

    Args:
      dataset: the group of settings.
      with_train: see `datasets.load_index`.
      saved_test: see `datasets.load_index`.
    """
    splits = datasets.load(**_options(dataset), with_train=with_train, saved_test=saved_test)
    read = {
        name: _select_readable(images, dataset)
        for name, images in vars(splits).items()
        if images is not None
    }
    kept = datasets.Splits(**{name: images for name, (images, _) in read.items()})
    return kept, sum(count for _, count in read.values())


def load_test(
    dataset: ConfigDict, saved: Mapping[str, Any], say: Callable[[str], None]
) -> datasets.Splits:
    """Loads the test images for an evaluation, and reports differences to those of training.

    Args:
      dataset: the group of settings.
      saved: `same_run.fingerprints` of the run, {} if they are not known.
      say: called with a line if unreadable images are left out, and for each set that changed.

    Raises:
      InputError: if they are not there or cannot be read.
    """
    splits, num_skipped = load_splits(dataset, with_train=False, saved_test=saved.get("query"))
    if num_skipped:
        total = num_skipped + sum(map(len, splits.test_sets))
        say(
            f"left out  {num_skipped:,} of {total:,} test images that cannot be read; "
            "--mode=check_data names them"
        )
    for difference in same_run.differences(same_run.fingerprints(splits), saved):
        say(f"data      not as in training: other {difference}")
    return splits


def hold_out(dataset: ConfigDict) -> datasets.HoldOut:
    """Returns which training classes are held out for validation."""
    return datasets.HoldOut(
        share=dataset.validation_classes,
        names=tuple(dataset.validation_list),
        unit=dataset.validation_unit,
        fold=dataset.validation_fold,
    )


def _select_readable(
    images: datasets.ImageSet, dataset: ConfigDict
) -> tuple[datasets.ImageSet, int]:
    """Returns the images that can be read, and how many cannot, see `decoding.select_readable`."""
    if images.in_memory:
        return images, 0
    from dcjax.data import decoding  # which imports TensorFlow

    return decoding.select_readable(
        images, skip_unreadable=dataset.skip_unreadable, max_pixels=dataset.max_pixels
    )


def _options(dataset: ConfigDict) -> dict[str, Any]:
    options = {name: dataset[name] for name in datasets.known_options(dataset.name)}
    validation = hold_out(dataset)
    return {"name": dataset.name, "root": dataset.root, "validation": validation, **options}
