"""Checkpoints: which are kept, what is restored, how unfinished ones are handled."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import small_runs

from dcjax.models.masked_embedder import join_variables
from dcjax.runs.checkpoints import VALIDATION, Checkpoints
from dcjax.training.state import TrainState


def _open(workdir: Path, **options: Any) -> Checkpoints:
    options = {"keep_latest": 2, "keep_best": 1, "best_by": "recall_at_1"} | options
    return Checkpoints(str(workdir), **options)


def _save(workdir: Path, scores: dict[int, float | None], **options: Any) -> Checkpoints:
    checkpoints = _open(workdir, **options)
    for step, score in scores.items():
        metrics = None if score is None else {"recall_at_1": score}
        checkpoints.save(
            small_runs.state(step),
            small_runs.division(step),
            {"progress": {"epoch": step}},
            metrics,
        )
    checkpoints.close()
    return _open(workdir, **options)


def _list_steps(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_latest_and_best_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints = _save(tmp_path, {100: 0.3, 200: 0.6, 300: 0.5, 400: 0.4, 500: 0.45})
    assert _list_steps(tmp_path) == [200, 400, 500]
    assert checkpoints.latest == 500
    assert checkpoints.number("last") == 500
    assert checkpoints.number("best_test") == 200


def test_best_by_validation_and_best_by_test_are_kept(tmp_path: Path) -> None:
    checkpoints = _open(tmp_path, keep_latest=1, validates=True)
    for step, test, validated in ((1, 0.9, 0.2), (2, 0.1, 0.5), (3, 0.3, 0.5), (4, 0.2, 0.1)):
        scores = {"recall_at_1": test, f"{VALIDATION}recall_at_1": validated}
        checkpoints.save(small_runs.state(step), small_runs.division(step), {}, scores)
    checkpoints.close()
    assert _list_steps(tmp_path) == [1, 3, 4]
    kept = _open(tmp_path, read_only=True)
    assert [kept.number(x) for x in ("last", "best", "best_test")] == [4, 3, 1]


def test_checkpoint_without_scores_is_kept_while_among_the_latest(tmp_path: Path) -> None:
    _save(tmp_path, {100: None, 200: 0.6, 300: None, 400: None})
    assert _list_steps(tmp_path) == [200, 300, 400]


def test_restored_run_equals_the_saved_one_bit_for_bit(tmp_path: Path) -> None:
    checkpoints = _save(tmp_path, {100: 0.3, 200: None})
    run, clusters = checkpoints.restore(200, small_runs.state(0))
    assert jax.tree.structure(run) == jax.tree.structure(small_runs.state(200))
    jax.tree.map(np.testing.assert_array_equal, run, small_runs.state(200))
    np.testing.assert_array_equal(clusters.cluster, small_runs.division(200).cluster)
    np.testing.assert_array_equal(clusters.parents, small_runs.division(200).parents)
    assert clusters.period == 2
    assert checkpoints.meta(200) == {"progress": {"epoch": 200}}


def test_model_is_restored_alone(tmp_path: Path) -> None:
    _save(tmp_path, {100: 0.3})
    expected = join_variables(small_runs.state(100).params, small_runs.state(100).masks, {})
    abstract_model = jax.eval_shape(lambda: expected)
    restored = Checkpoints(str(tmp_path), read_only=True).restore_model(100, abstract_model)
    jax.tree.map(np.testing.assert_array_equal, restored, expected)


def test_average_is_restored_as_the_model_and_beside_the_network(tmp_path: Path) -> None:
    def averaged(step: int) -> TrainState:
        network = small_runs.state(step)
        return network.replace(average=jax.tree.map(lambda x: x + 1, network.network))

    checkpoints = _open(tmp_path)
    checkpoints.save(averaged(100), small_runs.division(100), {}, None)
    checkpoints.wait()
    restored, _ = checkpoints.restore(100, averaged(0))
    jax.tree.map(np.testing.assert_array_equal, restored, averaged(100))
    expected = averaged(100).evaluated_variables
    model = checkpoints.restore_model(100, jax.eval_shape(lambda: expected))
    jax.tree.map(np.testing.assert_array_equal, model, expected)
    assert np.all(model["params"]["embedding"]["kernel"] > 1)
    checkpoints.close()


def test_step_saved_again_has_two_checkpoints_and_the_later_counts(tmp_path: Path) -> None:
    checkpoints = _save(tmp_path, {100: None})
    for epoch, score in ((7, 0.5), (8, 0.4)):
        checkpoints.save(
            small_runs.state(100),
            small_runs.division(epoch),
            {"progress": {"epoch": epoch}},
            {"recall_at_1": score},
        )
        checkpoints.wait()
        reopened = _open(tmp_path, read_only=True)
        assert reopened.latest == 100 + epoch - 6
        assert reopened.meta(reopened.number("last")) == {"progress": {"epoch": epoch}}
    assert reopened.number("best_test") == 101
    state, division = reopened.restore(102, small_runs.state(0))
    jax.tree.map(np.testing.assert_array_equal, state, small_runs.state(100))
    np.testing.assert_array_equal(division.cluster, small_runs.division(8).cluster)
    assert _list_steps(tmp_path) == [101, 102]

    checkpoints.save(small_runs.state(101), small_runs.division(9), {}, None)
    checkpoints.save(small_runs.state(200), small_runs.division(9), {}, None)
    checkpoints.close()
    assert _list_steps(tmp_path) == [101, 103, 200]


def test_kill_in_the_second_save_of_a_step_leaves_the_first(tmp_path: Path) -> None:
    _save(tmp_path, {100: 0.3}).close()
    (tmp_path / "checkpoints" / "101.orbax-checkpoint-tmp").mkdir()
    checkpoints = _open(tmp_path)
    assert checkpoints.latest == 100
    checkpoints.restore(100, small_runs.state(0))
    checkpoints.save(small_runs.state(100), small_runs.division(7), {}, {"recall_at_1": 0.3})
    checkpoints.close()
    assert _list_steps(tmp_path) == [100, 101]


def test_later_of_equal_scores_is_the_best(tmp_path: Path) -> None:
    assert _save(tmp_path, {100: 0.5, 200: 0.5, 300: 0.1}).number("best_test") == 200


def test_older_step_saved_later_is_the_last_checkpoint(tmp_path: Path) -> None:
    checkpoints = _save(tmp_path, {200: None, 100: None})
    state, _ = checkpoints.restore(checkpoints.number("last"), small_runs.state(0))
    assert state.step == 100
    assert _list_steps(tmp_path) == [200, 201]


def test_half_written_checkpoint_is_ignored_and_removed(tmp_path: Path) -> None:
    # Saved and closed, but not reopened: opening for writing cleans up some time later.
    checkpoints = _open(tmp_path)
    checkpoints.save(small_runs.state(100), small_runs.division(100), {}, None)
    checkpoints.close()
    left = tmp_path / "checkpoints" / "200.orbax-checkpoint-tmp"
    left.mkdir()
    assert Checkpoints(str(tmp_path), read_only=True).latest == 100
    assert left.exists()
    checkpoints = _open(tmp_path)
    assert checkpoints.latest == 100
    checkpoints.save(small_runs.state(200), small_runs.division(200), {}, None)
    checkpoints.close()
    assert _list_steps(tmp_path) == [100, 200]


def test_reading_creates_no_folder_and_names_the_missing_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No checkpoint in .*absent.*--workdir"):
        Checkpoints(str(tmp_path / "absent"), read_only=True)
    assert not (tmp_path / "absent").exists()


def test_best_checkpoint_without_scores_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has the score eval\.best_by=recall_at_1; use"):
        _save(tmp_path / "a", {100: None}).number("best_test")
    _save(tmp_path / "b", {100: 0.5})
    with pytest.raises(FileNotFoundError, match=r"has the score eval\.best_by=map_at_r; use"):
        _open(tmp_path / "b", best_by="map_at_r").number("best_test")
    with pytest.raises(FileNotFoundError, match="=recall_at_1 of validation classes; use"):
        _open(tmp_path / "b").number("best")
    with pytest.raises(FileNotFoundError, match="No complete checkpoint"):
        _open(tmp_path / "c").number("best_test")


@pytest.mark.parametrize("item", ["meta", "model", "train", "division"])
def test_damaged_checkpoint_is_named_with_the_one_before(tmp_path: Path, item: str) -> None:
    checkpoints = _save(tmp_path, {100: 0.3, 200: 0.2})
    shutil.rmtree(tmp_path / "checkpoints" / "200" / item)

    def read() -> None:
        checkpoints.meta(200)
        checkpoints.restore(200, small_runs.state(0))

    with pytest.raises(ValueError, match=r"checkpoints/200.*; move that folder.* checkpoint 100\."):
        read()


def test_folder_that_cannot_be_created_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(OSError, match="Cannot write to --workdir"):
        _open(tmp_path)
