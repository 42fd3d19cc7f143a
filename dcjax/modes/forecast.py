"""Forecasts what divisions of a training set would be like, before any training."""

import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from dcjax.analysis import effects
from dcjax.core import naming
from dcjax.core.console import Console
from dcjax.core.errors import FileError, InputError, file_errors
from dcjax.division import division, sampling
from dcjax.division.division import Division
from dcjax.experiment import checks, epochs, inputs
from dcjax.experiment.build import Experiment

_ROUNDS = ("max", "mean")  # of sampling.rounds: those whose steps are shown


class _Column(NamedTuple):
    """A column of the table.

    Attributes:
      heading: its name.
      meaning: one line that explains it.
      text: the text of a row's cell.
    """

    heading: str
    meaning: str
    text: Callable[[Mapping[str, Any]], str]


_COLUMNS = (
    _Column("images", "of a cluster, the mean", lambda row: f"{row['images_per_cluster']:,.1f}"),
    _Column("least", "images of the smallest cluster", lambda row: f"{row['smallest']:,}"),
    _Column("classes", "in a cluster, the mean", lambda row: f"{row['classes_per_cluster']:,.1f}"),
    _Column(
        "nearest",
        "distance of an image to the nearest one of another class in its batch, in batches of a "
        "cluster over batches of all images; below 1, negatives are harder",
        lambda row: _format_ratio(row["nearest_negative_ratio"]),
    ),
    _Column(
        "variance",
        "of the features within clusters over that of all; 1 in random clusters",
        lambda row: _format_ratio(row["variance_within"]),
    ),
    _Column(
        "separated",
        "of pairs of images of one class, those that no batch can have",
        lambda row: f"{row['separated_pairs']:.1%}",
    ),
    _Column(
        "left out",
        "images alone of their class in their cluster, which are not trained on",
        lambda row: f"{row['left_out']:,}",
    ),
    _Column(
        "steps, max",
        "of an epoch with sampling.rounds=max, and how many times those of K = 1",
        lambda row: f"{row['steps_max']:,} ({row['cost_max']:.2f})",
    ),
    _Column(
        "steps, mean",
        "the same with sampling.rounds=mean",
        lambda row: f"{row['steps_mean']:,} ({row['cost_mean']:.2f})",
    ),
)
_CAUTION = (
    "This describes divisions of the features of the network as it is before training, which "
    "training changes. It recommends no number of clusters: in dcjax's study of heads on "
    "frozen features, more than one did not pay, and the less the variance, the more MAP@R fell."
)


def forecast(config: ConfigDict, *, output: str | None = None) -> None:
    """Prints what divisions into 1, 2, 4, ... clusters would be like, as far as the data allow.

    The training images are divided as training divides them, from the pooled features of the
    untrained backbone, whatever `division.max_clusters` is.

    Args:
      config: the experiment.
      output: JSON file for the figures; None: none is written.

    Raises:
      InputError: if config or data would not allow a training.
      FileError: if something is missing or cannot be written.
    """
    console = Console()
    file = None if output is None else _file(output)
    mesh = checks.check_training(config)
    checks.check_present(config.model, config.dataset)
    splits, _ = inputs.load_splits(config.dataset)
    checks.check_data(config, splits)
    experiment = Experiment(config, mesh, splits)
    start_time = time.monotonic()
    run = experiment.create_state(experiment.load_pretrained(console.print_line))
    features = epochs.embed(experiment, run.variables, "backbone")
    images, embedding_seconds = splits.train, time.monotonic() - start_time
    console.print_line(
        f"features  {features.shape[1]:,} numbers of {len(images):,} images of "
        f"{len(np.unique(images.labels)):,} classes in {embedding_seconds:.0f} s, by "
        f"{config.model.backbone} from {config.model.pretrained or 'random weights'}"
    )
    start_time = time.monotonic()
    rows = _with_costs([describe(experiment, x, features) for x in divisions(experiment, features)])
    seconds = time.monotonic() - start_time
    console.print_line(
        f"divided   into up to {rows[-1]['num_clusters']} clusters in {seconds:.0f} s"
    )
    console.print_table("Clusters", {f"K = {row['num_clusters']}": _cells(row) for row in rows})
    for heading, meaning, _ in _COLUMNS:
        console.print_line(f"{heading:11}  {meaning}")
    console.print_line(_CAUTION)
    if file is not None:
        content = {
            "images": len(images),
            "embedding_seconds": round(embedding_seconds, 3),
            "division_seconds": round(seconds, 3),
            "divisions": rows,
            "note": _CAUTION,
        }
        _write(content, file)
        console.print_line(f"wrote     {file}")


def divisions(experiment: Experiment, features: epochs.Features) -> Iterator[Division]:
    """Yields the divisions of the training set into 1, 2, 4, ... clusters, as training makes them.

    Each comes from the one before; with `division.hierarchy=direct` it is made by itself. The last
    has two classes of two images for each cluster, and as many images as a batch.
    """
    dividing = experiment.config.division
    previous, num_clusters, period = None, 1, 0
    while _is_possible(experiment, num_clusters):
        current = epochs.divide(
            experiment,
            features if dividing.grouping == "kmeans" else None,
            previous if dividing.hierarchy == "progressive" else None,
            num_clusters=num_clusters,
            period=period,
        )
        yield current
        previous, num_clusters, period = current, 2 * num_clusters, period + 1


def describe(
    experiment: Experiment, divided: Division, features: epochs.Features
) -> dict[str, float]:
    """Returns the figures of a division, and the steps of an epoch, by name."""
    labels, sampled = experiment.splits.train.labels, experiment.config.sampling
    sizes = divided.sizes
    steps = {
        f"steps_{rounds}": sampling.plan_epoch(
            divided,
            labels,
            seed=experiment.config.seed,
            epoch=0,
            **{**sampled, "rounds": rounds, "epoch_steps": 0},
        ).num_steps
        for rounds in _ROUNDS
    }
    one_class = sampling.one_class_shares(
        divided, labels, batch_size=sampled.batch_size, sampler=sampled.sampler
    )
    return {
        "num_clusters": divided.num_clusters,
        "images_per_cluster": float(sizes.mean()),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "left_out": int(np.sum(divided.cluster < 0)),
        "one_class_batches": float(one_class[sizes > 0].mean()),
        **effects.label_figures(divided, labels),
        **epochs.feature_figures(experiment, divided, features),
        **steps,
    }


def _is_possible(experiment: Experiment, num_clusters: int) -> bool:
    """Returns whether there are enough classes and images for so many clusters."""
    config, images = experiment.config, experiment.splits.train
    if num_clusters == 1:
        return True
    if len(images) < num_clusters * config.sampling.batch_size:
        return False
    by_super_class = config.division.grouping == "labels"
    try:
        division.check(
            images.labels,
            max_clusters=num_clusters,
            hierarchy=config.division.hierarchy,
            super_classes=images.super_class_labels if by_super_class else None,
        )
    except InputError:
        return False
    return True


def _with_costs(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Adds the steps of each row as multiples of those of the first, of one cluster."""
    names = [(f"cost_{rounds}", f"steps_{rounds}") for rounds in _ROUNDS]
    return [row | {cost: row[steps] / rows[0][steps] for cost, steps in names} for row in rows]


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    return {heading: text(row) for heading, _, text in _COLUMNS}


def _format_ratio(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else ""


def _file(output: str) -> pathlib.Path:
    """Returns the path of the JSON file, before anything takes time."""
    file = pathlib.Path(naming.expand(output))
    if file.is_dir():
        raise FileError(f"--output must be a file, but {file} is a folder.")
    return file


def _write(content: Mapping[str, Any], file: pathlib.Path) -> None:
    """Writes a JSON file, in which what is not finite is null."""
    with file_errors(f"Cannot write {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_finite(content), indent=1) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(x) for name, x in value.items()}
    if isinstance(value, list):
        return [_finite(x) for x in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
