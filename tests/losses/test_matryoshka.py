"""Matryoshka: every loss is the mean of those of the first coordinates, by the same parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcjax import losses
from dcjax.division import masks
from dcjax.losses.pairs import References

KEY, DIM, DIMS = jax.random.key(0), 8, (3, 5)
LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 3])
RAW = jax.random.normal(KEY, (8, DIM))
PAST = References(masks.l2_normalize(jax.random.normal(jax.random.key(1), (6, DIM))), LABELS[:6])
MASK = jnp.array([1.0, 0.0, 0.5, 2.0, 0.3, 1.0, 0.0, 1.0])
SIZES = np.array([1, 20, 300, 4])
# Options of a loss by its name: some whose parameters have an axis that is not the embedding's.
OPTIONS: dict[str, dict[str, Any]] = {
    "margin": {"learn_beta": "per_class"},
    "arcface": {"size_exponent": 0.25},
    "sub_center_arcface": {"centers": 5},
}


def weighted(*, num_classes: int, embedding_dim: int, class_sizes: Any) -> losses.Loss:
    """A loss of one's own, whose classes count by their sizes."""

    def init(key: jax.Array) -> losses.Params:
        return {"directions": jax.random.normal(key, (embedding_dim, num_classes))}

    def apply(params: Any, embeddings: Any, labels: Any, key: Any) -> Any:
        chosen = jnp.sum(embeddings * params["directions"].T[labels], axis=1)
        return -jnp.mean(chosen / jnp.asarray(class_sizes)[labels]), {}

    return losses.Loss(init, apply)


def _create(name: str, dim: int, **more: Any) -> losses.Loss:
    options = OPTIONS.get(name, {}) | more
    return losses.create(name, num_classes=4, embedding_dim=dim, class_sizes=SIZES, **options)


def _cut(params: losses.Params, dim: int) -> losses.Params:
    parts = {"proxies": np.s_[:, :dim], "centers": np.s_[..., :dim], "directions": np.s_[:dim]}
    return {name: leaf[parts[name]] if name in parts else leaf for name, leaf in params.items()}


@pytest.mark.parametrize("name", [*losses.KNOWN, f"{__name__}:weighted"])
def test_loss_is_the_mean_of_those_of_the_first_coordinates(name: str) -> None:
    nested = _create(name, DIM, matryoshka=DIMS)
    each = {dim: _create(name, dim) for dim in (*DIMS, DIM)}
    takes = each[DIM].takes

    def arguments(dim: int) -> tuple[jax.Array, dict[str, Any]]:
        """Returns embeddings of a cluster and what the loss takes, made in `dim` dimensions."""
        past = References(masks.apply(PAST.embeddings[:, :dim], MASK[:dim]), PAST.labels)
        more = {"mask": MASK[:dim], "memory": past}
        return masks.apply(RAW[:, :dim], MASK[:dim]), {key: more[key] for key in takes}

    @jax.jit
    def both(params: losses.Params) -> Any:
        found = [
            loss.apply(_cut(params, dim), x, LABELS, KEY, **more)
            for dim, loss in each.items()
            for x, more in [arguments(dim)]
        ]
        x, more = arguments(DIM)
        return nested.apply(params, x, LABELS, KEY, **more), found

    (value, stats), found = both(nested.init(KEY))
    expected = [np.asarray(one) for one, _ in found]
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-4)
    np.testing.assert_allclose([stats[f"loss@{dim}"] for dim in each], expected, rtol=1e-4)
    assert len({float(x) for x in expected}) == 3
    _, of_whole = found[-1]
    np.testing.assert_allclose([stats[key] for key in of_whole], list(of_whole.values()), rtol=1e-5)
    assert nested.takes == takes


def test_first_coordinates_learn_to_be_embeddings() -> None:
    # All that tells the classes apart is in the last coordinate, until it is trained.
    start = 0.1 * RAW.at[:, -1].set(30.0 * (LABELS - 1.5))

    def separation(raw: jax.Array, matryoshka: tuple[int, ...]) -> float:
        loss = losses.create(
            "supervised_contrastive", num_classes=4, embedding_dim=DIM, matryoshka=matryoshka
        )
        value = jax.jit(
            jax.grad(lambda raw: loss.apply({}, masks.l2_normalize(raw), LABELS, KEY)[0])
        )
        for _ in range(50):
            raw = raw - 0.1 * value(raw)
        first = masks.l2_normalize(raw[:, :3])
        same = LABELS[:, None] == LABELS[None, :]
        cosines = np.asarray(first @ first.T)
        return float(cosines[same].min() - cosines[~same].max())

    assert separation(start, ()) < 0 < separation(start, (3,))


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ((4, 9), "every number of loss.matryoshka, .* at least 1 and at most 8, got 9"),
        ((0, 4), "every number of loss.matryoshka, .* got 0"),
        ((2.5,), "every number of loss.matryoshka, .* got 2.5"),
        ((5, 3), r"numbers of loss.matryoshka that ascend, got \(5, 3\)"),
        ((3, 3), r"numbers of loss.matryoshka that ascend, got \(3, 3\)"),
    ],
)
def test_errors_name_the_dims(dims: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _create("n_pairs", DIM, matryoshka=dims)


def test_embeddings_of_another_width_are_refused() -> None:
    loss = _create("n_pairs", DIM, matryoshka=DIMS)
    with pytest.raises(ValueError, match=r"embeddings must be .* \[N, 8\]"):
        loss.apply(loss.init(KEY), jnp.ones((8, 9)), LABELS, KEY)


def test_class_sizes_are_given_to_losses_that_ask_for_them() -> None:
    loss = losses.create(
        f"{__name__}:weighted", num_classes=4, embedding_dim=DIM, class_sizes=np.ones(4, int)
    )
    other = _create(f"{__name__}:weighted", DIM)
    params, x = loss.init(KEY), masks.l2_normalize(RAW)
    assert loss.apply(params, x, LABELS, KEY)[0] != other.apply(params, x, LABELS, KEY)[0]
