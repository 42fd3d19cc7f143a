"""Features of any origin in the place of images: a file of vectors with labels."""

import dataclasses
from pathlib import Path

import numpy as np

from dcjax.core import naming
from dcjax.core.errors import InputError
from dcjax.data.datasets import embedding_files, folder
from dcjax.data.datasets.embedding_files import Embeddings
from dcjax.data.datasets.image_set import (
    JUNK,
    ImageSet,
    Splits,
    from_classes,
    no_images,
    require_unseen,
)
from dcjax.data.datasets.request import Request

_NOT_TESTED = {"train", "validation"}


def load(request: Request, *, features: str, test_classes: float) -> Splits:
    """Loads the features of a file.

    If it has a column split, its rows are in one split each: train and test, or train, query and
    gallery, and if wanted validation; no class is in two of train, validation and those to test.
    Otherwise the last classes in sorted order are held out, as `folder.load` does. If it has a
    column camera, rows of the label "-1" are junk, as in `manifest.load`.

    Args:
      request: Which features; its root is not used.
      features: Path of the file, see `embedding_files.read`; it must have labels.
      test_classes: Share of the classes to hold out, in (0, 1); not used where there are splits.
    """
    if not features:
        raise InputError(
            "Dataset 'features' needs a file of vectors, got an empty dataset.features; set "
            "--config.dataset.features=/path/to/file.parquet (or .npy, with a .csv beside it)."
        )
    path = Path(naming.expand(features))
    vectors = embedding_files.read(path, to_search=True, given_as="dataset.features")
    if not vectors.classes:
        table = "" if path.suffix.lower() == ".parquet" else f" of {path.with_suffix('.csv')}"
        raise InputError(f"{path}: require labels, in a column label{table}, got none.")
    vectors = _without_junk(vectors)
    rows = _rows_by_split(vectors, path, request, test_classes)
    splits = {name: _select(vectors, rows, name) for name in rows}
    if not request.with_train:
        return Splits(no_images(), **{x: splits[x] for x in splits if x not in _NOT_TESTED})
    return require_unseen(Splits(**splits), path)


def _without_junk(vectors: Embeddings) -> Embeddings:
    """Returns a file that has cameras without the rows that are no fair answer."""
    names = np.array(vectors.classes, np.str_)[vectors.labels]
    if vectors.cameras is None or JUNK not in vectors.classes:
        return vectors
    kept = vectors.select(names != JUNK)
    classes, labels = np.unique(names[names != JUNK], return_inverse=True)
    return dataclasses.replace(kept, labels=labels, classes=tuple(classes.tolist()))


def _rows_by_split(
    vectors: Embeddings, path: Path, request: Request, test_classes: float
) -> dict[str, np.ndarray]:
    """Returns which rows are in each split, masks [N], by the names of `Splits`."""
    if vectors.splits is None:
        names = sorted(vectors.classes, key=naming.encode)
        held_out = folder.num_test_classes(names, test_classes, request.saved_test)
        tested = [vectors.classes.index(name) for name in names[-held_out:]]
        is_test = np.isin(vectors.labels, tested)
        return {"train": ~is_test, "query": is_test}
    used = set(vectors.splits.tolist())
    lacks_train = request.with_train and "train" not in used
    if lacks_train or used - _NOT_TESTED not in ({"test"}, {"query", "gallery"}):
        raise InputError(
            f"{path}: require the splits train and test, or train, query and gallery, got "
            f"{', '.join(sorted(map(naming.escape, used)))}; validation may be beside them."
        )
    return {"query" if x == "test" else x: vectors.splits == x for x in sorted(used)}


def _select(vectors: Embeddings, rows: dict[str, np.ndarray], split: str) -> ImageSet:
    """Returns the features of a split, with labels among its own, or those of all test splits."""
    chosen, names = vectors.select(rows[split]), np.array(vectors.classes, np.str_)
    tested = np.any([rows[name] for name in rows if name not in _NOT_TESTED], axis=0)
    among = names[vectors.labels[rows[split] if split in _NOT_TESTED else tested]]
    images = from_classes(chosen.vectors, names[chosen.labels], among=among)
    return dataclasses.replace(images, cameras=chosen.cameras, names=chosen.paths)
