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
        report.show_division(7, 2, Division(cluster, np.zeros(2, np.int32), 1), None, labels)
    output = " ".join(capsys.readouterr().out.split())
    (row,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    # (286 285) / (302 301) of the batches of the first cluster
    line = "44.8% of the batches will hold a single class, and so no negatives; of cluster 0 89.7%"
    assert (line in output) == (num_others == 2)
    assert ("one_class_batches" in str(row)) == (num_others == 2)
