"""Walks through the images of a cluster, in batches without end (`sampling` says which and when).

A walk is made some thousands of images at a time, whoever asks for how many: what it yields is a
function of its generator alone. No step of Python is taken per batch or per class.
"""

from collections.abc import Iterator

import numpy as np

# Images made at once, and in walks through a small cluster, most of which may never be asked for.
# Either changes what is drawn.
_IMAGES_AT_ONCE, _IMAGES_OF_WALKS = 2**16, 2**13


class Batches:
    """The batches [., B] that a walk yields in parts, taken from the front."""

    def __init__(self, parts: Iterator[np.ndarray]) -> None:
        """Draws nothing yet."""
        self._parts = parts
        self._rest: np.ndarray | None = None

    def take(self, count: int) -> np.ndarray:
        """Returns the next count batches [count, B]."""
        taken, missing = [], count
        while missing:
            part = next(self._parts) if self._rest is None else self._rest
            taken.append(part[:missing])
            self._rest = part[missing:] if len(part) > missing else None
            missing -= len(taken[-1])
        return np.concatenate(taken)


def uniform(rng: np.random.Generator, members: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yields batches [., B] of a cluster's images in random order, drawn anew at the end.

    All images are drawn equally often, whatever their classes are: a batch of a single class stays,
    though it has no negatives. Without such batches, the images of small classes would fill the
    others: 2 beside 5,000 of one class would be in each.

    Args:
      rng: the source of all draws.
      members: int32, the cluster's images.
      batch_size: images in a batch, B.
    """
    n = len(members)
    # A cluster smaller than a batch: as many turns of its images as fill one.
    turns = -(-batch_size // n)
    whole = turns * n // batch_size * batch_size
    # Walks through a small cluster are drawn many at once.
    walks = np.tile(members, (max(1, _IMAGES_OF_WALKS // (turns * n)) * turns, 1))
    batches_at_once = -(-_IMAGES_AT_ONCE // batch_size)
    while True:
        rng.permuted(walks, axis=1, out=walks)
        batches = walks.reshape(-1, turns * n)[:, :whole].reshape(-1, batch_size)
        for start in range(0, len(batches), batches_at_once):
            yield batches[start : start + batches_at_once].copy()


def balanced(
    rng: np.random.Generator,
    members: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    images_per_class: int,
    small_class: str,
) -> Iterator[np.ndarray]:
    """Yields batches [., B] of a cluster's images with m of each of B / m classes.

    A class's images are walked through in shuffled order, which is drawn anew when fewer are left
    than a batch takes. With fewer than B / m classes each gives more, and the first of the drawn
    ones what is left over.

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
    sizes = np.diff(_begins(classes), append=len(members))
    num_chosen = min(batch_size // images_per_class, len(sizes))
    share, rest = divmod(batch_size, num_chosen)
    quotas = share + (np.arange(num_chosen) < rest)
    image = np.arange(quotas[0])
    wanted = image < quotas[:, None]
    shuffles = _Shuffles(rng, sizes, quotas[0])
    num_batches = max(1, min(_IMAGES_AT_ONCE, len(members)) // batch_size)
    shape = (num_batches, batch_size)
    while True:
        chosen = _completed(rng, len(sizes), np.full((num_batches, num_chosen), -1, np.int32))
        places = shuffles.draw(chosen)[:, wanted].reshape(shape)
        if small_class == "other":
            lacking = (image >= sizes[chosen][..., None])[:, wanted].reshape(shape)
            short = lacking.any(axis=1)
            known = np.where(lacking[short], -1, places[short])
            places[short] = _completed(rng, len(members), known)
        yield members[places]


class _Shuffles:
    """Every class's images in shuffled order, walked through and then shuffled anew."""

    def __init__(self, rng: np.random.Generator, sizes: np.ndarray, stride: int) -> None:
        """Begins with no class drawn yet.

        Args:
          rng: the source of all draws.
          sizes: images of each class; their places are in the order of the classes.
          stride: images that a draw takes, if the class has so many.
        """
        self._rng, self._sizes, self._most = rng, sizes, stride
        self._first = np.cumsum(sizes) - sizes
        self._strides = np.minimum(stride, sizes)
        self._num_draws = sizes // self._strides  # from one order
        self._order = np.zeros(sizes.sum(), np.int32)  # the last one of each class
        self._drawn = np.zeros(len(sizes), np.int64)

    def draw(self, chosen: np.ndarray) -> np.ndarray:
        """Returns the places of images of classes [V, s], drawn in this order, int32 [V, s, q].

        A class of fewer than q images gives all of them, and again from the front.
        """
        # Class by class, the draws of each in their order.
        by_class = np.argsort(chosen, axis=None, kind="stable")
        c = chosen.ravel()[by_class]
        begins = _begins(c)
        counts = np.diff(begins, append=len(c))
        nth = np.arange(len(c)) + np.repeat(self._drawn[c[begins]] - begins, counts)
        self._drawn[c[begins]] += counts
        turn, draw = np.divmod(nth, self._num_draws[c])
        stride = self._strides[c]
        within = (draw * stride)[:, None] + np.arange(self._most) % stride[:, None]
        found = self._order[self._first[c][:, None] + within]

        # An order is drawn with its first draw; all that begin here at once.
        begins = _begins(c, turn)
        is_new = draw[begins] == 0
        start = np.zeros(len(begins), np.int64)
        shuffled, start[is_new] = self._begin(c[begins[is_new]])
        num_drawn = np.diff(begins, append=len(c))
        start, in_new = np.repeat(start, num_drawn), np.repeat(is_new, num_drawn)
        found[in_new] = shuffled[start[in_new][:, None] + within[in_new]]

        places = np.empty_like(found)
        places[by_class] = found
        return places.reshape(*chosen.shape, -1)

    def _begin(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws new orders of classes [n], ascending, and keeps the last one of each.

        Returns:
          The orders one behind the other, int32, and where each begins, int64 [n].
        """
        sizes = self._sizes[classes]
        start = np.cumsum(sizes) - sizes
        which = np.repeat(np.arange(len(classes)), sizes)
        place = (np.arange(len(which)) + (self._first[classes] - start)[which]).astype(np.int32)
        shuffled = place[np.argsort(which + self._rng.random(len(which)))]
        is_last = np.append(classes[1:] != classes[:-1], np.ones(min(1, len(classes)), bool))[which]
        self._order[place[is_last]] = shuffled[is_last]
        return shuffled, start


def _begins(*columns: np.ndarray) -> np.ndarray:
    """Returns where a run of equal rows of the columns [n] begins."""
    changes = [column[1:] != column[:-1] for column in columns]
    return np.flatnonzero(np.concatenate([[True], np.any(changes, axis=0)]))


def _completed(rng: np.random.Generator, n: int, rows: np.ndarray) -> np.ndarray:
    """Fills up rows [V, B] where they are -1 with random numbers below n.

    No number is twice in a row; if n < B, none again before all others are.
    """
    lacking = rows < 0
    if n < 2 * rows.shape[1]:
        # All numbers in random order, those that the row has already behind.
        keys = rng.random((len(rows), n))
        row, column = np.nonzero(~lacking)
        keys[row, rows[row, column]] += 1
        turn = (np.cumsum(lacking, axis=1) - 1) % n
        return np.where(lacking, np.take_along_axis(np.argsort(keys, axis=1), turn, axis=1), rows)
    # What is drawn twice is drawn again: as likely as not at most, so that few are soon left.
    rows, left, again = rows.copy(), np.arange(len(rows)), lacking
    while len(left):
        part = rows[left]
        part[again] = rng.integers(n, size=np.count_nonzero(again))
        rows[left] = part
        ascending = np.sort(part, axis=1)
        some = np.any(ascending[:, 1:] == ascending[:, :-1], axis=1)
        left = left[some]
        again = _repeated(part[some], lacking[left])
    return rows


def _repeated(rows: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Returns where a number was drawn that its row [V, B] has before, or that was not drawn."""
    keys = 2 * rows.astype(np.int64) + drawn
    order = np.argsort(keys, axis=1, kind="stable")
    ascending = np.take_along_axis(keys, order, axis=1) // 2
    repeated = np.zeros(rows.shape, bool)
    same = ascending[:, 1:] == ascending[:, :-1]
    np.put_along_axis(repeated, order[:, 1:], same, axis=1)
    return repeated
