"""Several processes save one checkpoint; any number of devices and processes restores it."""

from pathlib import Path

import many_processes
import pytest

from dcjax.runs import shared_workdirs

_ROWS = 2048

# Replicated arrays, and one that is sharded by rows over all devices, like many proxies.
_STATE = f"""
ROWS = {_ROWS}
import numpy as np
import small_runs
from dcjax.distributed import devices
from dcjax.runs.checkpoints import Checkpoints
mesh = devices.create_mesh()
table = np.random.default_rng(7).random((ROWS, 64), np.float32)
where = devices.table_sharding(mesh, table.shape)
assert jax.device_count() == 1 or not where.is_fully_replicated
def whole(step):
    return jax.tree.map(np.asarray, small_runs.state(step, rows=ROWS))
def state(step, table):
    spread = lambda x, sharding: jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])
    placed = jax.tree.map(lambda x: spread(x, devices.replicated(mesh)), whole(step))
    return placed.replace(loss_params={{"proxies": spread(table, where)}})
"""
_SAVE = """
checkpoints = Checkpoints({workdir!r})
division = small_runs.division(100 + jax.process_index())  # process 0's is written
for _ in range(2):  # the second is 101, and the first is not kept
    checkpoints.save(state(100, table), division, {{"at": 100}}, {{}})
    checkpoints.wait()
checkpoints.close()
"""
_RESTORE = """
checkpoints = Checkpoints({workdir!r}, read_only=True)
found, division = checkpoints.restore(101, state(0, 0 * table))
for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(state(100, table)), strict=True):
    assert one.sharding == other.sharding
    for a, b in zip(one.addressable_shards, other.addressable_shards, strict=True):
        np.testing.assert_array_equal(a.data, b.data)
np.testing.assert_array_equal(division.cluster, small_runs.division(100).cluster)
assert checkpoints.meta(101) == {{"at": 100}}
saved = whole(100).variables
model = checkpoints.restore_model(101, jax.eval_shape(lambda: saved))
jax.tree.map(np.testing.assert_array_equal, jax.device_get(model), saved)
"""
_DAMAGED = """
from jax.experimental import multihost_utils
multihost_utils.sync_global_devices("restored")
if jax.process_index() == 0:
    with open({file!r}, "r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
multihost_utils.sync_global_devices("damaged")
try:
    checkpoints.restore(101, state(0, 0 * table))
except ValueError as error:
    print(error)
"""
_CHECK = """
from dcjax.runs import shared_workdirs
for folders in {folders!r}:
    try:
        shared_workdirs.check_shared(folders[jax.process_index()])
        print("shared")
    except ValueError as error:
        print(error)
try:
    with shared_workdirs.lock({held!r}):
        print("locked")
except OSError as error:
    print(error)
"""

_FAILED = """
import resource, sys
from dcjax.runs import store
store._SECONDS = 10
checkpoints = Checkpoints({workdir!r}, on_failure="go_on")
checkpoints.save(state(100, table), small_runs.division(100), {{}}, {{}})
checkpoints.wait()
if jax.process_index() == {full}:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, hard))
try:
    checkpoints.save(state(200, table), small_runs.division(200), {{}}, {{}})
    checkpoints.wait()
except OSError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    many_processes.run(_STATE + _SAVE.format(workdir=str(folder)))
    return folder


def test_replicated_arrays_are_written_once(workdir: Path) -> None:
    checkpoint = workdir / "checkpoints" / "101"
    assert [path.name for path in checkpoint.parent.iterdir()] == ["101"]
    size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    content = 4 * _ROWS * (64 + 2 + 2)
    assert size < 1.1 * content + 2**15
    parts = [path.name for path in checkpoint.glob("train/ocdbt.process_*")]
    assert sorted(parts) == ["ocdbt.process_0", "ocdbt.process_1"]


@pytest.mark.parametrize("num_devices", [8, pytest.param(1, marks=pytest.mark.long)])
def test_one_process_with_other_devices_restores_the_checkpoint(
    workdir: Path, num_devices: int
) -> None:
    program = _STATE + _RESTORE.format(workdir=str(workdir))
    many_processes.run(program, num_processes=1, num_devices=num_devices)


@pytest.mark.long
def test_damage_seen_by_one_process_is_refused_by_all(workdir: Path) -> None:
    files = (workdir / "checkpoints" / "101" / "train").rglob("ocdbt.process_1/d/*")
    largest = max(files, key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    try:
        program = (_RESTORE + _DAMAGED).format(workdir=str(workdir), file=str(largest))
        one, other = many_processes.run(_STATE + program, num_devices=1)
    finally:
        largest.write_bytes(content)
    assert one == other
    assert f"{largest.name} has other contents than were saved" in one


def test_unshared_unwritable_and_locked_workdirs_are_refused_by_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shared, others, impossible = ["one", "one"], ["one", "other"], ["file", "file"]
    folders = [[str(tmp_path / name) for name in names] for names in (shared, others, impossible)]
    with shared_workdirs.lock(held := str(tmp_path / "held")):
        program = _CHECK.format(folders=folders, held=held)
        outputs = [text.splitlines() for text in many_processes.run(program)]
    for number, (first, second, third, fourth) in enumerate(outputs):
        assert first == "shared"
        assert f"save into --workdir={folders[1][number]} together" in second
        assert "not seen by process 1; give a folder on a file system that all" in second
        assert third.startswith(f"Process 0 cannot write to --workdir={folders[2][0]}")
        assert fourth.startswith(f"A run is under way in --workdir={held}, held by process ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "held", "one"]
    assert not list((tmp_path / "one").iterdir())


@pytest.mark.long
@pytest.mark.parametrize("full", [0, 1])
def test_all_processes_end_when_one_cannot_write(tmp_path: Path, full: int) -> None:
    program = _STATE + _FAILED.format(workdir=str(tmp_path), full=full)
    outputs = many_processes.run(program, num_devices=1, seconds=120)
    assert "checkpoints/200 could not be saved: File too large; " in outputs[full]
    assert "checkpoints/200 could not be saved: it was not written by all" in outputs[1 - full]
    assert all("the last complete one is 100" in text for text in outputs)
    checkpoint = tmp_path / "checkpoints" / "100"
    assert [path for path in checkpoint.parent.iterdir() if path.name.isdigit()] == [checkpoint]
