"""Infinite streams of batches drawn from one cluster; `sampling` decides when each is used.

A stream draws some thousands of images at a time, however many are asked for, so its batches are a
function of its random generator alone. It is vectorised: no Python loop over batches or classes.
"""

from collections.abc import Iterator

import numpy as np

# Images drawn at once, and fewer for a small cluster, most of which may never be used. What is
# drawn depends on both numbers.
_IMAGES_AT_ONCE, _IMAGES_AT_ONCE_SMALL = 2**16, 2**13


class Batches:
    """Takes batches from a stream that yields them in parts [., B]."""

    def __init__(self, parts: Iterator[np.ndarray]) -> None:
        """Takes the stream; draws nothing yet."""
        self._parts = parts
        self._rest: np.ndarray | None = None

    def take(self, count: int) -> np.ndarray:
        """Returns the next count batches [count, B]."""
        batches, missing = [], count
        while missing:
            part = next(self._parts) if self._rest is None else self._rest
            batches.append(part[:missing])
            self._rest = part[missing:] if len(part) > missing else None
            missing -= len(batches[-1])
        return np.concatenate(batches)


def uniform_batches(
    rng: np.random.Generator, members: np.ndarray, batch_size: int
) -> Iterator[np.ndarray]:
    """Yields batches [., B] of a cluster's images in random order, shuffled again after each pass.

    All images are drawn equally often, whatever their classes are. A batch of a single class, which
    has no negatives, is kept: without such batches, images of small classes would be drawn far more
    often, as 2 beside 5,000 of one class would be in every batch.

    Args:
      rng: the source of all draws.
      members: int32, the cluster's images.
      batch_size: images in a batch, B.
    """
    n = len(members)
    # A pass is one permutation of the images, or as many as fill a batch. Its last images, which do
    # not fill another batch, are dropped.
    turns = -(-batch_size // n)
    num_used = turns * n // batch_size * batch_size
    # Many passes through a small cluster are drawn at once: [passes * turns, n].
    passes = np.tile(members, (max(1, _IMAGES_AT_ONCE_SMALL // (turns * n)) * turns, 1))
    batches_at_once = -(-_IMAGES_AT_ONCE // batch_size)
    while True:
        rng.permuted(passes, axis=1, out=passes)
        batches = passes.reshape(-1, turns * n)[:, :num_used].reshape(-1, batch_size)
        for start in range(0, len(batches), batches_at_once):
            yield batches[start : start + batches_at_once].copy()


def balanced_batches(
    rng: np.random.Generator,
    members: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    images_per_class: int,
    small_class: str,
) -> Iterator[np.ndarray]:
    """Yields batches [., B] of a cluster's images with m of each of B / m classes.

    The images of a class are used in shuffled order, and shuffled again when fewer are left than a
    batch needs. In a cluster of fewer than B / m classes, each gives more than m images; if B does
    not divide evenly, the first classes of the batch give one more than the others.

    Args:
      rng: the source of all draws.
      members: int32, the cluster's images, class by class.
      labels: classes of all images [N].
      batch_size: images in a batch, B.
      images_per_class: images of a class in a batch, m.
      small_class: what fills up a class of fewer than m images: "other" images that are not in the
        batch yet, or the same ones, "repeat".
    """
    classes = labels[members]
    sizes = np.diff(_run_starts(classes), append=len(members))  # images of each class
    # Each batch has s classes; its j-th class gives quotas[j] images, the first quotas of a slot
    # [s, q] with q = quotas[0].
    num_chosen = min(batch_size // images_per_class, len(sizes))
    share, rest = divmod(batch_size, num_chosen)
    quotas = share + (np.arange(num_chosen) < rest)
    slot = np.arange(quotas[0])
    is_used = slot < quotas[:, None]
    shuffles = _Shuffles(rng, sizes, quotas[0])
    num_batches = max(1, min(_IMAGES_AT_ONCE, len(members)) // batch_size)
    shape = (num_batches, batch_size)
    while True:
        # The classes of each batch [V, s], and places in `members` [V, s, q], cut to [V, B].
        chosen = _fill_distinct(rng, len(sizes), np.full((num_batches, num_chosen), -1, np.int32))
        places = shuffles.draw(chosen)[:, is_used].reshape(shape)
        if small_class == "other":
            # Slots beyond the images of a class are filled from the rest of the cluster.
            is_missing = (slot >= sizes[chosen][..., None])[:, is_used].reshape(shape)
            is_short = is_missing.any(axis=1)
            present = np.where(is_missing[is_short], -1, places[is_short])
            places[is_short] = _fill_distinct(rng, len(members), present)
        yield members[places]


class _Shuffles:
    """Draws images of classes without replacement, each class shuffled again when exhausted."""

    def __init__(self, rng: np.random.Generator, sizes: np.ndarray, stride: int) -> None:
        """Shuffles nothing yet.

        Args:
          rng: the source of all draws.
          sizes: images of each class; class c has the places from sizes[:c].sum() on.
          stride: images of a draw, q, if the class has that many.
        """
        self._rng, self._sizes, self._max_draw = rng, sizes, stride
        self._class_start = np.cumsum(sizes) - sizes
        self._strides = np.minimum(stride, sizes)
        self._draws_per_order = sizes // self._strides
        self._order = np.zeros(sizes.sum(), np.int32)  # the current order of each class
        self._num_drawn = np.zeros(len(sizes), np.int64)  # draws of each class so far

    def draw(self, chosen: np.ndarray) -> np.ndarray:
        """Returns the places of images for draws of classes [V, s], in this order, int32 [V, s, q].

        The n-th draw of a class takes images d q to (d + 1) q of its t-th order, with (t, d) the
        quotient and rest of n by the draws that an order allows. A class of fewer than q images
        gives all of them, repeated from the first on.
        """
        # Sort the V s draws by class; the draws of one class stay in their order.
        by_class = np.argsort(chosen, axis=None, kind="stable")
        c = chosen.ravel()[by_class]
        starts = _run_starts(c)
        counts = np.diff(starts, append=len(c))
        # Of each draw: its number within its class, its order of the class, and its place in that.
        nth = np.arange(len(c)) + np.repeat(self._num_drawn[c[starts]] - starts, counts)
        self._num_drawn[c[starts]] += counts
        turn, draw = np.divmod(nth, self._draws_per_order[c])
        stride = self._strides[c]
        within = (draw * stride)[:, None] + np.arange(self._max_draw) % stride[:, None]
        # First as if no order was new: images from the current orders.
        images = self._order[self._class_start[c][:, None] + within]

        # A run of draws from one order; the order is new if its first draw is in this call. All new
        # orders are shuffled at once, and their draws take images from there.
        starts = _run_starts(c, turn)
        is_new = draw[starts] == 0
        order_start = np.zeros(len(starts), np.int64)
        shuffled, order_start[is_new] = self._shuffle(c[starts[is_new]])
        run_lengths = np.diff(starts, append=len(c))
        order_start, in_new = np.repeat(order_start, run_lengths), np.repeat(is_new, run_lengths)
        images[in_new] = shuffled[order_start[in_new][:, None] + within[in_new]]

        # Back to the order in which the draws were asked for.
        places = np.empty_like(images)
        places[by_class] = images
        return places.reshape(*chosen.shape, -1)

    def _shuffle(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws an order for each of the classes [n], which ascend and may repeat.

        The last order of each class becomes its current one.

        Returns:
          The orders, concatenated, int32, and the start of each, int64 [n].
        """
        sizes = self._sizes[classes]
        start = np.cumsum(sizes) - sizes
        which = np.repeat(np.arange(len(classes)), sizes)
        place = np.arange(len(which)) + (self._class_start[classes] - start)[which]
        place = place.astype(np.int32)
        # A random key in [i, i + 1) for each image of order i: sorting them shuffles within orders.
        shuffled = place[np.argsort(which + self._rng.random(len(which)))]
        is_last = np.append(classes[1:] != classes[:-1], np.ones(min(1, len(classes)), bool))[which]
        self._order[place[is_last]] = shuffled[is_last]
        return shuffled, start


def _run_starts(*columns: np.ndarray) -> np.ndarray:
    """Returns the starts of runs of equal rows, of which the columns [n] are given."""
    changes = [column[1:] != column[:-1] for column in columns]
    return np.flatnonzero(np.concatenate([[True], np.any(changes, axis=0)]))


def _fill_distinct(rng: np.random.Generator, n: int, rows: np.ndarray) -> np.ndarray:
    """Replaces each -1 in rows [V, B] by a random number below n that its row does not have yet.

    If n < B, a number is repeated only when the row has all others.
    """
    is_missing = rows < 0
    if n < 2 * rows.shape[1]:
        # Sort the n numbers by random keys, with those that a row has already at the end.
        keys = rng.random((len(rows), n))
        row, column = np.nonzero(~is_missing)
        keys[row, rows[row, column]] += 1
        turn = (np.cumsum(is_missing, axis=1) - 1) % n
        filled = np.take_along_axis(np.argsort(keys, axis=1), turn, axis=1)
        return np.where(is_missing, filled, rows)
    # Rejection: draw with replacement, and draw repeated numbers again. As n >= 2 B, each draw is
    # rejected with a probability of at most 1/2.
    rows, left, is_rejected = rows.copy(), np.arange(len(rows)), is_missing
    while len(left):
        part = rows[left]
        part[is_rejected] = rng.integers(n, size=np.count_nonzero(is_rejected))
        rows[left] = part
        ascending = np.sort(part, axis=1)
        has_repeats = np.any(ascending[:, 1:] == ascending[:, :-1], axis=1)
        left = left[has_repeats]
        is_rejected = _find_repeats(part[has_repeats], is_missing[left])
    return rows


def _find_repeats(rows: np.ndarray, is_drawn: np.ndarray) -> np.ndarray:
    """Returns which numbers of rows [V, B] to draw again, bool [V, B].

    Of equal numbers in a row all but one are: the one that was given, or the first that was drawn.
    """
    # Sorted by number; of equal ones, those that were given come first.
    keys = 2 * rows.astype(np.int64) + is_drawn
    order = np.argsort(keys, axis=1, kind="stable")
    ascending = np.take_along_axis(keys, order, axis=1) // 2
    is_repeat = np.zeros(rows.shape, bool)
    is_same = ascending[:, 1:] == ascending[:, :-1]
    np.put_along_axis(is_repeat, order[:, 1:], is_same, axis=1)
    return is_repeat
