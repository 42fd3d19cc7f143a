"""Printed reports of a run."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from configs import digits
from dcjax.division.division import Division
from dcjax.experiment.reporter import Reporter
from dcjax.runs.progress import Progress


@pytest.mark.parametrize("num_others", [2, 600])
def test_one_class_batches_of_a_division_are_reported(
    num_others: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = digits.get_config()
    config.sampling.update(sampler="uniform", batch_size=16)
    # One cluster of 300 images of class 0 and some of class 1, and one cluster of three classes.
    labels = np.concatenate([np.repeat([0, 1], [300, num_others]), np.arange(300) % 3])
    cluster = np.repeat([0, 1], [300 + num_others, 300]).astype(np.int32)
    with contextlib.closing(Reporter(config, str(tmp_path), 0, Progress())) as report:
        report.show_division(7, 2, Division(cluster, np.zeros(2, np.int32), 1), None, labels, {})
    output = " ".join(capsys.readouterr().out.split())
    (row,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    # (286 285) / (302 301) of the batches of the first cluster
    line = "44.8% of the batches will hold a single class, and so no negatives; of cluster 0 89.7%"
    assert (line in output) == (num_others == 2)
    assert ("one_class_batches" in str(row)) == (num_others == 2)


@pytest.mark.parametrize("best_epoch", [1, 3])
def test_result_has_the_scores_before_training_and_the_best_ones_once(
    best_epoch: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = {"recall_at_1": 0.916, "map_at_r": 0.4}
    best = last if best_epoch == 3 else {"recall_at_1": 0.94, "map_at_r": 0.45}
    progress = Progress(epoch=3, scores=last, best_epoch=best_epoch, best_scores=best)
    with contextlib.closing(Reporter(digits.get_config(), str(tmp_path), 0, Progress())) as report:
        report.show_untrained({"backbone features": {"recall_at_1": 0.853, "map_at_r": 0.2}})
        capsys.readouterr()
        report.show_result(progress)
    rows = [line.split("  ")[0].strip() for line in capsys.readouterr().out.splitlines()]
    both = ["last epoch (3)", "best epoch (1), chosen on these classes"]
    expected = ["last epoch (3), also the best"] if best_epoch == 3 else both
    assert [row for row in rows if "training" in row or "epoch" in row] == [
        "before training",
        *expected,
    ]


def test_result_says_in_words_what_recall_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(
        epoch=3, scores={"recall_at_2": 0.916, "recall_at_4": 0.95, "map_at_r": 0.4}
    )
    with contextlib.closing(Reporter(digits.get_config(), str(tmp_path), 0, Progress())) as report:
        report.show_result(progress)
    sentence = "Of 100 queries, 92 find an image of their class among the first 2 (R@2).\n"
    assert f"in words  {sentence}" in capsys.readouterr().out


def test_images_left_out_of_a_division_are_counted_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, cluster = np.repeat([0, 1], [1200, 3]), np.repeat([0, 1, -1], [1000, 200, 3])
    clusters = Division(cluster.astype(np.int32), np.zeros(2, np.int32), 1)
    with contextlib.closing(Reporter(digits.get_config(), str(tmp_path), 0, Progress())) as report:
        report.show_division(7, 2, clusters, None, labels, {})
    line = "images 1,000 + 200; 3 of 1,203 left out, alone of their class in a cluster\n"
    assert line in capsys.readouterr().out


def test_effects_of_a_division_are_printed_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    division = Division(np.array([0, 0, 1, 1, 0, 0], np.int32), np.zeros(2, np.int32), 1)
    labels = np.array([0, 0, 0, 0, 1, 1])
    config = digits.get_config()
    with contextlib.closing(Reporter(config, str(tmp_path), 0, Progress())) as report:
        for ratio in (0.75, 1.25, np.nan):
            figures = {"nearest_negative_ratio": ratio, "variance_within": 0.5}
            report.show_division(7, 2, division, None, labels, figures)
    output = " ".join(capsys.readouterr().out.split())
    separated = "57.1% of positive pairs are separated; 1.5 classes a cluster"
    assert f"{separated}; the nearest negatives of a batch are 25.0% nearer" in output
    assert f"{separated}; the nearest negatives of a batch are 25.0% farther" in output
    assert output.count(separated) == 3
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["division/nearest_negative_ratio"] for row in rows] == [0.75, 1.25, None]
    assert rows[0]["division/separated_pairs"] == pytest.approx(4 / 7)
    assert rows[0]["division/classes_per_cluster"] == 1.5
    assert rows[0]["division/variance_within"] == 0.5
