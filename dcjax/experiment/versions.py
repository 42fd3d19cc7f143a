"""The formats of saved runs, and the upgrade of their settings to the current one.

`config.json` and the checkpoints of a run have the number of their format. CHANGES lists what each
format changed, with the value by which an older run behaves for each setting that it lacks.
"""

import dataclasses
import functools
import json
import runpy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from dcjax.core.errors import InputError, nearest
from dcjax.experiment import shipped_configs

FORMAT = "format"  # key of the number in config.json, beside the settings


@dataclasses.dataclass(frozen=True)
class Change:
    """How one format differs from the one before.

    Attributes:
      added: new settings, by dotted name, each with the value that older runs behaved like.
      renamed: names of settings or groups before, each with the name now.
      removed: settings that are gone, each with the value that runs behave like now; a run that was
        saved with another value cannot be read.
    """

    added: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    removed: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# One for each format from 2 on, the first whose number is saved. A new setting of
# configs/default.py is a line in the last change; after a release, a new change begins.
CHANGES: tuple[Change, ...] = (
    Change(
        added={
            "dataset.feature_views": 0,
            "dataset.features": "",
            "dataset.max_pixels": 0,
            "division.start": "random",
            "eval.dims": (),
            "loss.arcface.least_margin": 0.0,
            "loss.arcface.size_exponent": 0.0,
            "loss.circle.gamma": 80.0,
            "loss.circle.margin": 0.4,
            "loss.circle.miner": "all",
            "loss.matryoshka": (),
            "loss.sub_center_arcface.centers": 3,
            "loss.sub_center_arcface.least_margin": 0.0,
            "loss.sub_center_arcface.margin": 0.5,
            "loss.sub_center_arcface.scale": 64.0,
            "loss.sub_center_arcface.size_exponent": 0.0,
            "eval.fmr": (),
            "eval.rerank": False,
            "eval.reranking.k1": 20,
            "eval.reranking.k2": 6,
            "eval.reranking.original_weight": 0.3,
            "dataset.validation_classes": 0.0,
            "dataset.validation_fold": 0,
            "dataset.validation_list": (),
            "dataset.validation_unit": "class",
            "model.chunk_size": 0,
            "model.embedding_init": "torch",
            "model.last_blocks": 1,
            "model.pixels": "auto",
            "model.rematerialize": False,
            "model.train": "all",
            "model.vit.attention": "auto",
            "model.vit.layer_scale": True,
            "model.vit.mlp": "gelu",
            "model.vit.patch_size": 14,
            "model.vit.registers": 0,
            "sampling.epoch_steps": 0,
            "optimizer.adam.beta1": 0.9,
            "optimizer.adam.beta2": 0.999,
            "optimizer.adam.epsilon": 1e-8,
            "optimizer.adamw.beta1": 0.9,
            "optimizer.adamw.beta2": 0.999,
            "optimizer.adamw.epsilon": 1e-8,
            "optimizer.clip_norm": 0.0,
            "optimizer.final_share": 0.0,
            "optimizer.layer_decay": 1.0,
            "optimizer.lion.beta1": 0.9,
            "optimizer.lion.beta2": 0.99,
            "optimizer.name": "adam",
            "optimizer.schedule": "constant",
            "optimizer.sgd.momentum": 0.9,
            "optimizer.sgd.nesterov": False,
            "optimizer.step_epochs": (),
            "optimizer.step_factor": 0.1,
            "optimizer.warmup_epochs": 0.0,
            "train.ema_decay": 0.0,
            "train.num_steps": 0,
            "train.refit": False,
            "train.report": True,
            "train.stop_after": 0,
            "train.until_epoch": 0,
            "paper": {},
        },
        renamed={
            "model.own": "model.custom",
            "loss.own": "loss.custom",
            "mining.own": "mining.custom",
            "sampling.chunk_size": "model.chunk_size",
        },
    ),
)


def current() -> int:
    """Returns the number of the format that runs are saved in."""
    return 1 + len(CHANGES)


def upgrade(
    settings: Any, version: Any, source: str, *, known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns the settings of a saved run in the current format.

    Args:
      settings: nested, as they were saved.
      version: number of their format, 1 where none was saved.
      source: what they were read from, for messages.
      known: the caller's settings, which may include some that configs/default.py does not have.

    Returns:
      New nested settings, sequences as tuples.

    Raises:
      InputError: if a newer version saved the run, or it lacks settings.
    """
    if not isinstance(settings, Mapping) or type(version) is not int or version < 1:
        raise InputError(
            f"{source} must hold settings and the number of their format, got format {version!r}; "
            "it is damaged."
        )
    if version > current():
        raise InputError(
            f"{source} was saved by a newer version of dcjax, in format {version}; this version "
            f"reads formats up to {current()}: use the newer one."
        )
    new = _copy(settings)
    # Its own format included: the run may have been saved before that had all of its settings.
    for change in CHANGES[max(version - 2, 0) :]:
        _apply(change, new, source)
    default = default_settings()
    if missing := sorted(_names_missing_in(default, new)):
        raise InputError(
            f"{source} lacks settings that every version of dcjax saves: {', '.join(missing)}; it "
            "is damaged, or was edited."
        )
    if unknown := sorted(
        x for x in _names_missing_in(new, default) if not _contains(known or {}, x)
    ):
        raise InputError(
            f"{source} has settings that this version of dcjax does not know, as a newer version "
            f"saves them: {', '.join(unknown)}; use that version, or, if they are additions of "
            "your config, give that."
        )
    return new


def hint(name: str, known: Collection[str]) -> str:
    """Returns "; it is X now" for a setting that was renamed, else what `errors.nearest` does.

    Args:
      name: which is no setting.
      known: the settings that there are.
    """
    for change in CHANGES:
        for before, now in change.renamed.items():
            if f"{name}.".startswith(f"{before}."):
                new = f"{now}{name.removeprefix(before)}"
                is_there = any(f"{each}.".startswith(f"{new}.") for each in known)
                return f"; it is {new} now{'' if is_there else ', which the config does not have'}"
    return nearest(name, known)


def names_ending_in(key: str) -> dict[str, str]:
    """Returns the renamed settings whose last name was this one, each with its name now."""
    renamed = {before: now for change in CHANGES for before, now in change.renamed.items()}
    return {before: now for before, now in renamed.items() if before.split(".")[-1] == key}


def dump(settings: Mapping[str, Any]) -> str:
    """Returns the content of `config.json`."""
    return json.dumps({FORMAT: current(), **settings}, indent=1) + "\n"


def parse(content: Any, source: str, *, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the settings in the JSON value of a `config.json`, see `upgrade`."""
    settings = dict(content) if isinstance(content, Mapping) else None
    version = settings.pop(FORMAT, 1) if settings else None
    return upgrade(settings, version, source, known=known)


def _apply(change: Change, settings: dict[str, Any], source: str) -> None:
    for name, value in change.removed.items():
        if _contains(settings, name) and (saved := _pop(settings, name)) != _copy(value):
            raise InputError(
                f"{source} was saved with {name}={saved!r}, which this version of dcjax does not "
                f"have any more: runs behave as with {value!r}; use the version that saved it."
            )
    for before, now in change.renamed.items():
        if _contains(settings, before):
            _put(settings, now, _pop(settings, before))
    for name, value in change.added.items():
        if not _contains(settings, name):
            _put(settings, name, _copy(value))


@functools.cache
def default_settings() -> dict[str, Any]:
    """Returns the settings of configs/default.py, by its path: users may have a `configs` too."""
    default = shipped_configs.folder() / "default.py"
    return runpy.run_path(str(default))["get_config"]().to_dict()


def _names_missing_in(
    settings: Mapping[str, Any], others: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """Yields the names of settings that others lack; a group that is empty there may hold any."""
    for key, value in settings.items():
        if key not in others:
            yield prefix + key
        elif isinstance(value, Mapping) and isinstance(others[key], Mapping) and others[key]:
            yield from _names_missing_in(value, others[key], f"{prefix}{key}.")


def _copy(settings: Any) -> Any:
    if isinstance(settings, Mapping):
        return {key: _copy(value) for key, value in settings.items()}
    return tuple(settings) if isinstance(settings, list) else settings


def _contains(settings: Any, name: str) -> bool:
    for key in name.split("."):
        if not isinstance(settings, Mapping) or key not in settings:
            return False
        settings = settings[key]
    return True


def _group(settings: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """Returns the group that a setting is in, made where there is none, and its last name."""
    *groups, last = name.split(".")
    for group in groups:
        # A value in place of a group counts as an empty group, whose settings are missing.
        if not isinstance(settings.get(group), dict):
            settings[group] = {}
        settings = settings[group]
    return settings, last


def _pop(settings: dict[str, Any], name: str) -> Any:
    group, last = _group(settings, name)
    return group.pop(last)


def _put(settings: dict[str, Any], name: str, value: Any) -> None:
    group, last = _group(settings, name)
    group[last] = value
