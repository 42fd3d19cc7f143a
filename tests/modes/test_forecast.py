"""Forecasts of divisions, before any training."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
from forks import launch

from configs import digits
from dcjax.data.datasets import Splits
from dcjax.data.datasets.image_set import from_classes
from dcjax.distributed import devices
from dcjax.experiment import build, epochs, inputs
from dcjax.modes import forecast
from dcjax.runs.progress import Progress

_SMALL = small_runs.TINY | {"sampling.batch_size": 16, "sampling.images_per_class": 4}


def test_forecast_of_digits_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "new" / "forecast.json"
    flags = [f"--config.{name}={value}" for name, value in _SMALL.items()]
    completed = launch("--config=configs/digits.py", "--mode=forecast", f"--output={file}", *flags)
    assert completed.returncode == 0, completed.stderr
    content = json.loads(file.read_text())
    one, two = content["divisions"]  # five classes are too few for four clusters
    assert content["images"] == 901
    assert (one["num_clusters"], two["num_clusters"]) == (1, 2)
    assert one["nearest_negative_ratio"] == one["cost_max"] == one["cost_mean"] == 1
    assert one["steps_max"] == 901 // 16
    assert two["steps_max"] == 2 * (two["largest"] // 16)
    assert two["cost_max"] == two["steps_max"] / one["steps_max"]
    assert two["nearest_negative_ratio"] < 1
    assert two["variance_within"] < 1
    assert 0 < two["separated_pairs"] < 1
    printed = " ".join(completed.stdout.split())
    assert f"K = 2 {two['images_per_cluster']:.1f} {two['smallest']}" in printed
    assert f"{two['steps_max']} ({two['cost_max']:.2f})" in printed
    assert "It recommends no number of clusters" in printed
    for column in ("images", "least", "nearest", "variance", "separated", "left out", "steps, max"):
        assert completed.stdout.count(f"\n{column} ") == 1  # the line that explains it


def test_forecast_divides_as_training_would_with_the_same_network() -> None:
    config = digits.get_config()
    config.update_from_flattened_dict(_SMALL | {"division.every_epochs": 1})
    splits, _ = inputs.load_splits(config.dataset)
    experiment = build.Experiment(config, devices.create_mesh(), splits)
    run = experiment.create_state(None)
    with contextlib.closing(epochs.Planner(experiment)) as planner:
        planner.begin(Progress(epoch=0), None, run)
        planner.begin(Progress(epoch=1), planner.finish().division, run)
        trained = planner.finish()
    features = epochs.embed(experiment, run.variables, "backbone")
    *_, found = forecast.divisions(experiment, features)
    assert found.num_clusters == 2
    np.testing.assert_array_equal(found.cluster, trained.division.cluster)
    described = forecast.describe(experiment, found, features)
    assert trained.figures.keys() == {"nearest_negative_ratio", "variance_within"}
    assert trained.figures.items() <= described.items()


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"batch_size": 20}, [1, 2]),  # of twelve classes, but 72 images
        ({"batch_size": 8}, [1, 2, 4]),  # eight clusters need sixteen classes
    ],
)
def test_clusters_are_as_many_as_classes_and_images_allow(
    changes: dict[str, Any], counts: list[int]
) -> None:
    config = digits.get_config()
    config.division.grouping = "random"
    config.sampling.update(images_per_class=2, **changes)
    images = from_classes(np.zeros((72, 8, 8, 1), np.uint8), np.arange(72) % 12)
    experiment = build.Experiment(config, devices.create_mesh(), Splits(images, images))
    found = forecast.divisions(experiment, np.zeros((72, 3), np.float32))
    assert [division.num_clusters for division in found] == counts


def test_output_that_is_a_folder_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    completed = launch("--config=configs/cub.py", "--mode=forecast", f"--output={tmp_path}")
    assert completed.returncode == 1
    (line,) = completed.stderr.strip().splitlines()
    assert f"--output must be a file, but {tmp_path} is a folder" in line
