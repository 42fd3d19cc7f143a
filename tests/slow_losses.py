"""Losses and miners in plain Python, pair by pair and triplet by triplet."""

import itertools
import math
from collections.abc import Callable, Sequence

Rows = Sequence[Sequence[float]]
Labels = Sequence[int]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(p * q for p, q in zip(a, b, strict=True))


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    return math.sqrt(math.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True)))


class Batch:
    """A batch of unit vectors with the positives and negatives of each.

    `constants` are the similarities that weights are computed of, through which no gradient flows.
    """

    def __init__(self, x: Rows, labels: Labels) -> None:
        self.n = range(len(x))
        self.x = [[v / math.sqrt(_dot(row, row)) for v in row] for row in x]
        self.s = self.constants = [[_dot(a, b) for b in self.x] for a in self.x]
        self.d = [[_distance(a, b) for b in self.x] for a in self.x]
        self.positives = [[j for j in self.n if labels[j] == labels[i] and j != i] for i in self.n]
        self.negatives = [[j for j in self.n if labels[j] != labels[i]] for i in self.n]

    def others(self, i: int) -> list[int]:
        return self.positives[i] + self.negatives[i]

    @property
    def anchors(self) -> list[int]:
        """Images with a positive."""
        return [i for i in self.n if self.positives[i]]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def contrastive_squared(batch: Batch) -> float:
    pull = [batch.d[i][j] ** 2 for i in batch.n for j in batch.positives[i]]
    push = [max(1.2 - batch.d[i][j], 0.0) ** 2 for i in batch.n for j in batch.negatives[i]]
    return _mean(pull) + _mean([term for term in push if term > 0])


def supervised_contrastive(batch: Batch) -> float:
    rows = []
    for i in batch.anchors:
        total = math.fsum(math.exp(batch.s[i][j] / 0.1) for j in batch.others(i))
        log_shares = [math.log(math.exp(batch.s[i][p] / 0.1) / total) for p in batch.positives[i]]
        rows.append(-_mean(log_shares))
    return _mean(rows)


def smooth_ap(batch: Batch) -> float:
    rows = []
    for i in batch.anchors:

        def rank(p: int, among: Sequence[int], s: Sequence[float] = batch.s[i]) -> float:
            return 1 + math.fsum(_sigmoid((s[j] - s[p]) / 0.1) for j in among if j != p)

        terms = [rank(p, batch.positives[i]) / rank(p, batch.others(i)) for p in batch.positives[i]]
        rows.append(1 - _mean(terms))
    return _mean(rows)


def recall_at_k(batch: Batch) -> float:
    rows = []
    for i, k in itertools.product(batch.anchors, (1, 2, 4)):
        s, positives, hits = batch.s[i], batch.positives[i], 0.0
        for p in positives:
            rank = 1.0
            for j in batch.others(i):
                rank += _sigmoid((s[j] - s[p]) / 0.05) if j != p else 0.0
            hits += _sigmoid(k - rank)
        rows.append(1 - hits / min(k, len(positives)))
    return _mean(rows)


Triplets = list[tuple[int, int, int]]


def _nearest_beyond(batch: Batch, i: int, bound: float, fallback: str) -> list[int]:
    """Returns the nearest negative beyond a bound, or the fallback, or nothing."""
    negatives = sorted(batch.negatives[i], key=lambda n: batch.d[i][n])
    farther = [n for n in negatives if batch.d[i][n] > bound]
    return farther[:1] or (negatives[-1:] if fallback == "farthest" else [])


def mine_semi_hard(batch: Batch, fallback: str) -> Triplets:
    pairs = [(i, p) for i in batch.n for p in batch.positives[i]]
    return [(i, p, n) for i, p in pairs for n in _nearest_beyond(batch, i, batch.d[i][p], fallback)]


def mine_hard(batch: Batch) -> Triplets:
    triplets = []
    for i in batch.anchors:
        positive = max(batch.positives[i], key=lambda p: batch.d[i][p])
        triplets += [(i, positive, min(batch.negatives[i], key=lambda n: batch.d[i][n]))]
    return triplets


def mine_easy_positive(batch: Batch, easy_negatives: str, fallback: str) -> Triplets:
    triplets = []
    for i in batch.anchors:
        positive = min(batch.positives[i], key=lambda p: batch.d[i][p])
        bound = batch.d[i][positive] if easy_negatives == "semi_hard" else 0.0
        triplets += [(i, positive, n) for n in _nearest_beyond(batch, i, bound, fallback)]
    return triplets


def mine_nearest(batch: Batch, cutoff: float) -> Triplets:
    q = max(sum(map(len, batch.positives)) // len(batch.n), 1)
    triplets = []
    for i in batch.n:
        eligible = [n for n in batch.negatives[i] if batch.d[i][n] >= cutoff]
        nearest = sorted(eligible, key=lambda n: batch.d[i][n])[:q]
        triplets += [(i, p, n) for p, n in zip(batch.positives[i], nearest, strict=False)]
    return triplets


def mine_multi_similarity(batch: Batch, epsilon: float) -> tuple[list[tuple[int, int]], ...]:
    positives, negatives = [], []
    for i in batch.anchors:
        s = batch.s[i]
        hardest = max(s[n] for n in batch.negatives[i]) + epsilon
        easiest = min(s[p] for p in batch.positives[i]) - epsilon
        positives += [(i, p) for p in batch.positives[i] if s[p] < hardest]
        negatives += [(i, n) for n in batch.negatives[i] if s[n] > easiest]
    return positives, negatives


def triplet_facenet(batch: Batch) -> float:
    """Averages over squared distances of the triplets with a positive loss."""
    mined = mine_semi_hard(batch, "none")
    terms = [batch.d[i][p] ** 2 - batch.d[i][n] ** 2 + 0.2 for i, p, n in mined]
    return _mean([term for term in terms if term > 0])


def soft_triplet_all(batch: Batch) -> float:
    terms = [
        math.log1p(math.exp(batch.d[i][p] - batch.d[i][n]))
        for i in batch.n
        for p in batch.positives[i]
        for n in batch.negatives[i]
    ]
    return _mean(terms)


def margin_hard(batch: Batch) -> float:
    pull = [batch.d[i][p] - 1.2 + 0.2 for i, p, _ in mine_hard(batch)]
    push = [1.2 - batch.d[i][n] + 0.2 for i, _, n in mine_hard(batch)]
    return _mean([term for term in pull + push if term > 0])


def multi_similarity_mined(batch: Batch) -> float:
    positives, negatives = mine_multi_similarity(batch, 0.1)
    total = 0.0
    for i in batch.n:
        near = math.fsum(math.exp(-2 * (batch.s[i][p] - 0.5)) for a, p in positives if a == i)
        far = math.fsum(math.exp(50 * (batch.s[i][n] - 0.5)) for a, n in negatives if a == i)
        total += math.log1p(near) / 2 + math.log1p(far) / 50
    return total / len(batch.n)


def _circle(
    batch: Batch, positives: list[tuple[int, int]], negatives: list[tuple[int, int]]
) -> float:
    margin, gamma, rows = 0.3, 8.0, []

    def pull(i: int, p: int) -> float:
        weight = max(1 + margin - batch.constants[i][p], 0.0)
        return math.exp(gamma * weight * (1 - margin - batch.s[i][p]))

    def push(i: int, n: int) -> float:
        weight = max(batch.constants[i][n] + margin, 0.0)
        return math.exp(gamma * weight * (batch.s[i][n] - margin))

    for i in batch.n:
        pulls = [pull(i, p) for a, p in positives if a == i]
        pushes = [push(i, n) for a, n in negatives if a == i]
        if pulls and pushes:
            rows.append(math.log1p(math.fsum(pulls) * math.fsum(pushes)))
    return _mean(rows)


def circle(batch: Batch) -> float:
    positives = [(i, p) for i in batch.n for p in batch.positives[i]]
    return _circle(batch, positives, [(i, n) for i in batch.n for n in batch.negatives[i]])


def circle_mined(batch: Batch) -> float:
    return _circle(batch, *mine_multi_similarity(batch, 0.1))


LOSSES: dict[str, Callable[[Batch], float]] = {
    "circle": circle,
    "circle_mined": circle_mined,
    "contrastive_squared": contrastive_squared,
    "supervised_contrastive": supervised_contrastive,
    "smooth_ap": smooth_ap,
    "recall_at_k": recall_at_k,
    "triplet_facenet": triplet_facenet,
    "soft_triplet_all": soft_triplet_all,
    "margin_hard": margin_hard,
    "multi_similarity_mined": multi_similarity_mined,
}
