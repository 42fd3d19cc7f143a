"""The cross-batch memory holds the last embeddings and gives each cluster those of its images."""

import jax
import jax.numpy as jnp
import numpy as np

from dcjax.division import masks
from dcjax.losses import memory


def _rows(first: int, count: int) -> jax.Array:
    numbers = jnp.arange(first, first + count, dtype=jnp.float32)
    return jnp.stack([jnp.cos(numbers), jnp.sin(numbers)], axis=-1)


def test_newest_embeddings_replace_the_oldest() -> None:
    kept = memory.empty(5, 2)
    for step in range(4):
        labels = jnp.arange(2 * step, 2 * step + 2)
        embeddings = _rows(2 * step, 2)[None]
        kept = memory.enqueue(kept, embeddings, labels[None], jnp.array([step % 2]))
    # 0 to 7 are stored at positions 0 1 2 3 4 0 1 2.
    np.testing.assert_array_equal(kept["labels"], [5, 6, 7, 3, 4])
    np.testing.assert_array_equal(kept["clusters"], [0, 1, 1, 1, 0])
    np.testing.assert_array_equal(kept["embeddings"], _rows(0, 8)[kept["labels"]])
    assert kept["count"] == 8


def test_clusters_of_one_step_are_kept_apart() -> None:
    kept = memory.enqueue(
        memory.empty(6, 2),
        _rows(0, 4).reshape(2, 2, 2),
        jnp.array([[7, 8], [7, 9]]),
        jnp.array([3, 1]),
    )
    np.testing.assert_array_equal(kept["labels"], [7, 8, 7, 9, -1, -1])
    np.testing.assert_array_equal(kept["clusters"], [3, 3, 1, 1, -1, -1])


def test_references_are_the_images_of_the_cluster_under_its_mask() -> None:
    kept = memory.enqueue(
        memory.empty(4, 2), _rows(0, 3)[None], jnp.array([[7, 8, 9]]), jnp.array([1])
    )
    mask = jnp.array([1.0, 0.0])
    compared = memory.references(kept, mask, jnp.array(1))
    np.testing.assert_array_equal(compared.labels, [7, 8, 9, -1])
    expected = masks.apply(_rows(0, 3), mask)
    np.testing.assert_array_equal(compared.embeddings[:3], expected)
    others = memory.references(kept, mask, jnp.array(0))
    np.testing.assert_array_equal(others.labels, [-1] * 4)
    everything = memory.references(kept, jnp.ones(2), jnp.array(-1))
    np.testing.assert_array_equal(everything.labels, [7, 8, 9, -1])
    unused = memory.references(kept, mask, jnp.array(1), jnp.array(False))
    np.testing.assert_array_equal(unused.labels, [-1] * 4)


def test_forget_empties_the_memory() -> None:
    kept = memory.enqueue(
        memory.empty(2, 2), _rows(0, 2)[None], jnp.array([[1, 2]]), jnp.array([0])
    )
    jax.tree.map(np.testing.assert_array_equal, memory.forget(kept), memory.empty(2, 2))


def test_memory_of_size_zero_is_empty_and_gives_no_references() -> None:
    none = memory.empty(0, 2)
    assert none == memory.forget(none) == {}
    assert memory.enqueue(none, _rows(0, 2)[None], jnp.array([[1, 2]]), jnp.array([0])) == {}
    assert memory.references(none, jnp.ones(2), jnp.array(0)) is None


def test_no_gradient_flows_into_the_memory() -> None:
    def kept(x: jax.Array) -> jax.Array:
        filled = memory.enqueue(memory.empty(2, 2), x, jnp.zeros((1, 2), int), jnp.array([0]))
        return jnp.sum(filled["embeddings"])

    np.testing.assert_array_equal(jax.grad(kept)(_rows(0, 2)[None]), np.zeros((1, 2, 2)))


def test_mask_gets_gradients_from_the_batch_but_not_the_memory() -> None:
    labels, cluster = jnp.zeros((1, 2), int), jnp.array([0])
    kept = memory.enqueue(memory.empty(2, 2), _rows(0, 2)[None], labels, cluster)

    def compared(mask: jax.Array) -> jax.Array:
        return jnp.sum(memory.references(kept, mask, jnp.array(0)).embeddings)

    np.testing.assert_array_equal(jax.grad(compared)(jnp.array([1.0, 0.5])), np.zeros(2))
