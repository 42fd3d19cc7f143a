"""The report of a run, and the comparison of several: one HTML file each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dcjax.pages import figures, maps, templating
from dcjax.pages.content import (
    Comparison,
    Curve,
    Divisions,
    Map,
    Report,
    Setting,
    Training,
)
from dcjax.pages.drawing import Plot

_SECTIONS = (
    ("good", "Is it good?"),
    ("failures", "Where does it fail?"),
    ("division", "What did division do?"),
    ("training", "How did it train?"),
    ("map", "Where is everything?"),
)
_COMPARED_SECTIONS = (
    ("good", "Which is better?"),
    ("failures", "Where do they differ?"),
    ("training", "How did they train?"),
    ("settings", "What was different?"),
)
# Figures of divisions between 0 and about 1, and their names in the legend.
_SHARES = {
    "nearest_negative_ratio": "distance to nearest negatives, in clusters over in all",
    "separated_pairs": "positive pairs separated",
    "variance_within": "variance within clusters",
    "mask_cosine": "cosine of two masks",
}

_DISTANCE = "threshold_at_fmr_"  # begins the names of scores that are distances


def render(report: Report) -> str:
    """Returns the page of one run."""
    summary = report.summary
    return _render_document(
        "report.html",
        ["page.js"] if isinstance(report.map, str) else ["page.js", "map.js"],
        _SECTIONS,
        report=report,
        score_names=_score_names(summary.scores, summary.best_by),
        bars={
            name: scores[summary.best_by]
            for name, scores in summary.scores.items()
            if summary.best_by in scores
        },
        changed=[setting for setting in summary.settings if _is_changed(setting)],
        unchanged=[setting for setting in summary.settings if not _is_changed(setting)],
        **({} if isinstance(report.divisions, str) else _division_views(report.divisions)),
        **({} if isinstance(report.training, str) else _training_views(report.training)),
        **({} if isinstance(report.map, str) else _map_views(report.map)),
    )


def render_comparison(comparison: Comparison) -> str:
    """Returns the page that compares several runs."""
    best_by = comparison.best_by
    ranked = [run for run, scores in comparison.scores.items() if best_by in scores]
    return _render_document(
        "comparison.html",
        ["page.js"],
        _COMPARED_SECTIONS,
        comparison=comparison,
        score_names=_score_names(comparison.scores, best_by),
        difference_names=[]
        if isinstance(comparison.differences, str)
        else _score_names(comparison.differences, best_by),
        best=max(ranked, key=lambda run: comparison.scores[run][best_by], default=None),
        first=next(iter(comparison.scores), ""),
        plots=_compared_plots(comparison.training, best_by),
    )


def _render_document(
    template: str, scripts: Sequence[str], sections: Sequence[tuple[str, str]], **values: Any
) -> str:
    policy = templating.self_contained_policy([templating.static_text(name) for name in scripts])
    page = templating.render(template, policy=policy, scripts=scripts, sections=sections, **values)
    # Bytes of file names that are not UTF-8 are lone surrogates in Python, which no file can hold.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _score_names(rows: Mapping[str, Mapping[str, Any]], best_by: str) -> list[str]:
    """Returns the names of all scores of a table, `best_by` first, without those not in percent."""
    names = dict.fromkeys(
        name for scores in rows.values() for name in scores if not name.startswith(_DISTANCE)
    )
    return sorted(names, key=lambda name: name != best_by)


def _is_changed(setting: Setting) -> bool:
    return setting.value != setting.default


def _division_views(divisions: Divisions) -> dict[str, Any]:
    starts = divisions.epochs + 1  # the epochs that begin with a division, as the log counts them
    plots = {"Sizes of clusters": figures.plot_sizes("sizes", starts, divisions.sizes)}
    agreements = {
        "with the division before": divisions.agreement,
        "with the classes": divisions.agreement_with_labels,
    }
    curves = {
        name: Curve(starts, values)
        for name, values in agreements.items()
        if np.isfinite(values).any()
    }
    if curves:
        plots["Agreement of divisions"] = figures.plot_curves(
            "agreement", curves, x_label=figures.DIVIDED_EPOCH, y_label="NMI", limits=(0, 1.02)
        )
    plots |= _effect_plots(divisions)
    return {
        "division_plots": {title: plot for title, plot in plots.items() if plot},
        "mask_plots": _mask_plots(divisions),
    }


def _effect_plots(divisions: Divisions) -> dict[str, Plot]:
    """Returns plots of what each division did to learning, when it was made."""
    curves = {
        name: Curve(divisions.epochs, values)
        for name, values in divisions.effects.items()
        if np.isfinite(values).any()
    }
    shares = {text: curves[name] for name, text in _SHARES.items() if name in curves}
    plots = {}
    if shares:
        plots["Effect on learning"] = figures.plot_curves(
            "effects", shares, y_label="share", limits=(0, None)
        )
    if "classes_per_cluster" in curves:
        plots["Classes in a cluster"] = figures.plot_curves(
            "classes_per_cluster",
            {"the mean": curves["classes_per_cluster"]},
            y_label="classes",
            limits=(0, None),
        )
    return plots


def _mask_plots(divisions: Divisions) -> dict[str, Plot]:
    masks = divisions.masks
    if isinstance(masks, str):
        return {}
    plots = {
        "The mask of each cluster": figures.plot_heat_map(
            "masks",
            masks.values,
            x_label="dimension",
            y_label="cluster",
            description="How much each cluster's mask lets through of each dimension.",
        ),
        "Cosines of each two masks": figures.plot_heat_map(
            "cosines",
            masks.cosines,
            x_label="cluster",
            y_label="cluster",
            description="Cosines of the masks of each two clusters.",
            limits=(min(0.0, float(np.min(masks.cosines))), 1),
        ),
    }
    dimensions = [
        np.nan if cluster.effective_dimension is None else cluster.effective_dimension
        for cluster in divisions.clusters
    ]
    if masks.effective_dimension is not None and np.isfinite(dimensions).any():
        plots["Effective dimension of subspaces"] = figures.plot_bars(
            "dimensions",
            dimensions,
            level=("whole embedding", masks.effective_dimension),
            x_label="cluster",
            y_label="effective dimension",
        )
    return plots


def _training_views(training: Training) -> dict[str, Any]:
    epochs = training.division_epochs
    plots = {}
    if not isinstance(training.loss, str):
        plots["Loss"] = figures.plot_curves(
            "loss", {"loss": training.loss}, y_label="loss", division_epochs=epochs
        )
    if training.scores:
        curves = {templating.score_name(name): curve for name, curve in training.scores.items()}
        plots["Scores"] = figures.plot_curves(
            "scores", curves, y_label="score", division_epochs=epochs
        )
    if not isinstance(training.images_per_second, str):
        plots["Images per second"] = figures.plot_curves(
            "speed",
            {"images/s": training.images_per_second},
            y_label="images/s",
            division_epochs=epochs,
            limits=(0, None),
        )
    return {"training_plots": plots, "total_seconds": sum(training.seconds.values())}


def _map_views(content: Map) -> dict[str, Any]:
    samples = {
        "within a class": content.distances_within,
        "between classes": content.distances_between,
    }
    return {
        "view": maps.lay_out(content),
        "distances": figures.plot_histograms("distances", samples, x_label="distance"),
    }


def _compared_plots(trainings: Mapping[str, Training | str], best_by: str) -> dict[str, Plot]:
    """Returns plots of the losses and of each score of all runs, that of `best_by` first."""
    known = {run: x for run, x in trainings.items() if not isinstance(x, str)}
    names = _score_names({run: x.scores for run, x in known.items()}, best_by)
    plots = {}
    for number, name in enumerate(names):
        curves = {run: x.scores[name] for run, x in known.items() if name in x.scores}
        title = templating.score_name(name)
        plots[title] = figures.plot_curves(f"score-{number}", curves, y_label=title)
    losses = {run: x.loss for run, x in known.items() if not isinstance(x.loss, str)}
    if losses:
        plots["Loss"] = figures.plot_curves("loss", losses, y_label="loss")
    return plots
