"""Reports: their numbers are those of an evaluation, and what a run lacks is said."""

import contextlib
import html
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
from forks import launch
from ml_collections import ConfigDict

import dcjax
from configs import digits
from dcjax.core.console import Console
from dcjax.core.errors import FileError, InputError, MissingFileError
from dcjax.division.division import Division
from dcjax.experiment.embedder import Embedder
from dcjax.experiment.report import collection, comparison, divisions, embedding_map, saved
from dcjax.experiment.report import training as times
from dcjax.modes import report as reporting
from dcjax.modes.report import report
from dcjax.modes.train import train
from dcjax.pages import content
from dcjax.runs import locks
from dcjax.runs.checkpoints import Checkpoints

_CHANGES = small_runs.TINY | {
    "division.every_epochs": 1,
    "division.max_clusters": 2,
    "train.num_epochs": 2,
    "eval.every_epochs": 1,
    "eval.at_start": True,
    "eval.nmi": "last",
    "eval.nmi_runs": 2,
    "paper": {"recall_at_1": 75.0},
}


def _train(workdir: str, **changes: Any) -> str:
    config = digits.get_config()
    config.update_from_flattened_dict(
        _CHANGES | {k.replace("__", "."): changes[k] for k in changes}
    )
    train(config, workdir)
    return workdir


def _saved(workdir: str) -> saved.Saved:
    embedder = dcjax.load(workdir)
    assert isinstance(embedder, Embedder)
    return saved.read(workdir, embedder)


def _collect(workdir: str, config: ConfigDict | None = None) -> content.Report:
    embedder = dcjax.load(workdir, config)
    assert isinstance(embedder, Embedder)
    return collection.collect(workdir, embedder, Console(quiet=True))


def _row(image: content.Image) -> int:
    return int(image.name.removeprefix("image "))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run on digits with two divisions."""
    return _train(str(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run on the same images with one cluster and no NMI, not scored at its start."""
    workdir = str(tmp_path_factory.mktemp("baseline"))
    changes = {"division__max_clusters": 1, "eval__at_start": False, "eval__nmi": "never"}
    return _train(workdir, train__num_epochs=1, **changes)


@pytest.fixture(scope="module", autouse=True)
def _small_samples() -> Iterator[None]:
    """Shows fewer images: t-SNE takes most of the time of a small report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding_map, "_NUM_IMAGES", 100)
        patch.setattr(divisions, "_NUM_SAMPLED", 200)
        yield


@pytest.fixture(scope="module")
def reported(run: str) -> content.Report:
    return _collect(run)


@pytest.fixture(scope="module")
def gallery_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A run on folders with queries and a gallery, and the folder of its images."""
    images, workdir = (tmp_path_factory.mktemp(name) for name in ("images", "run"))
    return small_runs.train_on_folders(images, workdir, _CHANGES), images


@contextlib.contextmanager
def _moved_away(folder: Path) -> Iterator[None]:
    """Renames a folder in the block."""
    away = folder.rename(folder.with_name("away"))
    try:
        yield
    finally:
        away.rename(folder)


def test_the_scores_are_those_of_an_evaluation_and_of_the_files(
    run: str, reported: content.Report
) -> None:
    embedder = dcjax.load(run)
    scores = reported.summary.scores
    assert scores["last epoch (2)"] == embedder.evaluate()
    saved = json.loads(Path(run, "scores.json").read_text())
    best = saved["best_test"]
    name = f"best epoch ({best.pop('epoch')}), chosen on these classes"
    assert scores[name] == best
    first = json.loads(Path(run, "metrics.jsonl").read_text().splitlines()[0])
    recall = first["backbone_features/recall_at_1"]
    assert scores["untrained features"]["recall_at_1"] == recall
    assert scores["the paper"] == {"recall_at_1": 0.75}
    found = scores["last epoch (2)"]["recall_at_1"]
    assert reported.summary.sentences[0] == (
        f"Of 100 queries, {100 * found:.0f} find an image of their class first; before training, "
        f"{100 * recall:.0f}."
    )
    assert "75 of 100" in reported.summary.sentences[1]
    assert reported.state == "finished"


def test_scores_by_other_settings_are_those_of_an_evaluation_by_these(run: str) -> None:
    config = dcjax.load(run).config
    with config.unlocked():
        config = config.copy_and_resolve_references()
    for changes in ({"nmi_runs": 3}, {"protocol": "gallery", "gallery_draws": 2, "ks": (2, 3)}):
        config.eval.update(changes)
        collected = _collect(run, config)
        scores = dcjax.load(run, config).evaluate()
        assert collected.summary.scores["last epoch (2)"] == scores
        # Recorded scores, made otherwise, are not beside them.
        assert list(collected.summary.scores) == ["last epoch (2)", "the paper"]
    assert "among the first 2" in collected.summary.sentences[0]
    assert isinstance(collected.failures, content.Failures)
    assert "eval.protocol=gallery" in collected.failures.notes[0]


def test_neighbors_equal_a_sort_of_all_distances(run: str, reported: content.Report) -> None:
    embedder = dcjax.load(run)
    assert isinstance(embedder, Embedder)
    images = embedder.load_test().query
    embeddings = embedder.embed(images, lambda _: None).astype(np.float64)
    assert isinstance(reported.failures, content.Failures)
    assert [len(kind.rankings) for kind in reported.failures.rankings] == [8, 8, 8]
    for kind in reported.failures.rankings:
        for ranking in kind.rankings:
            query = _row(ranking.query)
            assert ranking.query.class_name == images.class_names[images.labels[query]]
            distances = np.sqrt(np.sum((embeddings - embeddings[query]) ** 2, axis=1))
            order = np.argsort(distances, kind="stable")
            order = order[order != query][:10]
            (neighbors,) = ranking.neighbors.values()
            assert [_row(x.image) for x in neighbors] == order.tolist()
            assert [x.distance for x in neighbors] == pytest.approx(distances[order])
            hits = images.labels[order] == images.labels[query]
            assert [x.is_hit for x in neighbors] == hits.tolist()
            assert all(x.image.picture for x in neighbors)


def test_recalls_of_classes_have_the_mean_of_all_queries(reported: content.Report) -> None:
    assert isinstance(reported.failures, content.Failures)
    classes = reported.failures.classes
    assert reported.failures.num_classes == len(classes) == 5
    total = sum(x.num_queries for x in classes)
    assert total == 896
    mean = sum(x.num_queries * x.recall_at_1 for x in classes) / total
    assert mean == pytest.approx(reported.summary.scores["last epoch (2)"]["recall_at_1"])
    assert all(x.share_confused <= 1 - x.recall_at_1 + 1e-12 for x in classes)


def test_divisions_are_those_of_the_checkpoint_and_of_the_curves(
    run: str, reported: content.Report
) -> None:
    parts, training = reported.divisions, reported.training
    assert isinstance(parts, content.Divisions)
    assert isinstance(training, content.Training)
    checkpoints = Checkpoints(run, read_only=True)
    division = checkpoints.restore_division(checkpoints.number("last"))
    assert parts.epochs.tolist() == training.division_epochs.tolist() == [0, 1]
    assert parts.num_clusters.tolist() == [1, 2]
    assert parts.sizes[1].tolist() == division.sizes.tolist()
    assert [x.size for x in parts.clusters] == division.sizes.tolist()
    assert all(len(x.nearest) == 10 for x in parts.clusters)
    assert 0 < parts.agreement_with_labels[1] < 1
    embedder = dcjax.load(run)
    assert isinstance(embedder, Embedder)
    train_set = embedder.load_train()
    for cluster in parts.clusters:
        rows = [_row(image) for image in cluster.nearest]
        assert (division.cluster[rows] == cluster.number).all()
        assert cluster.num_classes == len(
            np.unique(train_set.labels[division.cluster == cluster.number])
        )
    for modes in parts.modes:
        for number, images in modes.images.items():
            assert {image.class_name for image in images} == {modes.class_name}
            rows = [_row(image) for image in images]
            assert (division.cluster[rows] == number).all()
    assert isinstance(parts.masks, content.Masks)
    assert parts.masks.values.shape == (2, 8)
    assert isinstance(parts.subspaces, list)
    assert [*parts.subspaces[0].neighbors] == ["embedding", "cluster 0", "cluster 1"]

    assert isinstance(training.loss, content.Curve)
    assert training.loss.epochs[-1] == 2
    assert training.scores["map_at_r"].epochs.tolist() == [1, 2]
    assert "epoch" not in training.scores
    assert isinstance(training.images_per_second, content.Curve)
    assert training.images_per_second.epochs.tolist() == [1, 2]
    activities = {"division", "planning", "training steps", "evaluation", "other"}
    assert activities == training.seconds.keys()


def test_the_map_shows_a_sample_and_says_so(reported: content.Report) -> None:
    assert isinstance(reported.map, content.Map)
    assert [x.name for x in reported.map.projections] == ["PCA", "t-SNE"]
    assert (len(reported.map.images), reported.map.num_images) == (100, 896)
    assert "A sample of 100 of 896 images, of 5 classes" in reported.map.notes[0]
    assert all(x.points.shape == (100, 2) for x in reported.map.projections)
    assert len(reported.map.distances_within) == 5000


def test_settings_that_differ_come_first_and_the_papers_figures_are_none(
    reported: content.Report,
) -> None:
    differ = [x.value != x.default for x in reported.summary.settings]
    assert differ == sorted(differ, reverse=True)
    values = {x.name: x.value for x in reported.summary.settings}
    assert values["division.max_clusters"] == "2"
    assert not [name for name in values if name.startswith("paper")]
    assert dict(reported.summary.facts)["protocol"] == "each test image searches all others"


def test_a_run_with_one_cluster_says_so(baseline: str) -> None:
    collected = _collect(baseline)
    assert collected.divisions == (
        "The run has one cluster (division.max_clusters=1): nothing is divided."
    )
    assert next(iter(collected.summary.scores)) == "last epoch (1)"
    assert "untrained features" not in collected.summary.scores
    assert "before training" not in collected.summary.sentences[0]


def test_files_that_older_versions_did_not_write_are_said_to_be_missing(
    run: str, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "times.jsonl").unlink()
    lines = map(json.loads, (copy / "metrics.jsonl").read_text().splitlines())
    new = ("/epoch", "/sizes", "/agreement_with_labels")
    old = [{key: value for key, value in x.items() if not key.endswith(new)} for x in lines]
    (copy / "metrics.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in old))
    collected = _collect(str(copy))
    parts, training = collected.divisions, collected.training
    assert isinstance(parts, content.Divisions)
    assert parts.epochs.tolist() == [0, 1]  # by the schedule
    assert [len(sizes) for sizes in parts.sizes] == [0, 0]
    assert np.isnan(parts.agreement_with_labels).all()
    assert isinstance(training, content.Training)
    assert training.scores["recall_at_1"].epochs.tolist() == [1, 2]
    assert isinstance(training.images_per_second, str)
    assert dict(collected.summary.facts)["command"].startswith("not recorded")

    (copy / "metrics.jsonl").unlink()
    without = times.collect(_saved(str(copy)))
    assert isinstance(without, str)
    assert "metrics.jsonl" in without


def test_a_run_that_goes_on_or_was_stopped_is_reported_from_its_last_checkpoint(
    run: str, tmp_path: Path
) -> None:
    copy = str(tmp_path / "run")
    shutil.copytree(run, copy)
    embedder = dcjax.load(copy)
    config = embedder.config
    config.train.num_epochs = 5
    with config.unlocked():
        longer = config.copy_and_resolve_references()
    checkpoints = Checkpoints(copy, keep_latest=3)
    number = checkpoints.number("last")
    meta = checkpoints.meta(number)
    meta["config"] = longer.to_dict()
    state, division = small_runs.load_checkpoint(longer, copy)
    checkpoints.save(state, Division(**division), meta, None)
    checkpoints.close()
    assert _saved(copy).state == "stopped after epoch 2 of 5"
    descriptor = locks.hold(Path(copy))
    try:
        assert _saved(copy).state == "it goes on; this is after epoch 2 of 5"
        assert "last epoch (2)" in _collect(copy).summary.scores  # no lock is needed
    finally:
        locks.release(descriptor)
    earlier = _saved(f"{copy}/checkpoints/{number}")
    assert earlier.state == "this is a checkpoint after epoch 2 of 2"


def test_images_that_are_not_at_hand_leave_the_rest(gallery_run: tuple[str, Path]) -> None:
    workdir, images = gallery_run
    whole = _collect(workdir)
    assert whole.summary.scores["last epoch (2)"] == dcjax.load(workdir).evaluate()
    assert dict(whole.summary.facts)["protocol"] == "each test image searches the gallery"
    assert isinstance(whole.failures, content.Failures)
    queries = {x.query.name for kind in whole.failures.rankings for x in kind.rankings}
    assert all(name.startswith(f"{images}/query/") for name in queries)
    neighbors = whole.failures.rankings[0].rankings[0].neighbors["embedding"]
    assert len(neighbors) == 10
    assert all(x.image.name.startswith(f"{images}/gallery/") for x in neighbors)
    assert isinstance(whole.map, content.Map)
    assert whole.map.num_images == 20

    with _moved_away(images / "train"):
        without = _collect(workdir)
    assert isinstance(without.divisions, content.Divisions)
    assert "training images" in without.divisions.notes[0]
    assert [x.num_classes for x in without.divisions.clusters] == [None, None]
    assert isinstance(without.divisions.subspaces, list)
    assert without.summary.scores == whole.summary.scores

    with _moved_away(images):
        nothing = _collect(workdir)
        report([workdir], None)
    assert str(images) in html.unescape(Path(workdir, "report", "index.html").read_text())
    assert nothing.failures == nothing.map
    assert str(images) in str(nothing.map)
    assert nothing.summary.scores == whole.summary.scores  # as they were recorded
    assert isinstance(nothing.training, content.Training)
    assert isinstance(nothing.divisions, content.Divisions)
    assert isinstance(nothing.divisions.masks, content.Masks)
    assert isinstance(whole.divisions, content.Divisions)
    assert isinstance(whole.divisions.masks, content.Masks)
    np.testing.assert_array_equal(nothing.divisions.masks.cosines, whole.divisions.masks.cosines)
    assert nothing.divisions.masks.effective_dimension is None


def test_a_comparison_has_the_differences_of_the_same_queries(run: str, baseline: str) -> None:
    runs = {workdir: dcjax.load(workdir) for workdir in (baseline, run)}
    assert all(isinstance(x, Embedder) for x in runs.values())
    collected = comparison.collect(runs, f"{baseline}/report", Console(quiet=True))  # type: ignore[arg-type]
    for workdir, embedder in runs.items():
        assert collected.scores[workdir] == embedder.evaluate()
    assert not isinstance(collected.differences, str)
    (differences,) = collected.differences.values()
    for name, difference in differences.items():
        expected = collected.scores[run][name] - collected.scores[baseline][name]
        assert difference.mean == pytest.approx(expected)
        assert difference.low <= difference.mean <= difference.high
    assert collected.settings["division.max_clusters"] == {baseline: "1", run: "2"}
    assert "seed" not in collected.settings
    random, gained, *_ = collected.rankings
    for kind in (random, gained):
        assert all([*x.neighbors] == [baseline, run] for x in kind.rankings)
    hits = [[sum(n.is_hit for n in x.neighbors[w]) for w in runs] for x in gained.rankings]
    assert all(before < after for before, after in hits)
    assert isinstance(collected.training[run], content.Training)


def test_a_comparison_by_drawn_galleries_has_no_differences(run: str) -> None:
    config = dcjax.load(run).config
    config.eval.update({"protocol": "gallery", "gallery_draws": 2, "ks": (1, 2)})
    runs = {workdir: dcjax.load(workdir, config) for workdir in (run, f"{run}/.")}
    collected = comparison.collect(runs, run, Console(quiet=True))  # type: ignore[arg-type]
    assert "eval.protocol=gallery" in str(collected.differences)


def test_only_runs_on_the_same_images_are_compared(run: str, gallery_run: tuple[str, Path]) -> None:
    with pytest.raises(InputError, match="Only runs on the same test images can be compared"):
        report([run, gallery_run[0]], None)
    with pytest.raises(MissingFileError, match="No checkpoint in /nowhere"):
        report([run, "/nowhere"], None)


def test_launch_writes_pages_and_links_them(
    run: str, baseline: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report([run], None)
    assert f"wrote     {run}/report/index.html (" in capsys.readouterr().out
    ended = launch("--mode=report", f"--workdir={baseline},{run}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"wrote     {baseline}/report/comparison.html (" in ended.stdout
    page = Path(baseline, "report", "comparison.html").read_text()
    assert f'href="{os.path.relpath(f"{run}/report/index.html", f"{baseline}/report")}"' in page
    here = os.path.relpath(run)
    report([f"{here}/checkpoints/{Checkpoints(run, read_only=True).latest}"], None)
    assert f"wrote     {here}/report/index.html (" in capsys.readouterr().out  # as it was given
    with pytest.raises(FileError, match=f"--output must be a file, but {tmp_path} is a folder"):
        report([run], None, output=str(tmp_path))


def test_training_ends_with_a_report_or_with_the_reason_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--config=configs/digits.py", f"--workdir={tmp_path}/run"]
    changes = small_runs.TINY | {"train.num_epochs": 1, "train.report": True}
    flags += [f"--config.{key}={value}" for key, value in changes.items()]
    ended = launch(*flags)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"wrote     {tmp_path}/run/report/index.html (" in ended.stdout
    again = launch(*flags)
    assert f"report    is there already: {tmp_path}/run/report/index.html" in again.stdout
    shutil.rmtree(tmp_path / "run" / "report")
    (tmp_path / "run" / "report").write_text("in the way")
    workdir = str(tmp_path / "run")
    reporting.report_after_training(dcjax.load(workdir).config, workdir)
    failed, again = capsys.readouterr().out.splitlines()
    assert failed.startswith("report    failed, the run is complete: Cannot write to --workdir")
    assert again.endswith(f"--mode=report --workdir={workdir}")
    reporting.report_after_training(dcjax.load(workdir).config, workdir, with_traceback=True)
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_report_older_than_the_last_checkpoint_is_not_current(run: str) -> None:
    page = Path(run, "report", "index.html")
    page.parent.mkdir(exist_ok=True)
    page.write_text("a report")
    assert reporting._current_page(run) == page
    os.utime(page, (0, 0))
    assert reporting._current_page(run) is None
    page.unlink()
    assert reporting._current_page(run) is None


def test_a_report_that_fails_for_any_reason_does_not_end_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, log = str(tmp_path), tmp_path / "error.log"
    for error in (KeyError("scores"), FileError("no room"), KeyboardInterrupt()):

        def fail(*_: Any, error: BaseException = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(reporting, "report", fail)
        reporting.report_after_training(digits.get_config(), run)
        ended = capsys.readouterr()
        failed, again = ended.out.splitlines()
        assert failed.startswith("report    failed, the run is complete: ")
        assert again.endswith(f"--mode=report --workdir={run}")
        if isinstance(error, KeyError):  # a bug shows where it is
            assert f"unexpected KeyError. The traceback is kept in {log}." in failed
            assert "KeyError: 'scores'" in ended.err
            assert "in fail" in ended.err
            assert ended.err in log.read_text()
            log.unlink()
        else:
            assert (ended.err, log.exists()) == ("", False)
