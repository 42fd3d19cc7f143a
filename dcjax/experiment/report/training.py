"""How did it train? From the curves and times that a run has recorded."""

import datetime
import shlex
from collections.abc import Sequence

import numpy as np

from dcjax.experiment.report.saved import Point, Saved
from dcjax.pages import content, templating

_NO_CURVES = (
    "metrics.jsonl, which has the curves, is not there: it was moved, or could not be written."
)
_NO_TIMES = "The run was trained by a version that did not record the time of its epochs."


def collect(saved: Saved) -> content.Training | str:
    """Returns the curves of a run; a text if it has none."""
    if not saved.curves:
        return _NO_CURVES
    evaluated, trained = saved.points("eval"), saved.points("train")
    names = dict.fromkeys(name for point in evaluated for name in point if name.startswith("eval/"))
    scores = {
        name.removeprefix("eval/"): _curve(saved, evaluated, name)
        for name in names
        if name != "eval/epoch"
    }
    validated, name = saved.points("validation"), f"validation/{saved.config.eval.best_by}"
    if validated:
        scores[name] = _curve(saved, validated, name)
    return content.Training(
        loss=_curve(saved, trained, "train/loss") if trained else "No step was recorded yet.",
        scores=scores,
        images_per_second=_speed(saved.times),
        division_epochs=saved.epochs(saved.points("division")),
        seconds=seconds(saved.times),
    )


def _curve(saved: Saved, points: Sequence[Point], name: str) -> content.Curve:
    known = [point for point in points if point.get(name) is not None]
    values = np.array([point[name] for point in known], float)
    return content.Curve(saved.epochs(known), values)


def _speed(records: Sequence[Point]) -> content.Curve | str:
    """Returns images a second by epoch; of an epoch that was trained twice, the last time."""
    rates = {x["epoch"] + 1: x["images_per_second"] for x in records if x["kind"] == "epoch"}
    if not rates:
        return _NO_TIMES
    epochs = sorted(rates)
    return content.Curve(np.array(epochs, float), np.array([rates[e] for e in epochs], float))


def seconds(records: Sequence[Point]) -> dict[str, float]:
    """Returns the time spent by activity, and on what is none of them as "other".

    The time between a stop and the next start does not count, nor does that after the last record.
    """
    spent: dict[str, float] = {}
    total, before = 0.0, None
    for record in records:
        if record["kind"] == "activity":
            spent[record["activity"]] = spent.get(record["activity"], 0.0) + record["seconds"]
        if before is not None and record["kind"] != "start":
            total += max(record["time"] - before, 0.0)
        before = record["time"]
    if spent:
        spent["other"] = max(total - sum(spent.values()), 0.0)
    return spent


def facts(saved: Saved) -> list[tuple[str, str]]:
    """Returns how, where and for how long the run was trained, as far as it was recorded."""
    starts = [record for record in saved.times if record["kind"] == "start"]
    if not starts:
        return [("command", "not recorded, as by older versions")]
    first, last = starts[0], starts[-1]
    began = datetime.datetime.fromtimestamp(first["time"], datetime.UTC)
    again = f", and {len(starts) - 1} times again" if starts[1:] else ""
    processes = last["num_processes"]
    several = f", {processes} processes" if processes > 1 else ""
    return [
        ("command", shlex.join(last["command"])),
        ("devices", f"{last['num_devices']} ({', '.join(last['devices'])}){several}"),
        ("host", last["host"]),
        ("started", f"{began:%Y-%m-%d %H:%M} UTC{again}"),
        ("duration", templating.format_duration(sum(seconds(saved.times).values()))),
        ("versions", ", ".join(f"{name} {value}" for name, value in last["versions"].items())),
    ]
