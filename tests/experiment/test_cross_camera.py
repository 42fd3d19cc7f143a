"""Runs across cameras: training, evaluation, embeddings in files, the report and the data check."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
from conftest import png
from ml_collections import ConfigDict
from slow_retrieval import slow_market_scores

import dcjax
from configs import folder
from dcjax.core.console import Console
from dcjax.core.errors import InputError, SettingError
from dcjax.experiment.embedder import Embedder
from dcjax.experiment.report import collection, failures
from dcjax.experiment.report.retrieval import Retrieval, retrieve
from dcjax.modes import check_data, embed, evaluate, score
from dcjax.modes.train import train
from dcjax.pages.report import render
from dcjax.retrieval import metrics, reranking, thresholds

_KS = (1, 2, 5)


def _write(root: Path) -> None:
    """Writes a small Market-1501: three people train, three are searched for by three cameras."""
    rng = np.random.default_rng(0)
    names = {
        "bounding_box_train": [(f"{i:04}", camera) for i in (2, 7, 10) for camera in (1, 2, 3, 4)],
        "query": [(f"{i:04}", camera) for i in (1, 3, 4) for camera in (1, 2)],
        "bounding_box_test": [
            *((f"{i:04}", camera) for i in (0, 1, 3) for camera in (1, 2, 3, 3)),
            *(("-1", 1), ("-1", 2), ("0004", 1), ("0004", 1)),  # no camera but 1 took 0004
        ],
    }
    for where, images in names.items():
        (root / where).mkdir(parents=True)
        for number, (identity, camera) in enumerate(images):
            name = f"{identity}_c{camera}s1_{number:06}_00.jpg"
            pixels = rng.integers(0, 256, (12, 8, 3)).astype(np.uint8)
            (root / where / name).write_bytes(png(pixels))


def _config(root: Path, **changes: Any) -> ConfigDict:
    config = folder.get_config()
    settings = small_runs.TINY | {
        "dataset.name": "market",
        "dataset.root": str(root),
        "dataset.complete": False,
        "dataset.resize": 8,
        "dataset.crop": 8,
        "model.backbone": "resnet_small",
        "model.batch_norm": "train",
        "division.max_clusters": 1,
        "division.freeze_backbone_epochs": 0,
        "sampling.batch_size": 8,
        "sampling.images_per_class": 2,
        "train.num_epochs": 1,
        "eval.protocol": "cross_camera",
        "eval.ks": _KS,
        "eval.best_by": "map",
    }
    config.update_from_flattened_dict(
        settings | {name.replace("__", "."): value for name, value in changes.items()}
    )
    return config


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("market")
    _write(root)
    return root


@pytest.fixture(scope="module")
def run(root: Path) -> Embedder:
    train(_config(root), str(root / "run"))
    embedder = dcjax.load(str(root / "run"))
    assert isinstance(embedder, Embedder)
    return embedder


@pytest.fixture(scope="module")
def found(run: Embedder) -> Retrieval:
    return retrieve(run, run.load_test(), Console(quiet=True))


def _slow_scores(found: Retrieval) -> dict[str, float]:
    difference = found.query_embeddings[:, None].astype(np.float64) - found.gallery_embeddings
    sets = (found.query, found.gallery)
    return slow_market_scores(
        np.sum(difference**2, axis=2),
        (sets[0].labels, sets[1].labels),
        (sets[0].cameras, sets[1].cameras),  # type: ignore[arg-type]
        _KS,
    )


def test_training_evaluation_and_report_have_the_scores_of_the_published_evaluation(
    run: Embedder, found: Retrieval, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = _slow_scores(found)
    assert run.evaluate() == pytest.approx(slow, abs=1e-12)
    assert found.scores == run.evaluate()
    saved = json.loads((root / "run" / "scores.json").read_text())
    assert saved["last"] == {"epoch": 1, **run.evaluate()}
    evaluate.compare([str(root / "run")], None)
    printed = capsys.readouterr().out
    assert "Unseen classes, found from another camera" in " ".join(printed.split())
    assert "1 of 6 queries are in no score: no other camera took an image of their" in printed
    assert f"{slow['map']:.4f}" in printed


def test_lists_of_the_report_leave_out_the_querys_own_views(found: Retrieval) -> None:
    assert found.query.cameras is not None
    assert found.gallery.cameras is not None
    rows, _ = found.nearest(np.arange(len(found.query)), len(found.gallery))
    for query, listed in enumerate(rows):
        is_own = (found.gallery.labels == found.query.labels[query]) & (
            found.gallery.cameras == found.query.cameras[query]
        )
        assert sorted(listed[listed >= 0]) == np.flatnonzero(~is_own).tolist()
    shown, *_ = failures.collect(found, _config(Path()), Console(quiet=True))
    assert sum(x.num_queries for x in shown.classes) == 5  # one query has nothing to find
    assert "own camera" in shown.notes[0]


def test_scores_of_files_are_those_of_the_evaluation(run: Embedder, root: Path) -> None:
    workdir = str(root / "run")
    assert embed.embed(workdir, None, images=None, output=None)
    file = str(root / "run" / "embeddings" / "test.parquet")
    assert score.score([file], _config(root)) == run.evaluate()


_HOST = {"eval__rerank": True, "eval__reranking__k1": 4, "eval__fmr": (0.1, 0.05)}


def test_scores_after_reranking_and_at_fmrs_stand_beside_the_others(
    run: Embedder, found: Retrieval, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = found.query, found.gallery
    arrays = found.query_embeddings, sets[0].labels, found.gallery_embeddings, sets[1].labels
    cameras = [x.cameras for x in sets]
    reranked = reranking.score_queries(*arrays, ks=_KS, cameras=cameras, k1=4)  # type: ignore[arg-type]
    rates = thresholds.score(*arrays, rates=(0.1, 0.05), cameras=cameras)  # type: ignore[arg-type]
    expected = {f"reranked_{name}": value for name, value in metrics.mean(reranked).items()}
    expected |= rates
    config, workdir = _config(root, **_HOST), str(root / "run")
    embedder = dcjax.load(workdir, config)
    assert isinstance(embedder, Embedder)
    scores = embedder.evaluate()
    assert scores == run.evaluate() | expected
    report = collection.collect(workdir, embedder, Console(quiet=True))
    assert report.summary.scores["last epoch (1)"] == scores
    threshold = rates["threshold_at_fmr_0.1"]
    assert f"Images {threshold:.4f} or more apart are no match" in report.summary.sentences[-2]
    page = render(report)
    assert "mAP, re-ranked" in page
    assert "threshold_at_fmr" not in page  # in the sentence, not among percentages

    capsys.readouterr()
    evaluate.compare([workdir], config)
    printed = capsys.readouterr().out
    shown = ("re-ranked", "FNMR@0.1", "dist.@0.05", f"{expected['reranked_map']:.4f}")
    assert [text for text in shown if text not in printed] == []
    assert "reranked_" not in printed


def test_reranking_needs_a_gallery_and_fmrs_enough_pairs(root: Path, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", vectors)
    rows = "\n".join(f"{i % 3},{i % 2}" for i in range(12))
    (tmp_path / "x.csv").write_text(f"label,camera\n{rows}\n")
    files = [str(tmp_path / "x.npy")]
    with pytest.raises(InputError, match=r"eval.rerank ranks a gallery anew .*; take eval.rerank="):
        score.score(files, _config(root, eval__rerank=True))
    with pytest.raises(InputError, match=r"FMR of 0.0001 requires 10,000 .* got 48 and"):
        score.score(files, _config(root, eval__fmr=(0.5, 1e-4)))
    scores = score.score(files, _config(root, eval__fmr=(0.5,)))
    assert 0 < scores["fnmr_at_fmr_0.5"] < 1


def test_embeddings_of_others_are_scored_without_their_junk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-2, 3, (40, 3)).astype(np.float32)
    labels, cameras = rng.integers(0, 4, 40), rng.integers(0, 3, 40)
    labels[15::5] = -1
    is_query = np.arange(40) < 10
    np.save(tmp_path / "x.npy", vectors)
    with (tmp_path / "x.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["label", "split", "camera"])
        splits = np.where(is_query, "query", "gallery")
        rows.writerows(zip(labels, splits, cameras, strict=True))
    scores = score.score([str(tmp_path / "x.npy")], _config(tmp_path))
    distances = np.sum((vectors[:10, None].astype(np.float64) - vectors[10:]) ** 2, axis=2)
    parts = [(x[:10], x[10:]) for x in (labels, cameras)]
    assert scores == pytest.approx(slow_market_scores(distances, *parts, _KS), abs=1e-12)
    assert "left out  5 images of the label -1" in capsys.readouterr().out
    score.score([str(tmp_path / "x.npy")], _config(tmp_path, eval__protocol="all_vs_all"))
    assert "known and not compared: eval.protocol=cross_camera" in capsys.readouterr().out


def test_cameras_that_are_missing_are_refused(root: Path, tmp_path: Path) -> None:
    run = dcjax.load(str(root / "run"))
    splits = run.load_test()
    for images in splits.test_sets:
        object.__setattr__(images, "cameras", None)
    with pytest.raises(InputError, match="requires the camera of each image, got none; give a"):
        run.evaluate(splits)
    with pytest.raises(SettingError, match=r"eval.best_by must be one of .*, got 'map'"):
        train(_config(root, eval__protocol="all_vs_all"), str(tmp_path / "x"))


def test_check_data_knows_which_copies_do_no_harm(root: Path, tmp_path: Path) -> None:
    copied = tmp_path / "market"
    _write(copied)
    queries = sorted((copied / "query").iterdir())
    for query in queries[:2]:  # as in VeRi-776
        (copied / "bounding_box_test" / query.name).write_bytes(query.read_bytes())

    def problems(protocol: str) -> list[str]:
        config = _config(copied, eval__protocol=protocol, eval__best_by="recall_at_1")
        check_data.check_data(config, str(tmp_path))
        with (tmp_path / "check_data.csv").open() as file:
            return [row["problem"] for row in csv.DictReader(file)]

    copy, missed = "the same picture is in two splits", "a test image without another image of"
    assert problems("all_vs_all").count(copy) == 2
    across = problems("cross_camera")
    assert across.count(copy) == 0
    assert sum(problem.startswith(missed) for problem in across) == 1
