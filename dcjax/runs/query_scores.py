"""The scores of each query, kept of the evaluations that a table may show, for paired intervals.

`query_scores/EPOCH.npz` in the folder of a run has an array [Q] for each score that is a mean over
the queries, NaN where it is undefined, and their classes, "labels".
"""

import contextlib
import io
import pathlib
import zipfile
import zlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from etils import epath

from dcjax.runs import workdirs

FOLDER = "query_scores"
LABELS = "labels"


def write(
    folder: pathlib.Path, epoch: int, scores: Mapping[str, np.ndarray], labels: np.ndarray
) -> None:
    """Writes the scores of an evaluation; if that fails, there is no file, and a run goes on.

    Args:
      folder: of the run.
      epoch: finished epochs.
      scores: of each query, by name.
      labels: classes of the queries.
    """
    path, file = _path(folder, epoch), io.BytesIO()
    arrays: dict[str, Any] = {name: values.astype(np.float32) for name, values in scores.items()}
    arrays[LABELS] = labels.astype(np.int32)
    np.savez_compressed(file, **arrays)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        workdirs.write(epath.Path(path), file.getvalue())


def keep(folder: pathlib.Path, epochs: Collection[int]) -> None:
    """Removes what there is of other epochs."""
    names = {_path(folder, epoch).name for epoch in epochs}
    with contextlib.suppress(OSError):
        for path in (folder / FOLDER).iterdir():
            if path.name not in names:
                path.unlink()


def read(folder: pathlib.Path, epoch: int) -> dict[str, np.ndarray]:
    """Returns the scores of each query and their labels.

    {} without a whole file, as of a run of a version that kept none.
    """
    try:
        # Of a damaged file that it opens itself, np.load would leave the descriptor open.
        with _path(folder, epoch).open("rb") as file, np.load(file) as found:
            arrays = dict(found)
    except (OSError, EOFError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile, zlib.error):
        return {}
    labels = arrays.get(LABELS, np.zeros(0))
    is_whole = labels.ndim == 1 and labels.dtype.kind == "i"
    scores = (values for name, values in arrays.items() if name != LABELS)
    return arrays if is_whole and all(_is_of(labels, values) for values in scores) else {}


def _is_of(labels: np.ndarray, scores: np.ndarray) -> bool:
    """Returns whether an array has a score for each of the queries."""
    return scores.shape == labels.shape and scores.dtype.kind == "f"


def _path(folder: pathlib.Path, epoch: int) -> pathlib.Path:
    return folder / FOLDER / f"{epoch}.npz"
