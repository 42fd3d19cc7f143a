"""What a run of a sweep has recorded: evaluations, its last division, what its training took."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dcjax.modes import tables
from dcjax.runs import query_scores, times

# Groups of the curves that are evaluations, each with the classes that are scored.
_EVALUATIONS = {"eval": "test", "validation": "validation"}
_OF_TEST = ("last", "best", "best_test")  # selections of evaluations of the test classes


def evaluations(folder: pathlib.Path, images_per_step: int) -> dict[str, list[tables.Evaluation]]:
    """Returns each evaluation of a run, of test and of validation classes; none without curves.

    Args:
      folder: of the run.
      images_per_step: that it trained on.
    """
    seconds = _seconds_by_epoch(times.read(folder / times.FILE))
    found: dict[str, list[tables.Evaluation]] = {}
    for point in times.read(folder / "metrics.jsonl"):
        for group, classes in _EVALUATIONS.items():
            scores = {
                name.removeprefix(f"{group}/"): value
                for name, value in point.items()
                if name.startswith(f"{group}/") and value is not None
            }
            step = point.get("step")
            if not scores or step is None:
                continue
            place = {"step": step, "images": step * images_per_step}
            if (epoch := scores.get("epoch")) in seconds:
                place["seconds"] = seconds[epoch]
            found.setdefault(classes, []).append(place | scores)
    return found


def last_division(folder: pathlib.Path) -> dict[str, float]:
    """Returns the figures of the last division, by name; none that were not recorded."""
    figures: dict[str, float] = {}
    for point in times.read(folder / "metrics.jsonl"):
        if "division/num_clusters" in point:
            figures = {
                name: value
                for name in tables.DIVISION_FIGURES
                if (value := point.get(f"division/{name}")) is not None
            }
    return figures


def cost(folder: pathlib.Path, images_per_step: int) -> dict[str, float]:
    """Returns what training took, by the names of `tables.COSTS`; none that is not recorded.

    The seconds are those of all starts, with what was trained again after a kill.

    Args:
      folder: of the run.
      images_per_step: that it trained on.
    """
    found: dict[str, float] = {}
    points = times.read(folder / "metrics.jsonl")
    if steps := max((point.get("step", 0) for point in points), default=0):
        found |= {"steps": steps, "images": steps * images_per_step}
    seconds = [record["seconds"] for record in times.read(folder / times.FILE) if _trains(record)]
    return found | ({"seconds": round(sum(seconds), 3)} if seconds else {})


def of_queries(
    folder: pathlib.Path, result: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the scores of each query, by selection; none that were not kept.

    Args:
      folder: of the run.
      result: the content of its scores.json.
    """
    epochs = {name: result[name]["epoch"] for name in _OF_TEST if "epoch" in result.get(name, {})}
    return {name: query_scores.read(folder, int(epoch)) for name, epoch in epochs.items()}


def _trains(record: Mapping[str, Any]) -> bool:
    """Returns whether a record has the time of an activity that is no evaluation."""
    return record.get("kind") == "activity" and record.get("activity") != "evaluation"


def _seconds_by_epoch(records: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Returns the seconds of training until the end of each epoch, counted from 1."""
    spent, by_epoch = 0.0, {}
    for record in records:
        if _trains(record):
            spent += record["seconds"]
        elif record.get("kind") == "epoch":  # of one that was stopped, the last record
            by_epoch[record["epoch"] + 1] = round(spent, 3)
    return by_epoch
