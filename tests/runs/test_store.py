"""What disks and kills do to checkpoints: damage is named, a failed save leaves the one before."""

import contextlib
import json
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import small_runs
from etils import epath
from orbax.checkpoint._src.serialization import ocdbt_utils

from dcjax.core import checksums
from dcjax.runs import store
from dcjax.runs.checkpoints import Checkpoints

_LARGE = 20_000  # rows of the arrays of a checkpoint that does not fit a full disk


def _open(workdir: Path, **options: Any) -> Checkpoints:
    return Checkpoints(str(workdir), keep_latest=2, best_by="recall_at_1", **options)


def _save(checkpoints: Checkpoints, step: int, *, rows: int = 3, score: float | None = None) -> str:
    scores = {"recall_at_1": step / 1000 if score is None else score}
    return checkpoints.save(
        small_runs.state(step, rows=rows), small_runs.division(step), {"at": step}, scores
    )


def _saved(workdir: Path, *steps: int, **options: Any) -> Checkpoints:
    checkpoints = _open(workdir, **options)
    for step in steps:
        assert not _save(checkpoints, step)
    checkpoints.wait()
    return checkpoints


def _found(workdir: Path) -> list[str]:
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def _check_restores(workdir: Path, step: int, *, rows: int = 3) -> None:
    checkpoints = _open(workdir)
    assert checkpoints.latest == step
    assert checkpoints.meta(step) == {"at": step}
    state, division = checkpoints.restore(step, small_runs.state(0, rows=rows))
    jax.tree.map(np.testing.assert_array_equal, state, small_runs.state(step, rows=rows))
    np.testing.assert_array_equal(division.cluster, small_runs.division(step).cluster)
    checkpoints.close()


@contextlib.contextmanager
def _full_disk(num_bytes: int = 2**14) -> Iterator[None]:
    """Lets no file grow larger: the system refuses to write on, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [_flip, _truncate, Path.unlink])
def test_every_file_that_is_not_as_it_was_saved_is_named(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    _saved(tmp_path, 100, 200).close()
    folder = tmp_path / "checkpoints" / "200"
    # Orbax's notes of when it saved, and checksums that are not there, have no part in it.
    harmless = {"_CHECKPOINT_METADATA", "commit_success.txt"}
    if harm is Path.unlink:
        harmless.add(checksums.NAME)
    remedy = (
        f"; move that folder out of {folder.parent}, and the same command goes on from checkpoint 1"
    )
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        content = path.read_bytes()
        harm(path)
        expected = contextlib.nullcontext()
        if name not in harmless:
            told = f"{re.escape(f'{folder} is damaged: {name} ')}.*{re.escape(remedy)}"
            expected = pytest.raises(ValueError, match=told)
        with expected:
            _check_restores(tmp_path, 200)
        path.write_bytes(content)
    _check_restores(tmp_path, 200)


def test_with_the_damaged_one_moved_away_the_one_before_is_the_latest(tmp_path: Path) -> None:
    _saved(tmp_path, 100, 200).close()
    folder = tmp_path / "checkpoints" / "200"
    _flip(folder / "meta" / "metadata")
    with pytest.raises(ValueError, match="goes on from checkpoint 100"):
        _open(tmp_path).meta(200)
    shutil.move(folder, tmp_path / "damaged")
    _check_restores(tmp_path, 100)
    shutil.rmtree(tmp_path / "checkpoints" / "100" / "model")
    with pytest.raises(ValueError, match=r"100 is damaged: model/.* back from a copy") as refusal:
        _check_restores(tmp_path, 100)
    assert "another --workdir" in str(refusal.value)  # nothing that would lose the run


def test_an_evaluation_looks_at_what_it_reads(tmp_path: Path) -> None:
    _saved(tmp_path, 100).close()
    like = jax.eval_shape(lambda: small_runs.state(100).variables)
    shutil.rmtree(tmp_path / "checkpoints" / "100" / "train")
    _open(tmp_path, read_only=True).restore_model(100, like)
    (path,) = (tmp_path / "checkpoints" / "100" / "model" / "d").iterdir()
    _flip(path)
    with pytest.raises(ValueError, match=f"model/d/{path.name} has other contents than were saved"):
        _open(tmp_path, read_only=True).restore_model(100, like)


def test_all_files_of_the_items_have_checksums(tmp_path: Path) -> None:
    _saved(tmp_path, 100).close()
    folder = tmp_path / "checkpoints" / "100"
    inner = {path for path in folder.rglob("*") if path.is_file() and path.parent != folder}
    names = json.loads((folder / checksums.NAME).read_text())["files"]
    assert {folder / name for name in names} == inner


def test_a_full_disk_stops_the_run_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = _saved(tmp_path, 100)
    with _full_disk():
        _save(checkpoints, 200, rows=_LARGE)
        with pytest.raises(OSError, match=r"checkpoints/200 could not be saved: File too large; "):
            _save(checkpoints, 300, rows=_LARGE)
    checkpoints.close()
    assert _found(tmp_path) == ["100"]
    assert not caplog.records  # of Orbax's threads
    _check_restores(tmp_path, 100)


def test_a_run_may_go_on_and_saves_again_when_there_is_room(tmp_path: Path) -> None:
    checkpoints = _saved(tmp_path, 100, 200, on_failure="go_on")
    with _full_disk():
        assert not _save(checkpoints, 300, rows=_LARGE)
        told = _save(checkpoints, 400, rows=_LARGE)
        assert "checkpoints/300 could not be saved: File too large; " in told
        assert told.endswith("the last complete one is 200.")
        with pytest.raises(OSError, match="checkpoints/400 could not be saved"):
            checkpoints.wait()  # as for the last one
    assert _found(tmp_path) == ["100", "200"]
    assert not _save(checkpoints, 500, rows=_LARGE)
    checkpoints.wait()
    checkpoints.close()
    assert _found(tmp_path) == ["200", "500"]
    _check_restores(tmp_path, 500, rows=_LARGE)


def test_a_failed_second_save_of_a_step_leaves_the_first(tmp_path: Path) -> None:
    checkpoints = _saved(tmp_path, 100)
    with _full_disk():
        _save(checkpoints, 100, rows=_LARGE)
        with pytest.raises(OSError, match=r"101 could not be saved: .*; the last .* one is 100\."):
            checkpoints.wait()
    checkpoints.close()
    assert _found(tmp_path) == ["100"]
    _check_restores(tmp_path, 100)


@pytest.fixture(scope="module")
def best_first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its best checkpoint, 100, and the latest two."""
    workdir = tmp_path_factory.mktemp("best_first")
    checkpoints = _open(workdir, keep_best=1)
    for step, score in ((100, 0.9), (200, 0.2), (300, 0.3)):
        _save(checkpoints, step, score=score)
    checkpoints.close()
    return workdir


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("harm", "name"),
    [
        (_flip, checksums.NAME),
        (_truncate, checksums.NAME),
        (Path.unlink, "model/_METADATA"),
        (Path.unlink, "metrics/metrics"),
        (shutil.rmtree, "model"),
        (shutil.rmtree, "metrics"),
        (_empty, ""),
    ],
)
def test_a_damaged_best_checkpoint_stays_and_is_refused_by_name(
    tmp_path: Path, best_first: Path, harm: Callable[[Path], None], name: str
) -> None:
    def evaluate_best() -> None:
        checkpoints = _open(tmp_path, read_only=True)
        like = jax.eval_shape(lambda: small_runs.state(100).variables)
        checkpoints.restore_model(checkpoints.number("best_test"), like)

    shutil.copytree(best_first, tmp_path, dirs_exist_ok=True)
    harm(tmp_path / "checkpoints" / "100" / name)
    with contextlib.suppress(ValueError):  # whoever goes on reads only the scores saved with it
        checkpoints = _open(tmp_path, keep_best=1)
        _save(checkpoints, 400)
        checkpoints.close()
    assert "100" in _found(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoints/100 is damaged: .* move that folder out"):
        evaluate_best()


def test_every_bit_of_the_checksums_counts(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "d").write_text("content")
    checksums.write(epath.Path(tmp_path))
    table = tmp_path / checksums.NAME
    content = table.read_bytes()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        table.write_bytes(damaged)
        assert checksums.damage(epath.Path(tmp_path), ["model"], part=0, num_parts=1), damaged


def test_a_checkpoint_is_moved_away_at_once_before_it_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = _saved(tmp_path, 100, 200)
    folder = tmp_path / "checkpoints"
    before = {path.relative_to(folder) for path in (folder / "100").rglob("*")}
    with monkeypatch.context() as killed:
        killed.setattr(store, "_delete_doomed", lambda path: None)
        _save(checkpoints, 300)
        checkpoints.close()
    assert _found(tmp_path) == ["200", "300", "being-deleted"]
    doomed = folder / "being-deleted"
    assert {path.relative_to(doomed) for path in (doomed / "100").rglob("*")} == before
    shutil.rmtree(doomed / "100" / "model")  # as if killed in the middle
    assert _open(tmp_path, read_only=True).latest == 300
    _check_restores(tmp_path, 300)
    assert _found(tmp_path) == ["200", "300"]


def test_what_a_run_removes_while_it_is_read_is_not_called_damaged(tmp_path: Path) -> None:
    _saved(tmp_path, 100, 200).close()
    reader = _open(tmp_path, read_only=True)
    shutil.rmtree(tmp_path / "checkpoints" / "100")
    with pytest.raises(ValueError, match="100 has been removed, as by a run under way"):
        reader.meta(100)
    assert reader.meta(200) == {"at": 200}


def test_what_has_appeared_since_the_start_is_not_overwritten(tmp_path: Path) -> None:
    checkpoints = _saved(tmp_path, 100)
    shutil.copytree(tmp_path / "checkpoints" / "100", tmp_path / "checkpoints" / "200")
    with pytest.raises(OSError, match="200 could not be saved: a folder of that name is there"):
        _save(checkpoints, 200)
    checkpoints.close()
    assert _found(tmp_path) == ["100", "200"]


def test_what_cannot_be_read_back_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def skip(*arguments: Any, **options: Any) -> None:
        del arguments, options

    checkpoints = _saved(tmp_path, 100)
    with monkeypatch.context() as patch:
        patch.setattr(ocdbt_utils, "merge_ocdbt_per_process_files", skip)  # which it only logs
        _save(checkpoints, 200)
        with pytest.raises(OSError, match=r"200 could not be saved: .*; the last .* is 100"):
            checkpoints.wait()
    checkpoints.close()
    assert _found(tmp_path) == ["100"]
    _check_restores(tmp_path, 100)


@pytest.mark.parametrize("name", ["[x]", "a*b", "a?b", "back\\slash", "logs:", "\udcff"])
def test_a_path_that_checkpoints_cannot_lie_in_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match=r"Checkpoints cannot lie below a path .* symbolic link"):
        _open(tmp_path / name / "run")
    assert not list(tmp_path.iterdir())


def test_any_other_path_does(tmp_path: Path) -> None:
    workdir = tmp_path / "a]b {c} 'd' \"e\" \n%20 #~é\u0301 日本" / ("x" * 255)
    _saved(workdir, 100, 200).close()
    _check_restores(workdir, 200)
    plain = tmp_path / "plain"
    plain.symlink_to(tmp_path / "[x]")
    (tmp_path / "[x]").mkdir()
    _saved(plain, 100, 200).close()  # and what is saved can be read anywhere
    like = jax.eval_shape(lambda: small_runs.state(200).variables)
    _open(tmp_path / "[x]", read_only=True).restore_model(200, like)


def test_what_an_earlier_version_left_of_a_replacement_is_kept(tmp_path: Path) -> None:
    _saved(tmp_path / "old", 100, 200).close()
    old, new = tmp_path / "old" / "checkpoints", tmp_path / "checkpoints"
    shutil.copytree(old / "100", new / "100")
    shutil.copytree(old / "200", new / "200.replaced")
    (new / "200.orbax-checkpoint-tmp").mkdir()  # the one that was to take its place
    assert _open(tmp_path, read_only=True).latest == 100
    _check_restores(tmp_path, 200)
    assert _found(tmp_path) == ["100", "200"]

    shutil.copytree(old / "100", new / "200.replaced")  # by one that is complete
    _saved(tmp_path, 300, 400).close()
    _check_restores(tmp_path, 400)
    assert _found(tmp_path) == ["200.replaced", "300", "400"]
