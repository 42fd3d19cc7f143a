"""Tests of dcjax.ranking."""

import re

import jax
import numpy as np
import pytest

from dcjax import devices, galleries, ranking, rounding, selection, shares


def _slow_rank(queries, query_classes, gallery, classes, exclude_self):
    """Sorts every row, stably: yields the rows before the nearest positive, and which are one."""
    for i, (query, own_class) in enumerate(zip(queries, query_classes, strict=True)):
        distances = np.sum((gallery.astype(np.float64) - query) ** 2, axis=1)
        if exclude_self:
            distances[i] = np.inf
        positives = classes[np.argsort(distances, kind="stable")] == own_class
        if exclude_self:
            positives = positives[:-1]
        yield (int(np.argmax(positives)) if positives.any() else len(positives)), positives


def _one_device() -> jax.sharding.Mesh:
    return devices.create_mesh(jax.devices()[:1])


def _rank(queries, query_classes, gallery, classes, *, mesh=None, **options):
    """Ranks embeddings that are not on the devices yet, all rows of them."""
    mesh = _one_device() if mesh is None else mesh
    sets = [
        galleries.Set(shares.place(rows, mesh).values, np.arange(len(rows), dtype=np.int32), of)
        for rows, of in [(queries, query_classes), (gallery, classes)]
    ]
    return ranking.rank(*sets, **options)


def _check(queries, query_classes, gallery, classes, *, exclude_self, **options):
    """Checks that every query is there once, in order, with the ranking of `_slow_rank`."""
    slow = list(_slow_rank(queries, query_classes, gallery, classes, exclude_self))
    most = max(1, *(positives.sum() for _, positives in slow))
    num_seen = 0
    for rows, num_before, hits in _rank(
        queries, query_classes, gallery, classes, exclude_self=exclude_self, **options
    ):
        seen = range(len(queries))[rows]
        assert seen.start == num_seen
        assert len(seen) == len(num_before) == len(hits)
        num_seen = seen.stop
        for i, before, hit in zip(seen, num_before, hits, strict=True):
            assert before == slow[i][0]
            assert hit.tolist() == slow[i][1][:most].tolist()
    assert num_seen == len(queries)


def _on_a_grid(num: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings whose distances are integers, most of them many times, and classes."""
    rng = np.random.default_rng(seed)
    embeddings = rng.integers(-2, 3, (num, 3)).astype(np.float32)
    return embeddings, rng.integers(num_classes, size=num).astype(np.int32)


# 2 classes: all distances are searched. From about 30 on runs, of up to 20 rows for one positive.
@pytest.mark.parametrize("num_classes", [1, 2, 8, 30, 90, 400])
@pytest.mark.parametrize("seed", range(2))
def test_equals_a_stable_sort_of_every_row(num_classes, seed):
    embeddings, classes = _on_a_grid(401, num_classes, seed)
    _check(embeddings, classes, embeddings, classes, exclude_self=True)
    _check(embeddings[:77], classes[:77], embeddings[77:], classes[77:], exclude_self=False)


@pytest.mark.parametrize("num_rows", [3, 63, 64, 65, 127, 128, 400, 401])
def test_runs_need_not_fit_the_gallery(num_rows):
    embeddings, _ = _on_a_grid(num_rows, 1, 7)
    classes = np.arange(num_rows, dtype=np.int32) // 2  # pairs, and a class of one image
    _check(embeddings, classes, embeddings, classes, exclude_self=True)


@pytest.mark.parametrize("num_same", [5, 50, 200])
def test_many_copies_of_an_image_go_by_index(num_same):
    # All rows are as far from all queries, and more of them than any class has.
    gallery, classes = _on_a_grid(200, 60, 3)
    gallery[:num_same] = gallery[0]
    queries = np.zeros((60, 3), np.float32)
    _check(queries, np.arange(60, dtype=np.int32), gallery, classes, exclude_self=False)
    _check(gallery, classes, gallery, classes, exclude_self=True)


def test_equal_images_are_equally_near_in_blocks_of_one_query():
    # The product of a matrix and a vector alone would not be the same for equal rows.
    random = np.random.default_rng(1)
    gallery = np.tile(random.normal(size=(204, 333)).astype(np.float32), (3, 1))
    classes = np.repeat(np.arange(3, dtype=np.int32), 204)
    queries = random.normal(size=(2000, 333)).astype(np.float32)
    none = np.zeros(len(queries), np.int32)
    ranked = _rank(queries, none, gallery, classes, exclude_self=False, block=1)
    assert not any(np.any(num_before) for _, num_before, _ in ranked)


def test_nearest_takes_runs_with_the_lowest_minima_only():
    # Eight rows of a run are the nearest; the last rows, which fill no run, hold the next.
    distances = np.full((1003, 1), 9.0, np.float32)
    distances[500:508] = np.arange(8)[::-1, None]
    distances[1002] = 8
    _, nearest = selection.nearest(jax.numpy.asarray(distances), 9)
    assert nearest.tolist() == [[*range(507, 499, -1), 1002]]


@pytest.mark.parametrize("block", [1, 7, 32, 64, 1000, None])
def test_blocks_of_any_size(block):
    embeddings, classes = _on_a_grid(130, 20, 4)
    _check(embeddings, classes, embeddings, classes, exclude_self=True, block=block)


# One class: more rows of it than a share has. Blocks of one: two calls.
@pytest.mark.parametrize(("block", "num_classes"), [(1, 40), (None, 40), (17, 1)])
def test_devices_share_the_gallery(block, num_classes):
    embeddings, classes = _on_a_grid(203, num_classes, 5)
    mesh = devices.create_mesh()
    assert mesh.size == 8
    _check(embeddings, classes, embeddings, classes, exclude_self=True, block=block, mesh=mesh)
    _check(embeddings[:5], classes[:5], embeddings, classes, exclude_self=False, mesh=mesh)


@pytest.mark.parametrize("num_rows", [3, 9])
def test_shares_may_be_empty(num_rows):
    queries, query_classes = _on_a_grid(30, 4, 6)
    gallery, classes = _on_a_grid(num_rows, 3, 7)  # nothing to find for the fourth
    mesh = devices.create_mesh()
    _check(queries, query_classes, gallery, classes, exclude_self=False, mesh=mesh)
    _check(gallery, classes, gallery, classes, exclude_self=True, mesh=mesh)


@pytest.mark.parametrize("num_same", [9, 203])
def test_copies_on_several_devices_go_by_index(num_same):
    gallery, classes = _on_a_grid(203, 60, 3)
    gallery[-num_same:] = gallery[0]
    queries, mesh = np.zeros((60, 3), np.float32), devices.create_mesh()
    none = np.arange(60, dtype=np.int32)
    _check(queries, none, gallery, classes, exclude_self=False, mesh=mesh)
    _check(gallery, classes, gallery, classes, exclude_self=True, mesh=mesh)


def test_equal_images_on_several_devices_are_equally_near():
    random = np.random.default_rng(1)
    gallery = np.tile(random.normal(size=(67, 333)).astype(np.float32), (3, 1))
    classes = np.repeat(np.arange(3, dtype=np.int32), 67)
    queries = random.normal(size=(500, 333)).astype(np.float32)
    none, mesh = np.zeros(len(queries), np.int32), devices.create_mesh()
    ranked = _rank(queries, none, gallery, classes, exclude_self=False, mesh=mesh)
    assert not any(np.any(num_before) for _, num_before, _ in ranked)


@pytest.mark.parametrize("num_devices", [1, 8])
def test_parts_are_searched_where_they_are(num_devices):
    embeddings, classes = _on_a_grid(200, 12, 8)
    mesh = devices.create_mesh(jax.devices()[:num_devices])
    everything = galleries.Set(
        shares.place(embeddings, mesh).values, np.arange(200, dtype=np.int32), classes
    )
    # Of 25 rows to a device, all on the first, none on the second, others on all.
    searched = np.r_[0:25, 60:200:3]
    others = np.setdiff1d(np.arange(200), searched)
    ranked = ranking.rank(everything.part(others), everything.part(searched), exclude_self=False)
    expected = _rank(
        *(x[rows] for rows in (others, searched) for x in (embeddings, classes)),
        exclude_self=False,
    )
    for (_, *found), (_, *slow) in zip(ranked, expected, strict=True):
        for values, of_one in zip(found, slow, strict=True):
            np.testing.assert_array_equal(values, of_one)


def test_every_device_holds_its_share():
    num_rows, block, dim = 80_000, 64, 64
    compiled = _compiled(num_rows=num_rows, block=block, mesh=devices.create_mesh(), dim=dim)
    memory = compiled.memory_analysis()
    # The embeddings count twice, as queries and as gallery, but are one array; then three numbers.
    share = num_rows // 8
    assert memory.argument_size_in_bytes < share * (2 * dim + 3) * 4 + 16 * block * 12 + 1000
    assert memory.temp_size_in_bytes < 2.5 * block * (share + dim) * 4
    assert memory.output_size_in_bytes < 16 * block * 100
    text = compiled.as_text()
    assert "all-to-all" in text
    gathered = re.findall(r" = (\S+?)\[\S* all-gather", text)
    assert set(gathered) <= {"pred"}  # whether the nearest are hits, and nothing larger


def test_classes_may_differ_between_queries_and_gallery():
    gallery, classes = _on_a_grid(90, 9, 6)
    queries = np.zeros((4, 3), np.float32)
    absent, present = np.full(4, 20, np.int32), np.array([0, 20, 8, 30], np.int32)
    _check(queries, absent, gallery, classes, exclude_self=False)
    _check(queries, present, gallery, classes, exclude_self=False)


def test_one_compilation_serves_every_call():
    embeddings, classes = _on_a_grid(997, 300, 5)
    before = ranking._rank._cache_size()
    blocks = list(_rank(embeddings, classes, embeddings, classes, exclude_self=True, block=10))
    assert len(blocks) == 100
    assert ranking._rank._cache_size() == before + 1
    list(_rank(embeddings, classes, embeddings, classes, exclude_self=True, block=10))
    assert ranking._rank._cache_size() == before + 1


def _compiled(*, num_rows: int, block: int, mesh: jax.sharding.Mesh, dim: int = 8):
    spread = shares.sharding(mesh)

    def held(*shape: int, dtype: str = "int32") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=spread)

    embeddings = held(num_rows, dim, dtype="float32")
    asked = galleries.Gallery(
        embeddings,
        held(num_rows, dtype="float32"),
        classes=held(num_rows),
        by_class=held(num_rows),
        starts=held(mesh.size, 100),
        first=held(mesh.size),
    )
    bound = rounding.Bound(*3 * [jax.ShapeDtypeStruct((), "float32")])
    asking = ranking._Queries(*3 * [jax.ShapeDtypeStruct((16, block), "int32")])
    return ranking._rank.lower(
        asking, embeddings, asked, bound, mesh=mesh, num_positives=12, num_listed=17
    ).compile()


@pytest.mark.parametrize("num_rows", [100_000, 1_000_000])
def test_memory_is_that_of_one_block(num_rows):
    block = 64
    compiled = _compiled(num_rows=num_rows, block=block, mesh=_one_device())
    memory = compiled.memory_analysis()
    # Distances, and a part of them for what is reduced; nothing for each of the 16 blocks.
    assert memory.temp_size_in_bytes < 2.5 * block * num_rows * 4
    assert memory.output_size_in_bytes < 16 * block * 100


def test_default_blocks_hold_few_distances():
    for num_queries, num_rows in [(10, 10), (60_502, 60_502), (10**6, 10**6), (14_218, 12_612)]:
        calls = ranking._calls(num_queries, num_rows, None, 1)
        assert calls.shape[-1] * num_rows <= max(2**22, 64 * num_rows)
        assert calls.shape[1] <= 16
        assert num_queries <= calls.size < 1.1 * num_queries + 64
        assert np.array_equal(calls.flat[:num_queries], np.arange(num_queries))
