"""Compares several runs on the same test images."""

import os
from collections.abc import Mapping

import numpy as np

from dcjax.analysis import differences
from dcjax.core.console import Console
from dcjax.experiment import same_run, same_test
from dcjax.experiment.embedder import Embedder
from dcjax.experiment.report import draws, failures, saved, training
from dcjax.experiment.report.draws import Part
from dcjax.experiment.report.pictures import Pictures
from dcjax.experiment.report.retrieval import Retrieval, retrieve
from dcjax.pages import content
from dcjax.runs import workdirs

_NUM_QUERIES = 8  # of a kind
_NO_DIFFERENCES = (
    "The scores are those of galleries drawn at random (eval.protocol=gallery), in which no query "
    "has a score of its own: so there are no paired differences. A --config with "
    "eval.protocol=all_vs_all has them."
)


def collect(runs: Mapping[str, Embedder], page: str, console: Console) -> content.Comparison:
    """Returns the comparison of runs with the first one.

    Args:
      runs: restored, by workdir.
      page: folder of the page, from which it links to those of the runs.
      console: for bars.

    Raises:
      InputError: if they are not scored on the same images by the same protocol.
    """
    found: dict[str, Retrieval] = {}
    files: dict[str, saved.Saved] = {}
    for workdir, run, splits in same_test.load_each(runs):
        found[workdir] = retrieve(run, splits, console)
        files[workdir] = saved.read(workdir, run)
    first = next(iter(runs.values()))
    has_differences = first.config.eval.protocol != "gallery"
    return content.Comparison(
        title=f"{len(runs)} runs on {first.config.dataset.name}",
        scores={
            workdir: each.scores | _validation(runs[workdir]) for workdir, each in found.items()
        },
        best_by=first.config.eval.best_by,
        differences=_differences(found) if has_differences else _NO_DIFFERENCES,
        rankings=_rankings(found, first),
        training={workdir: training.collect(each) for workdir, each in files.items()},
        settings=_settings(runs),
        reports=_links(runs, page),
    )


def _validation(run: Embedder) -> dict[str, float]:
    """Returns the score on validation classes by which the run's epoch may have been chosen."""
    best_by = run.config.eval.best_by
    values = run.validation_scores
    return {f"validation/{best_by}": values[best_by]} if best_by in values else {}


def _differences(found: Mapping[str, Retrieval]) -> dict[str, dict[str, content.Difference]]:
    """Returns the difference of each score to that of the first run, by run."""
    (_, first), *others = found.items()
    labels = first.query.labels
    return {
        workdir: {
            name: content.Difference(
                *differences.interval(
                    run.by_query[name] - values,
                    labels,
                    draws.generator(Part.DIFFERENCES),
                )
            )
            for name, values in first.by_query.items()
            if name in run.by_query
        }
        for workdir, run in others
    }


def _rankings(found: Mapping[str, Retrieval], first: Embedder) -> list[content.Rankings]:
    """Returns the same queries through each run: random ones, and those that differ most."""
    (_, base), *others = found.items()
    pictures = Pictures(base.query, first.config.dataset)
    gallery = pictures if base.is_same_set else Pictures(base.gallery, first.config.dataset)
    precisions = np.mean([run.by_query["map_at_r"] for _, run in others], axis=0)
    gains = precisions - base.by_query["map_at_r"]
    order = np.argsort(gains, kind="stable")  # undefined ones are last
    order = order[~np.isnan(gains[order])]
    name = next(iter(found))
    better, worse = order[::-1][:_NUM_QUERIES], order[:_NUM_QUERIES]
    kinds = {
        ("Random queries", "Drawn at random."): failures.random_queries(base, _NUM_QUERIES),
        (
            "Queries that gained most",
            f"Those whose average precision among their first R rose most from {name}.",
        ): better[gains[better] > 0],
        (
            "Queries that lost most",
            f"Those whose average precision among their first R fell most from {name}.",
        ): worse[gains[worse] < 0],
    }
    return [
        content.Rankings(title, explanation, failures.rank(found, queries, pictures, gallery))
        for (title, explanation), queries in kinds.items()
        if len(queries)
    ]


def _settings(runs: Mapping[str, Embedder]) -> dict[str, dict[str, str]]:
    """Returns the settings that differ between the runs: the value by run."""
    flat = {workdir: same_run.flatten(run.config.to_dict()) for workdir, run in runs.items()}
    names = sorted({name for settings in flat.values() for name in settings})
    values = {
        name: {workdir: str(settings.get(name, "")) for workdir, settings in flat.items()}
        for name in names
        if not name.startswith("paper.")
    }
    return {name: by_run for name, by_run in values.items() if len(set(by_run.values())) > 1}


def _links(runs: Mapping[str, Embedder], page: str) -> dict[str, str]:
    """Returns where the pages of the runs are, relative to the folder of this page."""
    links = {}
    for workdir in runs:
        folder, _ = workdirs.locate(workdir)
        report = folder / "report" / "index.html"
        if not workdirs.is_in_bucket(str(folder)) and report.is_file():
            links[workdir] = os.path.relpath(report, page)
    return links
