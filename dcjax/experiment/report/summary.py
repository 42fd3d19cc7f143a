"""Is it good? Scores beside those before training and a paper's, and how the run was made."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from dcjax.core import plugins
from dcjax.experiment import same_run, sentences, versions
from dcjax.experiment.embedder import Embedder
from dcjax.experiment.report import training
from dcjax.experiment.report.saved import Saved
from dcjax.pages import content
from dcjax.runs import curves
from dcjax.runs.progress import Scores

_UNTRAINED = "untrained features"
_PAPER = "the paper"
_THRESHOLD = "threshold_at_fmr_"
# Groups of the curves that the untrained network has, and the names of their rows.
_BEFORE = {
    "backbone_features": _UNTRAINED,
    "backbone_features_validation_classes": f"{_UNTRAINED}, on validation classes",
    "raw_pixels": "raw pixels",
}


def collect(run: Embedder, saved: Saved, scores: Scores) -> content.Summary:
    """Returns the summary of a run.

    Args:
      run: restored.
      saved: what it has saved.
      scores: of its test images as they are evaluated now, or else those recorded.
    """
    config, progress = run.config, saved.progress
    rows: dict[str, Mapping[str, float]] = {}
    if scores:
        rows[_row_name(saved)] = scores
    if run.validation_scores:
        rows[f"{_row_name(saved)}, on validation classes"] = run.validation_scores
    if saved.is_scored_as(config):
        if saved.last.chosen_scores:
            progress = saved.last
            rows |= _other_epochs(saved)
        if progress.best_scores:
            rows[sentences.name_best(progress.best_epoch)] = progress.best_scores
        rows |= _before_training(saved)
    if config.paper:
        rows[_PAPER] = {name: percent / 100 for name, percent in config.paper.items()}
    return content.Summary(
        sentences=_sentences(rows, scores),
        scores=rows,
        best_by=config.eval.best_by,
        facts=_facts(run, saved),
        settings=_settings(config),
    )


def _row_name(saved: Saved) -> str:
    progress = saved.progress
    if progress.epoch_step:
        return progress.describe()
    if saved.is_choice:
        return sentences.name_chosen(progress.epoch)
    return sentences.name_last(progress.epoch) if saved.is_last else f"epoch ({progress.epoch})"


def _other_epochs(saved: Saved) -> dict[str, Scores]:
    """Returns the recorded scores of the last epoch, or of that which validation chooses."""
    last, rows = saved.last, {}
    if not saved.is_choice:
        rows[sentences.name_chosen(last.chosen_epoch)] = last.chosen_scores
    if not saved.is_last:
        rows[sentences.name_last(last.epoch)] = last.scores
    return rows


def _before_training(saved: Saved) -> dict[str, Scores]:
    """Returns the scores of the untrained network, if they were recorded."""
    rows = {name: curves.last_values(saved.curves, group) for group, name in _BEFORE.items()}
    return {name: scores for name, scores in rows.items() if scores}


def _sentences(rows: Mapping[str, Mapping[str, float]], scores: Scores) -> list[str]:
    """Says in words what the scores of a run mean."""
    name, text = sentences.describe_recall(scores, rows.get(_UNTRAINED, {}))
    if not name:
        return ["The run has no scores yet."]
    said = [f"{text}."]
    if name in rows.get(_PAPER, {}):
        said.append(
            f"The paper that the settings follow has {100 * rows[_PAPER][name]:.0f} of 100."
        )
    if "r_precision" in scores:
        said.append(
            "Among a query's nearest images, as many as its class has others, "
            f"{100 * scores['r_precision']:.0f} of 100 are of that class."
        )
    for name, distance in scores.items():
        if name.startswith(_THRESHOLD):
            rate = name.removeprefix(_THRESHOLD)
            said.append(
                f"Images {distance:.4f} or more apart are no match: of pairs of different classes "
                f"at most {100 * float(rate):g} % are nearer, of pairs of one class "
                f"{100 * scores[f'fnmr_at_fmr_{rate}']:.1f} % are not."
            )
    return said


def _facts(run: Embedder, saved: Saved) -> list[tuple[str, str]]:
    config = run.config
    sets = [
        f"{run.data[key]['images']:,} {what} images of {run.data[key]['classes']:,} classes"
        for key, what in same_run.SETS.items()
        if key in run.data
    ]
    model, loss = config.model, config.loss
    miner = "" if plugins.is_custom(loss.name) else loss[loss.name].get("miner", "")
    return [
        ("data", f"{config.dataset.name}: {', '.join(sets)}"),
        (
            "network",
            f"{model.backbone}, from {model.pretrained or 'random weights'}; embedding of "
            f"{model.embedding_dim} numbers",
        ),
        ("loss", f"{loss.name}{miner and f', miner {miner}'}"),
        ("protocol", _protocol(config.eval, has_gallery="gallery" in run.data)),
        ("checkpoint", f"{saved.number}, {_choice(saved)}"),
        *training.facts(saved),
    ]


def _choice(saved: Saved) -> str:
    """Says how the reported checkpoint was chosen."""
    if saved.is_choice:
        return f"the best by {saved.config.eval.best_by} of the validation classes"
    return "the last" if saved.is_last else "neither the last nor the best by validation classes"


def _protocol(settings: ConfigDict, *, has_gallery: bool) -> str:
    if settings.protocol != "gallery":
        searched = "the gallery" if has_gallery else "all others"
        left_out = " without images of its class and camera"
        return f"each test image searches {searched}" + (
            left_out if settings.protocol == "cross_camera" else ""
        )
    return f"a gallery of one random image of each class, the mean of {settings.gallery_draws}"


def _settings(config: ConfigDict) -> list[content.Setting]:
    """Returns all settings, those that differ from their default first."""
    defaults = same_run.flatten(versions.default_settings())
    values = same_run.flatten(config.to_dict())
    settings = [
        content.Setting(name, str(value), str(defaults[name]) if name in defaults else None)
        for name, value in sorted(values.items())
        if not name.startswith("paper.")
    ]
    return sorted(settings, key=lambda setting: setting.value == setting.default)
