"""The scores of every run of a sweep as one CSV file, from which its table can be made again.

A line is an evaluation of a run. Scores are shares of 1.

    row, seed, fold       the run; rows and seeds in the order of the table
    baseline              the row that this one is compared with, if there is one
    split                 the classes that are scored: test or validation; refit: the test classes,
                          by a network trained again on all; paper: figures of a paper
    selected              as which the table has this line: last, best, ..., as in scores.json
    epoch, step, images   how long it was trained before
    seconds               likewise, without evaluations
    each score
    division/...          figures of the last division, in the line of the last epoch
    best_by               the score by which rows are chosen and decided
    margin                in percent, where seeds are added until that is decided
"""

import csv
import dataclasses
import io
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dcjax.core import regular_files
from dcjax.core.errors import InputError, SettingError, file_errors
from dcjax.modes.tables import DIVISION_FIGURES, Comparison, Evaluation, Row, find_baselines

_RUN = ("row", "seed", "fold", "split", "selected")
_BASELINE = "baseline"  # files of older versions lack it
_PLACE = ("epoch", "step", "images", "seconds")
_TABLE = ("best_by", "margin")
_DIVISION = "division/"
_PAPER = "paper"
# The classes that each selection of scores.json is of.
_SPLITS = {
    "last": "test",
    "best": "test",
    "best_test": "test",
    "last_validation": "validation",
    "best_validation": "validation",
    "refit": "refit",
}
_SCORE = re.compile(r"[\w.@-]+", re.ASCII)  # names of columns
_MOST_MARGIN = 100  # percent
_SHOWN = 50  # characters of a wrong number in an error
_COSTS = {"steps": "step", "images": "images", "seconds": "seconds"}  # of the line of "last"


@dataclasses.dataclass(frozen=True)
class Study:
    """The content of a file of raw scores.

    Attributes:
      rows: of the table.
      best_by: the score by which rows are chosen.
      comparison: of the rows.
    """

    rows: Sequence[Row]
    best_by: str
    comparison: Comparison


def format_csv(study: Study, names: Sequence[str]) -> str:
    """Returns the text of the file.

    Args:
      study: the rows.
      names: of the scores that come first.
    """
    lines = [line for row in study.rows for line in _lines(row)]
    known = dict.fromkeys([*names, *(name for line in lines for name in line)])
    fixed = {*_RUN, _BASELINE, *_PLACE, *(_DIVISION + name for name in DIVISION_FIGURES)}
    available = {name for line in lines for name in line}
    scores = [name for name in known if name in available and name not in fixed]
    figures = [_DIVISION + name for name in DIVISION_FIGURES if _DIVISION + name in available]
    text = io.StringIO()
    headings = [*_RUN, _BASELINE, *_PLACE, *scores, *figures, *_TABLE]
    writer = csv.DictWriter(text, headings, restval="", lineterminator="\n")
    writer.writeheader()
    compared = study.comparison
    table = {"best_by": study.best_by, "margin": 100 * compared.margin or ""}
    baselines = {row.name: {_BASELINE: compared.baselines.get(row.name, "")} for row in study.rows}
    writer.writerows(line | baselines[line["row"]] | table for line in lines)
    return text.getvalue()


def read(path: pathlib.Path) -> Study:
    """Reads a file of raw scores.

    Raises:
      InputError: if it is none.
      FileError: if it cannot be read.
    """
    regular_files.require(path)
    with file_errors(f"Cannot read {path}"):
        content = path.read_bytes()
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        lines = [(reader.line_num, line) for line in reader]
    except (csv.Error, ValueError) as error:
        raise InputError(f"{path} is no CSV file in UTF-8: {error}.") from error
    _check_columns(list(reader.fieldnames or ()), path, has_lines=bool(lines))
    runs: dict[str, dict[tuple[int, int], _Run]] = {}
    papers: dict[str, dict[str, float]] = {}
    baselines: dict[str, str] = {}
    for number, line in lines:
        try:
            values = _values(line)
            of_row = runs.setdefault(line["row"], {})
            baseline = line.get(_BASELINE, "")
            if baselines.setdefault(line["row"], baseline) != baseline:
                raise ValueError(f"its row has two baselines, of which one is {baseline!r}")
            if line["split"] == _PAPER:
                percent = {name: round(100 * value, 10) for name, value in values.items()}
                papers[line["row"]] = {x: y for x, y in percent.items() if x not in _TABLE}
                continue
            pair = int(line["seed"]), int(line["fold"])
            of_row.setdefault(pair, _Run()).add(line["split"], line["selected"].split(), values)
        except ValueError as error:
            raise InputError(f"Line {number} of {path} is no line of a run: {error}.") from error
    _, first = lines[0]
    rows = [
        Row(
            name,
            [run.results for run in of_row.values()],
            papers.get(name, {}),
            divisions=[run.division for run in of_row.values()],
            pairs=list(of_row),
            costs=[run.cost for run in of_row.values()],
            evaluations=[run.evaluations for run in of_row.values()],
        )
        for name, of_row in runs.items()
    ]
    try:
        compared = find_baselines("", baselines)
    except SettingError as error:
        raise InputError(f"{path}: {error}") from error
    return Study(rows, first["best_by"], Comparison(compared, float(first["margin"] or 0) / 100))


def _check_columns(names: Sequence[str], path: pathlib.Path, *, has_lines: bool) -> None:
    """Checks the columns of a file of raw scores."""
    missing = [name for name in (*_RUN, *_TABLE) if name not in names]
    if missing or not has_lines:
        raise InputError(
            f"{path} has no scores of runs: require the columns {', '.join((*_RUN, *_TABLE))} and "
            f"one line or more, got no {', '.join(missing) or 'lines'}; a sweep writes such a file "
            "as NAME.runs.csv."
        )
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InputError(f"{path} has two columns {name!r}; remove one.")
        if not _SCORE.fullmatch(name.removeprefix(_DIVISION)):  # names of plots have it
            raise InputError(
                f"Require columns of {path} to have names of letters, digits and _.@-, got "
                f"{name!r}; rename or remove it."
            )


def _values(line: Mapping[str, str]) -> dict[str, float]:
    """Returns the numbers of a line, by column.

    Raises:
      ValueError: saying what is wrong with the line.
    """
    if None in line or None in line.values():
        raise ValueError("require as many cells as there are columns")
    values: dict[str, float] = {}
    for name, text in line.items():
        if not text or name in (*_RUN, _BASELINE, "best_by"):
            continue
        if not math.isfinite(float(text)):
            raise ValueError(f"require a finite number in column {name}, got {text[:_SHOWN]}")
        values[name] = int(text) if text.isdecimal() else float(text)
    if not 0 <= values.get("margin", 0) <= _MOST_MARGIN:
        raise ValueError(f"require a margin from 0 to {_MOST_MARGIN}, got {values['margin']:g}")
    return values


def _lines(row: Row) -> list[dict[str, Any]]:
    """Returns the lines of a row: each evaluation once, and the paper's scores."""
    lines: list[dict[str, Any]] = []
    if row.paper:
        shares = {name: round(percent / 100, 12) for name, percent in row.paper.items()}
        lines.append({"row": row.name, "split": _PAPER, **shares})
    for number, (seed, fold) in enumerate(row.pairs):
        by_place: dict[tuple[str, float], dict[str, Any]] = {}
        selected: dict[tuple[str, float], list[str]] = {}
        for split, evaluations in (row.evaluations[number] if row.evaluations else {}).items():
            for evaluation in evaluations:
                # Runs of older versions did not record the epoch: their steps tell lines apart.
                place = evaluation.get("epoch", -evaluation["step"])
                by_place[split, place] = dict(evaluation)
        for selection, scores in row.results[number].items():
            if selection in _SPLITS:
                key = _SPLITS[selection], scores.get("epoch", 0)
                by_place[key] = by_place.get(key, {}) | dict(scores)
                selected.setdefault(key, []).append(selection)
                if selection == "last":
                    by_place[key] |= _of_last(row, number)
        run = {"row": row.name, "seed": seed, "fold": fold}
        for key, values in by_place.items():
            names = " ".join(selected.get(key, ()))
            lines.append({**run, "split": key[0], "selected": names, **values})
    return lines


def _of_last(row: Row, number: int) -> dict[str, float]:
    """Returns what only the line of the last epoch has: costs and figures of the division."""
    costs = row.costs[number] if row.costs else {}
    division = row.divisions[number] if row.divisions else {}
    return {column: costs[name] for name, column in _COSTS.items() if name in costs} | {
        _DIVISION + name: value for name, value in division.items()
    }


@dataclasses.dataclass
class _Run:
    """What is known of one run, line by line; the fields are those of `Row` for one run."""

    results: dict[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    evaluations: dict[str, list[Evaluation]] = dataclasses.field(default_factory=dict)
    division: dict[str, float] = dataclasses.field(default_factory=dict)
    cost: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, split: str, selected: Sequence[str], values: Mapping[str, float]) -> None:
        """Adds the values of a line.

        Raises:
          ValueError: for an unknown split or selection, or if the run has such a line already.
        """
        if split not in _SPLITS.values():
            known = ", ".join(dict.fromkeys([*_SPLITS.values(), _PAPER]))
            raise ValueError(f"require a split of {known}, got {split!r}")
        place = {name: values[name] for name in _PLACE if name in values}
        scores = {
            name: value
            for name, value in values.items()
            if name not in (*_PLACE, *_TABLE) and not name.startswith(_DIVISION)
        }
        epoch = {"epoch": values["epoch"]} if "epoch" in values else {}
        for selection in selected:
            if _SPLITS.get(selection) != split:
                known = ", ".join(name for name, of in _SPLITS.items() if of == split)
                raise ValueError(f"require lines of {split} to be {known}, got {selection!r}")
            if selection in self.results:
                raise ValueError(f"its run has two lines {selection!r}, of which one is too many")
            self.results[selection] = epoch | scores
        if split in ("test", "validation") and len(place) > len(epoch):
            self.evaluations.setdefault(split, []).append(place | scores)
        if "last" in selected:
            self.cost = {name: values[x] for name, x in _COSTS.items() if x in values}
            self.division = {
                name.removeprefix(_DIVISION): value
                for name, value in values.items()
                if name.startswith(_DIVISION)
            }
