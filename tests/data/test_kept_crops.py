"""Centre crops that stay in memory are those of their reader, which makes them once."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dcjax.data import readers

_CROPS = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3)).astype(np.uint8)
_ROWS = readers.rows_to_embed(10, 4)


class _Counting(readers.Crops):
    """Counts the batches that it makes."""

    num_batches = 0

    def eval_batches(self, rows: npt.NDArray[np.int32]) -> Iterator[npt.NDArray]:
        for batch in super().eval_batches(rows):
            self.num_batches += 1
            yield batch


def _read(reader: readers.EvalReader, rows: npt.NDArray[np.int32]) -> npt.NDArray:
    return np.stack(list(reader.eval_batches(rows)))


def test_crops_are_made_once() -> None:
    reader = _Counting(_CROPS)
    kept = readers.KeptCrops(reader)
    for _ in range(3):
        np.testing.assert_array_equal(_read(kept, _ROWS), _CROPS[_ROWS])
    assert reader.num_batches == len(_ROWS)
    assert kept.images is reader.images


def test_batches_of_another_size_are_made_anew() -> None:
    kept = readers.KeptCrops(_Counting(_CROPS))
    for batch_size in (4, 5, 4):
        rows = readers.rows_to_embed(10, batch_size)
        np.testing.assert_array_equal(_read(kept, rows), _CROPS[rows])


def test_a_reading_that_was_broken_off_is_not_kept() -> None:
    kept = readers.KeptCrops(_Counting(_CROPS))
    next(kept.eval_batches(_ROWS))
    np.testing.assert_array_equal(_read(kept, _ROWS), _CROPS[_ROWS])
