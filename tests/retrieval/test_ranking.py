"""Rankings of a gallery against a stable sort in float64, on any number of devices."""

import re
from typing import Any

import jax
import numpy as np
import pytest

from dcjax.distributed import devices, sharded_rows
from dcjax.retrieval import galleries, near_ties, ranking, rounding, selection


def _slow_rank(queries, query_classes, gallery, classes, exclude_self):
    """Sorts every row stably; yields how many rows precede the nearest positive, and the hits."""
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
    """Places embeddings on the devices and ranks all rows."""
    mesh = _one_device() if mesh is None else mesh
    sets = [
        galleries.Set(
            sharded_rows.place(rows, mesh).values, np.arange(len(rows), dtype=np.int32), of
        )
        for rows, of in [(queries, query_classes), (gallery, classes)]
    ]
    return ranking.rank(*sets, **options)


def _check(queries, query_classes, gallery, classes, *, exclude_self, **options):
    """Checks that every query is there once, in order, with the ranking of `_slow_rank`."""
    slow = list(_slow_rank(queries, query_classes, gallery, classes, exclude_self))
    num_positives = max(1, *(positives.sum() for _, positives in slow))
    num_seen = 0
    for rows, num_before, hits in _rank(
        queries, query_classes, gallery, classes, exclude_self=exclude_self, **options
    ):
        block_rows = range(len(queries))[rows]
        assert block_rows.start == num_seen
        assert len(block_rows) == len(num_before) == len(hits)
        num_seen = block_rows.stop
        for i, before, hit in zip(block_rows, num_before, hits, strict=True):
            assert before == slow[i][0]
            assert hit.tolist() == slow[i][1][:num_positives].tolist()
    assert num_seen == len(queries)


def _on_a_grid(num: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings whose distances are integers, most with many ties, and classes."""
    rng = np.random.default_rng(seed)
    embeddings = rng.integers(-2, 3, (num, 3)).astype(np.float32)
    return embeddings, rng.integers(num_classes, size=num).astype(np.int32)


# 2 classes: all distances are searched. From about 30 on: runs, of up to 20 rows per positive.
@pytest.mark.parametrize("num_classes", [1, 2, 8, 30, 90, 400])
@pytest.mark.parametrize("seed", range(2))
def test_ranking_equals_a_stable_sort_of_every_row(num_classes, seed):
    embeddings, classes = _on_a_grid(401, num_classes, seed)
    _check(embeddings, classes, embeddings, classes, exclude_self=True)
    _check(embeddings[:77], classes[:77], embeddings[77:], classes[77:], exclude_self=False)


@pytest.mark.parametrize("num_rows", [3, 63, 64, 65, 127, 128, 400, 401])
def test_gallery_size_need_not_be_a_multiple_of_the_run_length(num_rows):
    embeddings, _ = _on_a_grid(num_rows, 1, 7)
    classes = np.arange(num_rows, dtype=np.int32) // 2  # pairs, and a class of one image
    _check(embeddings, classes, embeddings, classes, exclude_self=True)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _places(num: int, dim: int) -> dict[str, np.ndarray]:
    """Returns embeddings whose squared distances float32 cannot all distinguish."""
    rng = np.random.default_rng(dim)
    x = rng.normal(size=(num, dim)) + rng.normal(size=(8, dim))[np.arange(num) % 8]
    unit, half = _unit(x), num // 2
    places = {
        "plain": x,
        "unit": unit,
        "rounded to bfloat16": jax.numpy.asarray(unit, "bfloat16").astype("float32"),
        "many distances equal": np.round(2 * x),
        "codes": np.sign(x),
        "all in one place": np.tile(x[:1], (num, 1)),
        "one order of coordinates or another": rng.permuted(np.tile(x[:1], (num, 1)), axis=1),
        "0.01 about 1580": 1580 + 0.01 * x,
        "two narrow clusters": 1e-6 * x + np.arange(num)[:, None] % 2,
        "half of them in one place": np.concatenate([np.tile(x[:1], (half, 1)), x[half:]]),
        "half of them twice": np.concatenate([unit[:half], unit[:half]]),
        "half of them 1e-10 about 0, others far": np.concatenate(
            [1e-10 * x[:half], 1e3 * x[half:]]
        ),
        "half of them far smaller": np.concatenate([1e-20 * x[:half], 1e10 * x[half:]]),
    }
    last_bit = np.float32(places["half of them twice"])
    last_bit[half:, 0] = np.nextafter(last_bit[half:, 0], np.float32(9))
    places["twice, but for a bit"] = last_bit
    places |= {f"offset {offset:g}": x + offset for offset in (1e3, 1e4, 1e7)}
    places |= {f"cone {width:g}": _unit(unit[0] + width * x) for width in (1e-3, 1e-5, 1e-7)}
    # From subnormal numbers of float32 to its largest ones.
    places |= {f"scale {s:g}": s * x for s in (1e-44, 1e-37, 1e-30, 1e-20, 1e15, 1e30, 1e37)}
    for size in (1e6, 1e30):
        outlier, huge = unit.copy(), unit.copy()
        outlier[5] *= size
        huge[:, 0] += size
        places |= {f"an outlier of {size:g}": outlier, f"one huge coordinate {size:g}": huge}
    return {name: np.asarray(embeddings, np.float32) for name, embeddings in places.items()}


@pytest.mark.parametrize(("num_devices", "dim"), [(1, 1), (1, 24), (8, 24)])
def test_ranks_equal_those_of_float64_wherever_embeddings_lie(num_devices, dim):
    mesh, wrong = devices.create_mesh(jax.devices()[:num_devices]), []
    classes = np.random.default_rng(0).integers(40, size=160).astype(np.int32)
    for name, embeddings in _places(160, dim).items():
        halves = embeddings[:60], classes[:60], embeddings[60:], classes[60:]
        for arguments in [(*2 * (embeddings, classes), True), (*halves, False)]:
            try:
                _check(*arguments[:4], exclude_self=arguments[4], mesh=mesh)
            except AssertionError:
                wrong.append((name, arguments[4]))
    assert not wrong


def test_queries_may_lie_far_from_the_gallery():
    places, classes = _places(160, 24), np.arange(160, dtype=np.int32) % 30
    for ours, theirs in [
        ("unit", "offset 1000"),
        ("scale 1e-30", "plain"),
        ("plain", "scale 1e-30"),
    ]:
        for queries, gallery in [(ours, theirs), (theirs, ours)]:
            _check(
                *(places[queries][:50], classes[:50], places[gallery][50:], classes[50:]),
                exclude_self=False,
            )


def test_near_ties_are_ranked_again_in_blocks(monkeypatch):
    monkeypatch.setattr(near_ties, "_DISTANCES_PER_BLOCK", 1000)
    monkeypatch.setattr(near_ties, "_NUMBERS_PER_BLOCK", 700)
    monkeypatch.setattr(ranking, "_LISTED_AT_ONCE", 500)
    embeddings, classes = (
        _places(160, 24)["two narrow clusters"],
        np.arange(160, dtype=np.int32) % 9,
    )
    _check(embeddings, classes, embeddings, classes, exclude_self=True, block=16)


def test_near_ties_are_recomputed_for_few_images_only(monkeypatch):
    compared, reranked = [], []
    distances, rank = near_ties.squared_distances, near_ties.rank

    def observed(queries: galleries.Set, *args: Any) -> Any:
        reranked.extend(queries.rows)
        return rank(queries, *args)

    monkeypatch.setattr(
        near_ties, "squared_distances", lambda x, y: compared.extend(x) or distances(x, y)
    )
    monkeypatch.setattr(near_ties, "rank", observed)
    for name, embeddings in _places(400, 64).items():
        classes = np.arange(400, dtype=np.int32) % 80
        list(_rank(*2 * (embeddings, classes), exclude_self=True))
        if name in ("many distances equal", "codes", "all in one place"):
            assert not compared
            assert not reranked
        if name in ("unit", "cone 0.001", "offset 1000", "scale 1e-30"):
            assert len(compared) < 0.05 * 400 * 4
            assert len(reranked) < 0.05 * 400
        compared.clear(), reranked.clear()


@pytest.mark.parametrize("dim", [3, 512, 4096])
def test_bounds_hold_in_spite_of_rounding(dim):
    rng, mesh = np.random.default_rng(0), _one_device()
    for x in [
        rng.normal(size=(200, dim)),
        rng.uniform(size=(200, dim)),
        # Every sum is rounded in the same direction.
        (1 + 1e-3 * rng.normal(size=(200, 1))) * np.full(dim, 0.1),
    ]:
        x = x.astype(np.float32)
        rows = sharded_rows.place(x, mesh).values
        frame = rounding.choose_frame(x[:1], [rows])
        moved = rounding.move(rows, frame)
        bound = rounding.bound(frame, float(np.max(np.sum(np.square(moved), axis=1))))
        squares = jax.numpy.sum(jax.numpy.square(moved), axis=1)
        distances = squares[:, None] - 2 * jax.numpy.matmul(moved, moved.T, precision="highest")
        y = frame.scale * (x.astype(np.float64) - x[0])
        exact = np.sum(y**2, axis=1)[:, None] - 2 * y @ y.T
        norms = np.sqrt(np.asarray(squares, np.float64)) + bound.surplus
        error = bound.relative * norms[:, None] * (norms[:, None] + 2 * norms)
        assert bound.relative > 0
        assert np.all(np.abs(distances - exact) < error)


@pytest.mark.parametrize("num_same", [5, 50, 200])
def test_many_copies_of_an_image_are_ordered_by_index(num_same):
    # All rows are equally far from all queries, and there are more of them than any class has.
    gallery, classes = _on_a_grid(200, 60, 3)
    gallery[:num_same] = gallery[0]
    queries = np.zeros((60, 3), np.float32)
    _check(queries, np.arange(60, dtype=np.int32), gallery, classes, exclude_self=False)
    _check(gallery, classes, gallery, classes, exclude_self=True)


def test_equal_images_tie_in_blocks_of_one_query():
    # A matrix-vector product alone would not give equal results for equal rows.
    random = np.random.default_rng(1)
    gallery = np.tile(random.normal(size=(204, 333)).astype(np.float32), (3, 1))
    classes = np.repeat(np.arange(3, dtype=np.int32), 204)
    queries = random.normal(size=(2000, 333)).astype(np.float32)
    none = np.zeros(len(queries), np.int32)
    ranked = _rank(queries, none, gallery, classes, exclude_self=False, block=1)
    assert not any(np.any(num_before) for _, num_before, _ in ranked)


def test_nearest_searches_only_runs_with_the_lowest_minima():
    # The eight rows of a run are the nearest; the next is in the last rows, which fill no run.
    distances = np.full((1003, 1), 9.0, np.float32)
    distances[500:508] = np.arange(8)[::-1, None]
    distances[1002] = 8
    _, nearest = selection.nearest(jax.numpy.asarray(distances), 9)
    assert nearest.tolist() == [[*range(507, 499, -1), 1002]]


def test_nearest_looks_up_the_distances_of_candidates_only():
    distances = np.random.default_rng(3).integers(500, size=(1003, 4)).astype(np.float32)
    looked_up = []

    def look_up(rows: jax.Array) -> jax.Array:
        looked_up.append(rows)
        return jax.numpy.take_along_axis(jax.numpy.asarray(distances), rows, axis=0)

    near, nearest = selection.nearest(jax.numpy.asarray(distances), 9, look_up)
    order = np.argsort(distances, axis=0, kind="stable")[:9].T
    np.testing.assert_array_equal(nearest, order)
    np.testing.assert_array_equal(near, np.take_along_axis(distances, order.T, axis=0).T)
    # Of nine runs of eight rows, and the last three rows.
    assert [rows.shape for rows in looked_up] == [(75, 4)]


@pytest.mark.parametrize("block", [1, 7, 32, 64, 1000, None])
def test_ranking_does_not_depend_on_the_block_size(block):
    embeddings, classes = _on_a_grid(130, 20, 4)
    _check(embeddings, classes, embeddings, classes, exclude_self=True, block=block)


# One class has more rows than a shard. Blocks of one: two calls.
@pytest.mark.parametrize(("block", "num_classes"), [(1, 40), (None, 40), (17, 1)])
def test_ranking_over_a_sharded_gallery_equals_a_stable_sort(block, num_classes):
    embeddings, classes = _on_a_grid(203, num_classes, 5)
    mesh = devices.create_mesh()
    assert mesh.size == 8
    _check(embeddings, classes, embeddings, classes, exclude_self=True, block=block, mesh=mesh)
    _check(embeddings[:5], classes[:5], embeddings, classes, exclude_self=False, mesh=mesh)


@pytest.mark.parametrize("num_rows", [3, 9])
def test_shards_may_be_empty(num_rows):
    queries, query_classes = _on_a_grid(30, 4, 6)
    gallery, classes = _on_a_grid(num_rows, 3, 7)  # nothing to find for the fourth
    mesh = devices.create_mesh()
    _check(queries, query_classes, gallery, classes, exclude_self=False, mesh=mesh)
    _check(gallery, classes, gallery, classes, exclude_self=True, mesh=mesh)


@pytest.mark.parametrize("num_same", [9, 203])
def test_copies_on_several_devices_are_ordered_by_index(num_same):
    gallery, classes = _on_a_grid(203, 60, 3)
    gallery[-num_same:] = gallery[0]
    queries, mesh = np.zeros((60, 3), np.float32), devices.create_mesh()
    none = np.arange(60, dtype=np.int32)
    _check(queries, none, gallery, classes, exclude_self=False, mesh=mesh)
    _check(gallery, classes, gallery, classes, exclude_self=True, mesh=mesh)


def test_equal_images_on_several_devices_tie():
    random = np.random.default_rng(1)
    gallery = np.tile(random.normal(size=(67, 333)).astype(np.float32), (3, 1))
    classes = np.repeat(np.arange(3, dtype=np.int32), 67)
    queries = random.normal(size=(500, 333)).astype(np.float32)
    none, mesh = np.zeros(len(queries), np.int32), devices.create_mesh()
    ranked = _rank(queries, none, gallery, classes, exclude_self=False, mesh=mesh)
    assert not any(np.any(num_before) for _, num_before, _ in ranked)


@pytest.mark.parametrize("num_devices", [1, 8])
def test_ranking_parts_of_a_gallery_equals_ranking_their_rows(num_devices):
    embeddings, classes = _on_a_grid(200, 12, 8)
    mesh = devices.create_mesh(jax.devices()[:num_devices])
    everything = galleries.Set(
        sharded_rows.place(embeddings, mesh).values, np.arange(200, dtype=np.int32), classes
    )
    # Of 25 rows per device: all on the first device, none on the second, some on the others.
    searched = np.r_[0:25, 60:200:3]
    others = np.setdiff1d(np.arange(200), searched)
    ranked = ranking.rank(everything.part(others), everything.part(searched), exclude_self=False)
    expected = _rank(
        *(x[rows] for rows in (others, searched) for x in (embeddings, classes)),
        exclude_self=False,
    )
    for (_, *actual), (_, *slow) in zip(ranked, expected, strict=True):
        for values, of_one in zip(actual, slow, strict=True):
            np.testing.assert_array_equal(values, of_one)


def test_every_device_holds_only_its_shard():
    num_rows, block, dim = 80_000, 64, 64
    compiled = _compiled(num_rows=num_rows, block=block, mesh=devices.create_mesh(), dim=dim)
    memory = compiled.memory_analysis()
    # Queries and gallery are the same array but count twice; then three numbers per row.
    share = num_rows // 8
    assert memory.argument_size_in_bytes < share * (2 * dim + 3) * 4 + 16 * block * 12 + 1000
    assert memory.temp_size_in_bytes < 2.5 * block * (share + dim) * 4
    assert memory.output_size_in_bytes < 16 * block * 300
    text = compiled.as_text()
    assert "all-to-all" in text
    # Only lists of the 17 nearest for each of 16 blocks of queries are gathered.
    gathered = re.findall(r" = \(?(?:\S+?)\[(\S*?)\]\S* all-gather", text)
    assert gathered
    assert all(np.prod([int(n) for n in shape.split(",")]) <= 16 * block * 17 for shape in gathered)


def test_classes_may_differ_between_queries_and_gallery():
    gallery, classes = _on_a_grid(90, 9, 6)
    queries = np.zeros((4, 3), np.float32)
    absent, present = np.full(4, 20, np.int32), np.array([0, 20, 8, 30], np.int32)
    _check(queries, absent, gallery, classes, exclude_self=False)
    _check(queries, present, gallery, classes, exclude_self=False)


def test_all_calls_share_one_compilation():
    embeddings, classes = _on_a_grid(997, 300, 5)
    before = ranking._rank._cache_size()
    blocks = list(_rank(embeddings, classes, embeddings, classes, exclude_self=True, block=10))
    assert len(blocks) == 100
    assert ranking._rank._cache_size() == before + 1
    list(_rank(embeddings, classes, embeddings, classes, exclude_self=True, block=10))
    assert ranking._rank._cache_size() == before + 1


def _compiled(*, num_rows: int, block: int, mesh: jax.sharding.Mesh, dim: int = 8):
    sharding = sharded_rows.sharding(mesh)

    def held(*shape: int, dtype: str = "int32") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

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
def test_peak_memory_is_that_of_one_block(num_rows):
    block = 64
    compiled = _compiled(num_rows=num_rows, block=block, mesh=_one_device())
    memory = compiled.memory_analysis()
    # Distances and part of them for reductions of one block, not of all 16 blocks.
    assert memory.temp_size_in_bytes < 2.5 * block * num_rows * 4
    assert memory.output_size_in_bytes < 16 * block * 300


def test_default_blocks_hold_few_distances():
    for num_queries, num_rows in [(10, 10), (60_502, 60_502), (10**6, 10**6), (14_218, 12_612)]:
        calls = ranking._calls(num_queries, num_rows, None, 1)
        assert calls.shape[-1] * num_rows <= max(2**22, 64 * num_rows)
        assert calls.shape[1] <= 16
        assert num_queries <= calls.size < 1.1 * num_queries + 64
        assert np.array_equal(calls.flat[:num_queries], np.arange(num_queries))
