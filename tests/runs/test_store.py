"""Damaged checkpoints are named; a failed or killed save leaves the previous checkpoint."""

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
from dcjax.core.errors import InputError
from dcjax.runs import store
from dcjax.runs.checkpoints import Checkpoints

_LARGE = 20_000  # rows of arrays that do not fit the limited disk


def _open(workdir: Path, **options: Any) -> Checkpoints:
    return Checkpoints(str(workdir), keep_latest=2, best_by="recall_at_1", **options)


def _save(checkpoints: Checkpoints, step: int, *, rows: int = 3, score: float | None = None) -> str:
    scores = {"recall_at_1": step / 1000 if score is None else score}
    return checkpoints.save(
        small_runs.state(step, rows=rows), small_runs.division(step), {"at": step}, scores
    )


def _save_steps(workdir: Path, *steps: int, **options: Any) -> Checkpoints:
    checkpoints = _open(workdir, **options)
    for step in steps:
        assert not _save(checkpoints, step)
    checkpoints.wait()
    return checkpoints


def _list_checkpoints(workdir: Path) -> list[str]:
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
    """Limits the size of files: writing beyond it fails as on a full disk."""
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


@pytest.mark.parametrize("damage", [_flip, _truncate, Path.unlink])
def test_every_changed_file_of_a_checkpoint_is_named(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    _save_steps(tmp_path, 100, 200).close()
    folder = tmp_path / "checkpoints" / "200"
    # Orbax's time stamps and missing checksums do not count as damage.
    harmless = {"_CHECKPOINT_METADATA", "commit_success.txt"}
    if damage is Path.unlink:
        harmless.add(checksums.NAME)
    remedy = (
        f"; move that folder out of {folder.parent}, and the same command goes on from checkpoint 1"
    )
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        content = path.read_bytes()
        damage(path)
        expected = contextlib.nullcontext()
        if name not in harmless:
            message = f"{re.escape(f'{folder} is damaged: {name} ')}.*{re.escape(remedy)}"
            expected = pytest.raises(ValueError, match=message)
        with expected:
            _check_restores(tmp_path, 200)
        path.write_bytes(content)
    _check_restores(tmp_path, 200)


def test_previous_checkpoint_is_latest_after_moving_a_damaged_one(tmp_path: Path) -> None:
    _save_steps(tmp_path, 100, 200).close()
    folder = tmp_path / "checkpoints" / "200"
    _flip(folder / "meta" / "metadata")
    with pytest.raises(ValueError, match="goes on from checkpoint 100"):
        _open(tmp_path).meta(200)
    shutil.move(folder, tmp_path / "damaged")
    _check_restores(tmp_path, 100)
    shutil.rmtree(tmp_path / "checkpoints" / "100" / "model")
    with pytest.raises(ValueError, match=r"100 is damaged: model/.* back from a copy") as refusal:
        _check_restores(tmp_path, 100)
    assert "another --workdir" in str(refusal.value)  # suggests nothing that would lose the run


def test_evaluation_verifies_only_the_items_it_reads(tmp_path: Path) -> None:
    _save_steps(tmp_path, 100).close()
    abstract_model = jax.eval_shape(lambda: small_runs.state(100).variables)
    shutil.rmtree(tmp_path / "checkpoints" / "100" / "train")
    _open(tmp_path, read_only=True).restore_model(100, abstract_model)
    (path,) = (tmp_path / "checkpoints" / "100" / "model" / "d").iterdir()
    _flip(path)
    with pytest.raises(ValueError, match=f"model/d/{path.name} has other contents than were saved"):
        _open(tmp_path, read_only=True).restore_model(100, abstract_model)


def test_all_files_of_the_items_have_checksums(tmp_path: Path) -> None:
    _save_steps(tmp_path, 100).close()
    folder = tmp_path / "checkpoints" / "100"
    inner = {path for path in folder.rglob("*") if path.is_file() and path.parent != folder}
    names = json.loads((folder / checksums.NAME).read_text())["files"]
    assert {folder / name for name in names} == inner


def test_full_disk_stops_the_run_with_a_one_line_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = _save_steps(tmp_path, 100)
    with _full_disk():
        _save(checkpoints, 200, rows=_LARGE)
        with pytest.raises(OSError, match=r"checkpoints/200 could not be saved: File too large; "):
            _save(checkpoints, 300, rows=_LARGE)
    checkpoints.close()
    assert _list_checkpoints(tmp_path) == ["100"]
    assert not caplog.records  # of Orbax's threads
    _check_restores(tmp_path, 100)


def test_run_may_continue_after_a_failed_save_and_save_again(tmp_path: Path) -> None:
    checkpoints = _save_steps(tmp_path, 100, 200, on_failure="go_on")
    with _full_disk():
        assert not _save(checkpoints, 300, rows=_LARGE)
        message = _save(checkpoints, 400, rows=_LARGE)
        assert "checkpoints/300 could not be saved: File too large; " in message
        assert message.endswith("the last complete one is 200.")
        with pytest.raises(OSError, match="checkpoints/400 could not be saved"):
            checkpoints.wait()  # like for the last save
    assert _list_checkpoints(tmp_path) == ["100", "200"]
    assert not _save(checkpoints, 500, rows=_LARGE)
    checkpoints.wait()
    checkpoints.close()
    assert _list_checkpoints(tmp_path) == ["200", "500"]
    _check_restores(tmp_path, 500, rows=_LARGE)


def test_failed_second_save_of_a_step_leaves_the_first(tmp_path: Path) -> None:
    checkpoints = _save_steps(tmp_path, 100)
    with _full_disk():
        _save(checkpoints, 100, rows=_LARGE)
        with pytest.raises(OSError, match=r"101 could not be saved: .*; the last .* one is 100\."):
            checkpoints.wait()
    checkpoints.close()
    assert _list_checkpoints(tmp_path) == ["100"]
    _check_restores(tmp_path, 100)


@pytest.fixture(scope="module")
def best_first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its best checkpoint, 100, and its latest two."""
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
def test_damaged_best_checkpoint_is_kept_and_refused_by_name(
    tmp_path: Path, best_first: Path, harm: Callable[[Path], None], name: str
) -> None:
    def evaluate_best() -> None:
        checkpoints = _open(tmp_path, read_only=True)
        abstract_model = jax.eval_shape(lambda: small_runs.state(100).variables)
        checkpoints.restore_model(checkpoints.number("best_test"), abstract_model)

    shutil.copytree(best_first, tmp_path, dirs_exist_ok=True)
    harm(tmp_path / "checkpoints" / "100" / name)
    with contextlib.suppress(ValueError):  # continuing reads only the scores saved with it
        checkpoints = _open(tmp_path, keep_best=1)
        _save(checkpoints, 400)
        checkpoints.close()
    assert "100" in _list_checkpoints(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoints/100 is damaged: .* move that folder out"):
        evaluate_best()


def test_every_flipped_bit_of_the_checksum_file_is_detected(tmp_path: Path) -> None:
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


def test_checkpoint_is_renamed_before_it_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = _save_steps(tmp_path, 100, 200)
    folder = tmp_path / "checkpoints"
    before = {path.relative_to(folder) for path in (folder / "100").rglob("*")}
    with monkeypatch.context() as killed:
        killed.setattr(store, "_delete_doomed", lambda path: None)
        _save(checkpoints, 300)
        checkpoints.close()
    assert _list_checkpoints(tmp_path) == ["200", "300", "being-deleted"]
    doomed = folder / "being-deleted"
    assert {path.relative_to(doomed) for path in (doomed / "100").rglob("*")} == before
    shutil.rmtree(doomed / "100" / "model")  # as if killed during the removal
    assert _open(tmp_path, read_only=True).latest == 300
    _check_restores(tmp_path, 300)
    assert _list_checkpoints(tmp_path) == ["200", "300"]


def test_checkpoint_removed_while_being_read_is_not_called_damaged(tmp_path: Path) -> None:
    _save_steps(tmp_path, 100, 200).close()
    reader = _open(tmp_path, read_only=True)
    shutil.rmtree(tmp_path / "checkpoints" / "100")
    with pytest.raises(ValueError, match="100 has been removed, as by a run under way"):
        reader.meta(100)
    assert reader.meta(200) == {"at": 200}


def test_checkpoint_created_by_others_is_not_overwritten(tmp_path: Path) -> None:
    checkpoints = _save_steps(tmp_path, 100)
    shutil.copytree(tmp_path / "checkpoints" / "100", tmp_path / "checkpoints" / "200")
    with pytest.raises(OSError, match="200 could not be saved: a folder of that name is there"):
        _save(checkpoints, 200)
    checkpoints.close()
    assert _list_checkpoints(tmp_path) == ["100", "200"]


def test_save_that_cannot_be_read_back_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def skip(*arguments: Any, **options: Any) -> None:
        del arguments, options

    checkpoints = _save_steps(tmp_path, 100)
    with monkeypatch.context() as patch:
        patch.setattr(
            ocdbt_utils, "merge_ocdbt_per_process_files", skip
        )  # whose failure it only logs
        _save(checkpoints, 200)
        with pytest.raises(OSError, match=r"200 could not be saved: .*; the last .* is 100"):
            checkpoints.wait()
    checkpoints.close()
    assert _list_checkpoints(tmp_path) == ["100"]
    _check_restores(tmp_path, 100)


@pytest.mark.parametrize("name", ["[x]", "a*b", "a?b", "back\\slash", "logs:", "\udcff"])
def test_unsupported_workdir_path_is_refused_before_writing(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"Checkpoints cannot lie below a path .* symbolic link"):
        _open(tmp_path / name / "run")
    assert not list(tmp_path.iterdir())


def test_workdir_with_special_characters_is_supported(tmp_path: Path) -> None:
    workdir = tmp_path / "a]b {c} 'd' \"e\" \n%20 #~é\u0301 日本" / ("x" * 255)
    _save_steps(workdir, 100, 200).close()
    _check_restores(workdir, 200)
    plain = tmp_path / "plain"
    plain.symlink_to(tmp_path / "[x]")
    (tmp_path / "[x]").mkdir()
    _save_steps(plain, 100, 200).close()  # and a checkpoint can be read from any path
    abstract_model = jax.eval_shape(lambda: small_runs.state(200).variables)
    _open(tmp_path / "[x]", read_only=True).restore_model(200, abstract_model)


def test_replaced_folder_of_an_earlier_version_is_kept(tmp_path: Path) -> None:
    _save_steps(tmp_path / "old", 100, 200).close()
    old, new = tmp_path / "old" / "checkpoints", tmp_path / "checkpoints"
    shutil.copytree(old / "100", new / "100")
    shutil.copytree(old / "200", new / "200.replaced")
    (new / "200.orbax-checkpoint-tmp").mkdir()  # its unfinished replacement
    with pytest.raises(InputError, match=r"is 200.replaced.*continue the run, or rename it to 200"):
        _open(tmp_path, read_only=True)
    _check_restores(tmp_path, 200)
    assert _list_checkpoints(tmp_path) == ["100", "200"]

    shutil.copytree(old / "100", new / "200.replaced")  # its replacement is complete
    _save_steps(tmp_path, 300, 400).close()
    _check_restores(tmp_path, 400)
    assert _list_checkpoints(tmp_path) == ["200.replaced", "300", "400"]
