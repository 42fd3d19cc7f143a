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
