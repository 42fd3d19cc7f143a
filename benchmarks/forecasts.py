"""Forecasts beside measured gains: which figures of a division go with what it brings.

    python benchmarks/forecasts.py          # prints the table
    python benchmarks/forecasts.py --write  # writes docs/ablations/forecasts.md

Forecasts are what `--mode=forecast --output=` wrote for the experiments of docs/ablations, before
training; gains are the differences to K = 1 in their tables, at the best epoch on validation
classes. Divisions that have both are ranked by each; Spearman's correlation has a bootstrap
interval over the divisions.
"""

import argparse
import csv
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
import tables

STUDIES = pathlib.Path(__file__).parents[1] / "docs" / "ablations"
PAGE = STUDIES / "forecasts.md"
SCORES = {"recall_at_1": "recall@1", "map_at_r": "MAP@R"}
FIGURES = {
    "variance_within": "variance",
    "nearest_negative_ratio": "nearest",
    "separated_pairs": "separated",
}
NUM_RESAMPLES = 10_000


class Source(NamedTuple):
    """Where the divisions of an experiment are found.

    Attributes:
      experiment: in words.
      forecast: the file of the forecast, in docs/ablations.
      table: the table of the gains, in docs/ablations.
      row: the name of the row of K clusters, with {k} in place of the number.
    """

    experiment: str
    forecast: str
    table: str
    row: str


HEADS = "study.heads/study_settings.csv"
CHARACTERS = "study.character_heads/study_classes.csv"
SOURCES = (
    Source("bird crops", "study.heads/forecast.json", HEADS, "K = {k}"),
    *(
        Source(
            f"characters, {n} classes",
            f"study.character_heads/forecast_{n}.json",
            CHARACTERS,
            f"{n} classes, K = {{k}}",
        )
        for n in (60, 240, 771)
    ),
)


class Cell(NamedTuple):
    """A division with its forecast and its gain.

    Attributes:
      experiment: in words.
      num_clusters: K.
      forecast: the figures, by name.
      gains: differences to K = 1, by score.
    """

    experiment: str
    num_clusters: int
    forecast: Mapping[str, float]
    gains: Mapping[str, float]


def cells() -> Iterator[Cell]:
    """Yields the divisions that have a forecast and a gain."""
    for source in SOURCES:
        gains: dict[str, dict[str, float]] = {}
        with open(STUDIES / source.table, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["selection"] == "best" and row["difference"]:
                    gains.setdefault(row["row"], {})[row["score"]] = float(row["difference"])
        forecast = json.loads((STUDIES / source.forecast).read_text(encoding="utf-8"))
        for figures in forecast["divisions"]:
            k = figures["num_clusters"]
            if found := gains.get(source.row.format(k=k)):
                yield Cell(source.experiment, k, figures, found)


def correlate(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Returns the rank correlation of two series and its 95 % bootstrap interval."""
    drawn = np.random.default_rng(0).integers(len(x), size=(NUM_RESAMPLES, len(x)))
    ranks = (scipy.stats.rankdata(np.asarray(values)[drawn], axis=1) for values in (x, y))
    of_x, of_y = map(_standardize, ranks)
    correlations = np.mean(of_x * of_y, axis=1)
    low, high = np.nanquantile(correlations, [0.025, 0.975])
    return float(scipy.stats.spearmanr(x, y).statistic), float(low), float(high)


def _standardize(ranks: np.ndarray) -> np.ndarray:
    """Returns rows [n, m] with the mean 0 and the deviation 1, NaN where all are equal."""
    deviations = ranks.std(axis=1, keepdims=True)
    deviations[deviations == 0] = np.nan
    return (ranks - ranks.mean(axis=1, keepdims=True)) / deviations


def page() -> str:
    """Returns the two tables, in Markdown."""
    found = list(cells())
    lines = [
        "# Forecasts beside measured gains",
        "",
        "    python benchmarks/forecasts.py --write",
        "",
        "Figures before training (`python launch.py --mode=forecast`), and differences to K = 1 in "
        "percent (Study of division).",
        "",
        tables.markdown([_cell_row(cell) for cell in found]),
        "",
        f"Spearman's rank correlation over these {len(found)} divisions, with 95 % bootstrap "
        "intervals over them:",
        "",
        tables.markdown([_correlation_row(found, score) for score in SCORES]),
    ]
    return "\n".join(lines) + "\n"


def _cell_row(cell: Cell) -> dict[str, str]:
    figures = {heading: f"{cell.forecast[name]:.3f}" for name, heading in FIGURES.items()}
    gains = {heading: f"{100 * cell.gains[name]:+.2f}" for name, heading in SCORES.items()}
    return {"experiment": cell.experiment, "K": str(cell.num_clusters), **figures, **gains}


def _correlation_row(found: Sequence[Cell], score: str) -> dict[str, str]:
    row = {"gain in": SCORES[score]}
    for name, heading in FIGURES.items():
        forecasts = [cell.forecast[name] for cell in found]
        r, low, high = correlate(forecasts, [cell.gains[score] for cell in found])
        row[heading] = f"{r:.2f} [{low:.2f}, {high:.2f}]"
    return row


def main() -> None:
    """Writes what is asked for, and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="also write docs/ablations")
    text = page()
    if parser.parse_args().write:
        PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
