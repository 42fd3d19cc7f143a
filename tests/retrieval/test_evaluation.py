"""Every image is embedded once and in order, and scored by the protocol."""

import ast
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import many_processes
import numpy as np
import pytest
import small_models

from dcjax.data import crops, datasets, host_cache, pipeline
from dcjax.data.datasets import ImageSet
from dcjax.distributed import devices, processes, sharded_rows
from dcjax.division import host_kmeans
from dcjax.retrieval import evaluation
from dcjax.training import steps


def image_set(labels: list[int]) -> ImageSet:
    names = tuple(map(str, range(max(labels) + 1)))
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 3)).astype(np.uint8)
    return ImageSet(pixels, np.array(labels, np.int32), names)


def read(images: ImageSet) -> pipeline.Stream:
    augmentation = crops.Augmentation(
        "resize_then_random", 8, 8, (1.0, 1.0), (1.0, 1.0), flip=False, strategy="standard"
    )
    return pipeline.Stream(images, augmentation, seed=0, num_threads=1)


def embed(images: ImageSet, step: Any, variables: Any = None, **changes: Any) -> np.ndarray:
    options: dict[str, Any] = {
        "output": "embedding",
        "sharding": devices.rows_sharding(devices.create_mesh(jax.devices()[:1])),
        "batch_size": 8,
    }
    embedded = evaluation.embed(read(images), step, variables, **options | changes)
    return evaluation.fetch(embedded, len(images))


def sharded(*embeddings: np.ndarray) -> list[jax.Array]:
    """Returns the embeddings as `evaluation.embed` does."""
    mesh = devices.create_mesh()
    return [sharded_rows.place(rows.astype(np.float32), mesh).values for rows in embeddings]


@pytest.mark.parametrize("batch_size", [1, 4, 10, 16])
def test_rows_are_in_image_order_for_any_batch_size(batch_size: int) -> None:
    traces = []

    @jax.jit
    def step(scale: float, images: jax.Array) -> dict[str, jax.Array]:
        traces.append(1)
        corner = images[:, 0, 0].astype(jnp.float32)
        return {"embedding": scale * corner, "backbone": -corner}

    images = image_set([0] * 10)
    corners = images.images[:, 0, 0].astype(np.float32)
    np.testing.assert_array_equal(embed(images, step, 2.0, batch_size=batch_size), 2 * corners)
    backbone = embed(images, step, 2.0, batch_size=batch_size, output="backbone")
    np.testing.assert_array_equal(backbone, -corners)
    assert len(traces) == 1  # the last batch is padded


@pytest.mark.parametrize("num_devices", [3, 6])
def test_batch_size_is_rounded_up_to_the_number_of_devices(num_devices: int) -> None:
    mesh = devices.create_mesh(jax.devices()[:num_devices])

    def step(_: Any, images: jax.Array) -> dict[str, jax.Array]:
        assert len(images) % num_devices == 0
        return {"embedding": images[:, 0, 0].astype(jnp.float32)}

    images = image_set([0] * 20)
    rows = embed(images, step, sharding=devices.rows_sharding(mesh), batch_size=8)
    np.testing.assert_array_equal(rows, images.images[:, 0, 0])


def test_embeddings_do_not_depend_on_the_batch_size() -> None:
    model = small_models.create(dropout=0.5)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8))
    step = jax.jit(functools.partial(steps.embed_step, model=model))
    images = image_set([0] * 5)
    rows = embed(images, step, variables, batch_size=5)
    assert rows.shape == (5, model.embedding_dim)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    padded = embed(images, step, variables, batch_size=2)
    np.testing.assert_allclose(padded, rows, rtol=1e-4, atol=1e-6)


def test_non_finite_embeddings_stop_the_run() -> None:
    def step(_: Any, images: jax.Array) -> dict[str, jax.Array]:
        return {"embedding": jnp.ones((len(images), 2)).at[-1].set(jnp.nan)}

    padding = image_set([0] * 7)  # the eighth row is padding and is dropped before the check
    np.testing.assert_array_equal(embed(padding, step), np.ones((7, 2)))
    with pytest.raises(FloatingPointError, match="embedding of some images is not finite"):
        embed(image_set([0] * 8), step)


def test_queries_are_searched_among_themselves_or_in_the_gallery() -> None:
    places = np.array([[0.0], [0.1], [5.0], [5.1], [5.2]])
    query, gallery = np.array([0, 0, 1, 1, 0]), np.array([1, 0, 0])
    alone = evaluation.evaluate(sharded(places), [query], ks=[1, 2], nmi_runs=0, gallery_draws=0)
    assert alone == pytest.approx(
        {
            "recall_at_1": 4 / 5,
            "recall_at_2": 4 / 5,
            "map_at_r": (1 / 2 + 1 / 2 + 1 + 1 + 0) / 5,
            "marp_paper": (1 + 1 + 1 + 1 + 0) / 5,
            "r_precision": (1 / 2 + 1 / 2 + 1 + 1 + 0) / 5,
        }
    )
    # The query at 5.2 finds class 1 and then, at 9, its own class.
    both = sharded(places, np.array([[5.0], [0.0], [9.0]]))
    searched = evaluation.evaluate(both, [query, gallery], ks=[1, 2], nmi_runs=0, gallery_draws=0)
    assert searched["recall_at_1"] == pytest.approx(4 / 5)
    assert searched["recall_at_2"] == 1
    assert searched["map_at_r"] == pytest.approx((1 / 2 + 1 / 2 + 1 + 1 + 1 / 4) / 5)


@pytest.mark.parametrize("gallery_draws", [0, 3])
def test_first_coordinates_are_scored_as_embeddings_of_their_own(gallery_draws: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=21)
    rows = rng.normal(size=(21, 6)) + np.eye(6)[labels]
    rows[:, 4:] *= 9  # where the first four are short
    options: dict[str, Any] = {"ks": [2], "nmi_runs": 0, "gallery_draws": gallery_draws}
    scores = evaluation.evaluate(sharded(rows), [labels], dims=(3, 4, 6, 9), **options)
    expected = {}
    for dim in (3, 4):
        short = rows[:, :dim] / np.linalg.norm(rows[:, :dim], axis=1, keepdims=True)
        alone = evaluation.evaluate(sharded(short), [labels], **options | {"ks": [1]})
        expected[f"recall_at_1@{dim}"] = alone["recall_at_1"]
    whole = evaluation.evaluate(sharded(rows), [labels], **options)
    assert scores == whole | expected
    assert len({*expected.values(), whole["recall_at_2"]}) == 3


@pytest.mark.parametrize("kmeans", ["host", "devices"])
def test_nmi_clusters_query_and_gallery_together(kmeans: str) -> None:
    labels = [np.array([0, 1]), np.array([0, 1, 1])]
    places = sharded(np.array([[0.0], [0.1]]), np.array([[0.2], [50.0], [50.1]]))
    scores = evaluation.evaluate(places, labels, ks=[1], nmi_runs=3, gallery_draws=0, kmeans=kmeans)
    assert scores["nmi"] == pytest.approx(host_kmeans.nmi([0, 1, 0, 1, 1], [0, 0, 0, 1, 1]))


@pytest.mark.parametrize("kmeans", ["host", "devices"])
def test_nmi_is_the_mean_over_runs_and_absent_without_runs(kmeans: str) -> None:
    labels = np.array([0, 1, 2, 3] * 5)
    places = np.random.default_rng(0).normal(size=(20, 2))
    runs = [
        host_kmeans.nmi(labels, host_kmeans.kmeans(places, 4, seed=seed)[0]) for seed in range(3)
    ]
    assert len(set(runs)) > 1
    scores = evaluation.evaluate(
        sharded(places), [labels], ks=[1], nmi_runs=3, gallery_draws=0, kmeans=kmeans
    )
    assert scores["nmi"] == pytest.approx(np.mean(runs))
    assert "nmi" not in evaluation.evaluate(
        sharded(places), [labels], ks=[1], nmi_runs=0, gallery_draws=0
    )


def test_scores_of_digit_pixels_equal_plain_numpy() -> None:
    splits = datasets.load("digits", root="")
    query = splits.query
    sharding = devices.rows_sharding(devices.create_mesh())
    pixels = evaluation.pixels(read(query), sharding=sharding, batch_size=128)
    rows = evaluation.fetch(pixels, len(query))
    grey = query.images.reshape(len(query), 64).astype(np.float32) / 255
    np.testing.assert_allclose(rows, np.repeat(grey, 3, axis=1), rtol=1e-6)
    distances = ((grey[:, None] - grey[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    hits = query.labels[distances.argmin(axis=1)] == query.labels
    scores = evaluation.evaluate([pixels], [query.labels], ks=[1], nmi_runs=0, gallery_draws=0)
    assert scores["recall_at_1"] == pytest.approx(hits.mean())


# Reads an image set from a counting cache, embeds it, and prints its scores and the rows read.
_SCORE_SHARDED = f"""
import sys
import numpy as np
sys.path.append({str(Path(__file__).parent)!r})
import test_evaluation
from dcjax.retrieval import evaluation

scores, embeddings, read = test_evaluation.score_sharded()
print(repr(scores), embeddings.shape, sorted(read), sep="|")
"""


def score_sharded() -> tuple[dict[str, float], np.ndarray, set[int]]:
    """Scores 37 images on all devices by all protocols; also returns which rows were read."""
    labels = np.random.default_rng(3).integers(8, size=37).tolist()
    images, mesh, rows_read = image_set(labels), devices.create_mesh(), set()

    class Counted(host_cache.Decoded):
        def image(self, row: int) -> np.ndarray:
            rows_read.add(row)
            return super().image(row)

    pixels = images.images // 64  # few grey levels, so that many distances are equal
    sizes = np.full((37, 2), 8, np.int32)
    source = host_cache.create_source(Counted(pixels.reshape(-1), np.arange(37) * 192, sizes))
    step = jax.jit(lambda _, batch: {"embedding": batch[:, 0, 0].astype(jnp.float32)})
    embeddings = evaluation.embed(
        pipeline.Stream(images, read(images).augmentation, seed=0, num_threads=1, resized=source),
        step,
        None,
        output="embedding",
        sharding=devices.rows_sharding(mesh),
        batch_size=8,
    )
    scores = {
        f"{name}, {draws} draws, {kmeans}": value
        for draws, runs, kmeans in [(0, 2, "host"), (0, 2, "devices"), (2, 0, "host")]
        for name, value in evaluation.evaluate(
            [embeddings],
            [images.labels],
            ks=[1, 4],
            nmi_runs=runs,
            gallery_draws=draws,
            kmeans=kmeans,
        ).items()
    }
    twice = {"embeddings": [embeddings] * 2, "labels": [images.labels] * 2, "ks": [1, 4]}
    cameras = [np.random.default_rng(4).integers(3, size=37)] * 2
    scores |= evaluation.score_on_host(**twice, cameras=cameras, reranks={"k1": 5}, rates=(0.1,))
    across = evaluation.evaluate(**twice, cameras=cameras, nmi_runs=0, gallery_draws=0)
    scores |= {f"{name} across cameras": value for name, value in across.items()}
    kept = evaluation.fetch(embeddings, 37, is_receiver=processes.is_first())
    whole = evaluation.fetch(embeddings, 37)
    np.testing.assert_array_equal(whole, pixels[:, 0, 0])
    np.testing.assert_array_equal(kept, whole[: len(kept)])
    return scores, kept, rows_read


def test_processes_share_the_images_and_agree_on_the_scores() -> None:
    scores, embeddings, rows_read = score_sharded()
    assert len(embeddings) == 37
    assert rows_read == set(range(37))
    for process, printed in enumerate(many_processes.run(_SCORE_SHARDED)):
        printed_scores, shape, rows = printed.strip().split("|")
        assert ast.literal_eval(printed_scores) == scores
        assert ast.literal_eval(shape) == ((0, 3) if process else (37, 3))
        # Five batches of eight: 20 rows to a process; the last rows repeat the last image.
        assert ast.literal_eval(rows) == ([*range(20, 37)] if process else [*range(20)])
