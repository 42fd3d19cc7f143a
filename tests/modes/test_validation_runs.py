"""Runs with validation classes: what they are trained on, what is chosen, when they end."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import small_runs
from ml_collections import ConfigDict

import dcjax
from configs import digits
from dcjax.core.errors import InputError
from dcjax.data.datasets import ImageSet
from dcjax.experiment import epochs, inputs
from dcjax.experiment.embedder import Embedder
from dcjax.experiment.run import Run
from dcjax.modes.train import train
from dcjax.retrieval import metrics
from dcjax.runs import query_scores
from dcjax.runs.checkpoints import Checkpoints

_NUM_EPOCHS = 9
# With these, validation is best before the test classes are, and long before the last epoch.
_SETTINGS = small_runs.TINY | {
    "dataset.validation_list": ("0", "2"),
    "division.max_clusters": 1,
    "sampling.batch_size": 16,
    "sampling.images_per_class": 4,
    "optimizer.learning_rate": 5e-3,
    "train.num_epochs": _NUM_EPOCHS,
    "train.stop_after": 2,
    "eval.every_epochs": 1,
    "eval.nmi": "last",
    "eval.nmi_runs": 1,
    "eval.best_by": "map_at_r",
    "checkpoint.every_epochs": 1,
    "checkpoint.keep_latest": 20,
}


class _Finished(NamedTuple):
    config: ConfigDict
    workdir: Path
    batches: np.ndarray  # all images of all batches, [n, 8, 8, 3]
    output: str

    def scores(self) -> dict[str, dict[str, float]]:
        return json.loads((self.workdir / "scores.json").read_text())

    def points(self, group: str) -> list[dict[str, float]]:
        lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
        return [x for x in map(json.loads, lines) if f"{group}/epoch" in x]


def _config(**changes: Any) -> ConfigDict:
    config = digits.get_config()
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict(_SETTINGS | changed)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> _Finished:
    """A run that ended early, with the pixels of all its batches."""
    workdir, batches, step = tmp_path_factory.mktemp("finished"), [], Run.train_step

    def record(run: Run, batch: dict[str, jax.Array], controls: Any) -> Any:
        batches.append(jax.device_get(batch["image"]).reshape(-1, 8, 8, 3))
        return step(run, batch, controls)

    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr(Run, "train_step", record)
        train(_config(), str(workdir))
    return _Finished(_config(), workdir, np.concatenate(batches), output.getvalue())


def _pixels(images: ImageSet) -> set[bytes]:
    return {pixels.tobytes() for pixels in images.images}


def test_no_image_of_a_held_out_class_reaches_a_batch(finished: _Finished) -> None:
    splits, _ = inputs.load_splits(finished.config.dataset)
    assert splits.validation is not None
    assert splits.validation.class_names == ("0", "2")
    batched = {pixels[..., :1].tobytes() for pixels in finished.batches}
    assert batched <= _pixels(splits.train)
    assert len(batched) > 0.9 * len(splits.train)
    assert not batched & _pixels(splits.validation)


def test_validation_scores_are_those_of_its_images_by_hand(finished: _Finished) -> None:
    splits, _ = inputs.load_splits(finished.config.dataset)
    assert splits.validation is not None
    last, *_ = reversed(finished.points("validation"))
    config = _config(eval__select="last")
    embedder = dcjax.load(str(finished.workdir), config)
    embeddings = embedder.embed(splits.validation, lambda _: None)
    by_hand = metrics.score(embeddings, splits.validation.labels, ks=(1, 2, 4, 8))
    assert embedder.validation_scores == pytest.approx(by_hand, abs=1e-12)
    saved = finished.scores()["last_validation"]
    assert saved == {"epoch": embedder.epoch, **embedder.validation_scores}
    assert saved == {
        name.removeprefix("validation/"): value for name, value in last.items() if name != "step"
    }
    shown = f"epoch {embedder.epoch}, validation classes"
    (line,) = [x for x in finished.output.splitlines() if x.strip().startswith(shown)]
    assert f"{by_hand['map_at_r']:.4f}" in line


def test_run_ends_after_evaluations_without_a_gain(finished: _Finished) -> None:
    values = [point["validation/map_at_r"] for point in finished.points("validation")]
    gains = [value > max(values[:i], default=0) for i, value in enumerate(values)]
    assert gains[-2:] == [False, False]
    assert not any(gains[i : i + 2] == [False, False] for i in range(len(gains) - 2))
    assert finished.scores()["last"]["epoch"] == len(values) < _NUM_EPOCHS
    assert "nmi" in finished.scores()["last"]  # as after any last epoch
    assert "ended     early: 2 evaluations without a gain in map_at_r" in finished.output


def test_best_by_validation_is_loaded_and_differs_from_best_by_test(finished: _Finished) -> None:
    workdir, scores = str(finished.workdir), finished.scores()
    values = {
        group: [point[f"{group}/map_at_r"] for point in finished.points(group)]
        for group in ("validation", "eval")
    }
    chosen, best = (1 + int(np.argmax(values[group])) for group in ("validation", "eval"))
    assert chosen != best
    assert [scores[x]["epoch"] for x in ("best", "best_validation")] == [chosen, chosen]
    assert scores["best_test"]["epoch"] == best
    for select, epoch in (("auto", chosen), ("best", chosen), ("best_test", best)):
        embedder = dcjax.load(workdir, _config(eval__select=select, eval__nmi="never"))
        expected = dict(scores["best_test" if select == "best_test" else "best"])
        assert embedder.epoch == expected.pop("epoch") == epoch
        assert embedder.evaluate() == expected
    assert dcjax.load(workdir).epoch == chosen
    with pytest.raises(InputError, match=r"best epoch by map_at_r, .* by eval.best_by=recall_at_1"):
        dcjax.load(workdir, _config(eval__best_by="recall_at_1"))


def test_killed_run_continues_to_the_same_end_and_keeps_the_best_of_both(
    finished: _Finished, tmp_path: Path
) -> None:
    config, killed = _config(checkpoint__keep_latest=1), tmp_path / "killed"
    shutil.copytree(finished.workdir, killed)
    numbers = sorted(int(path.name) for path in (killed / "checkpoints").glob("[0-9]*"))
    shutil.rmtree(killed / "checkpoints" / str(numbers[-1]))
    (killed / "scores.json").unlink()
    left = Checkpoints(str(killed), read_only=True)
    assert left.meta(numbers[-2])["progress"]["evaluations_without_gain"] == 1
    train(config, str(killed))
    small_runs.assert_equal(
        small_runs.load_checkpoint(config, killed),
        small_runs.load_checkpoint(config, finished.workdir),
    )
    for name in ("scores.json", "metrics.jsonl"):
        assert (killed / name).read_text() == (finished.workdir / name).read_text()
    kept = Checkpoints(str(killed), read_only=True)
    numbers = [int(path.name) for path in (killed / "checkpoints").glob("[0-9]*")]
    scores = finished.scores()
    assert {kept.meta(number)["progress"]["epoch"] for number in numbers} == {
        scores[name]["epoch"] for name in ("last", "best", "best_test")
    }


def test_scores_of_each_query_are_kept_of_the_evaluations_that_are_reported(
    finished: _Finished,
) -> None:
    workdir, scores = finished.workdir, finished.scores()
    epochs = {scores[name]["epoch"] for name in ("last", "best", "best_test")}
    kept = {path.name for path in (workdir / "query_scores").iterdir()}
    assert kept == {f"{epoch}.npz" for epoch in epochs}
    for name in ("last", "best", "best_test"):
        by_query = query_scores.read(workdir, scores[name]["epoch"])
        labels = by_query.pop("labels")
        assert {"recall_at_1", "map_at_r"} <= by_query.keys()
        for score, values in by_query.items():
            assert values.shape == labels.shape
            assert np.nanmean(values, dtype=float) == pytest.approx(scores[name][score], abs=1e-6)


def test_run_that_ended_early_is_finished_and_goes_on_only_if_asked(
    finished: _Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)

    def begin(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(epochs.Planner, "begin", begin)
    train(finished.config, str(workdir))
    assert json.loads((workdir / "scores.json").read_text()) == finished.scores()
    with pytest.raises(KeyboardInterrupt):
        train(_config(train__stop_after=3), str(workdir))


def test_choice_without_validation_classes_is_refused(tmp_path: Path) -> None:
    none = {"dataset__validation_list": ()}
    for changes, setting in (
        ({"train__stop_after": 0, "eval__select": "best"}, "eval.select=best"),
        ({}, "train.stop_after=2"),
    ):
        with pytest.raises(InputError, match=rf"{setting} chooses by .*; hold|there are none"):
            train(_config(**none, **changes), str(tmp_path / "refused"))
    assert not (tmp_path / "refused").exists()
    with pytest.raises(InputError, match=r"stop_after counts evaluations: .*every_epochs >= 1"):
        train(_config(eval__every_epochs=0), str(tmp_path / "refused"))
    without = _config(**none, train__stop_after=0, train__num_epochs=1)
    train(without, str(tmp_path / "run"))
    without.eval.select = "best"
    with pytest.raises(InputError, match=r"no scores of validation classes, .*eval.select=last"):
        dcjax.load(str(tmp_path / "run"), without)


def test_too_few_classes_left_for_a_division_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"2 classes are held out .* 3 are left to train on: .* Or hold out fewer"
    ):
        train(_config(division__max_clusters=2), str(tmp_path / "refused"))
    with pytest.raises(InputError, match=r"two classes or more, .* got 1 validation classes"):
        train(_config(dataset__validation_list=("0",)), str(tmp_path / "refused"))


def test_other_validation_classes_are_another_run(finished: _Finished) -> None:
    with pytest.raises(InputError, match=r"another config.*validation_list=\['0', '3'\]"):
        train(_config(dataset__validation_list=("0", "3")), str(finished.workdir))


def test_refit_trains_on_all_classes_until_the_chosen_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"train__stop_after": 0, "eval__nmi": "never"}
    config = _config(train__num_epochs=2, train__refit=True, **changes)
    begin = epochs.Planner.begin

    def kill_refit(self: epochs.Planner, *arguments: Any) -> None:
        if self._experiment.config.train.until_epoch:
            raise KeyboardInterrupt
        begin(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(epochs.Planner, "begin", kill_refit)
        with pytest.raises(KeyboardInterrupt):
            train(config, str(tmp_path / "run"))
    assert (tmp_path / "run" / "refit" / "config.json").is_file()
    scores = train(config, str(tmp_path / "run"))
    chosen = json.loads((tmp_path / "run" / "scores.json").read_text())["best"]["epoch"]
    assert dcjax.load(str(tmp_path / "run")).epoch == chosen
    again = tmp_path / "run" / "refit"
    saved = json.loads((again / "scores.json").read_text())
    assert saved["last"] == {"epoch": chosen, **(scores or {})}
    assert "best" not in saved
    embedder = dcjax.load(str(again))
    assert isinstance(embedder, Embedder)
    assert embedder.data["train"]["classes"] == 5
    assert "validation" not in embedder.data

    plain = _config(dataset__validation_list=(), train__num_epochs=chosen, **changes)
    train(plain, str(tmp_path / "plain"))
    small_runs.assert_equal(
        small_runs.load_checkpoint(plain, again),
        small_runs.load_checkpoint(plain, tmp_path / "plain"),
    )
