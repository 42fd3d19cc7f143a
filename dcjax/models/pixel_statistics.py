"""The mean and deviation of pixels that a backbone expects: those its weights were trained with."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dcjax.core.errors import InputError

# What publishers say of the pixels stands beside the weights: Hugging Face's file, and timm's.
FILES = ("preprocessor_config.json", "config.json")
_MOST_BYTES = 1_000_000  # such a file has a few hundred
_TOLERANCE = 1e-3  # of values that are published with three digits or more


class Statistics(NamedTuple):
    """Mean and deviation of red, green and blue, of pixels from 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


KNOWN: Mapping[str, Statistics] = {
    "imagenet": Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
SETTINGS = ("auto", *KNOWN)


def check_published(path: str, statistics: Statistics) -> None:
    """Checks that the pixels are those which the publisher of weights names in a file beside them.

    Args:
      path: of the weights.
      statistics: what the backbone gets.

    Raises:
      InputError: naming both, if they differ.
    """
    for name in FILES:
        published = _published(pathlib.Path(path).with_name(name))
        if published is None or np.allclose(published, statistics, rtol=0, atol=_TOLERANCE):
            continue
        fitting = [
            f"--config.model.pixels={known}"
            for known, values in KNOWN.items()
            if np.allclose(published, values, rtol=0, atol=_TOLERANCE)
        ]
        raise InputError(
            f"The weights in {path} expect pixels of mean {published.mean} and deviation "
            f"{published.std}, by {name} beside them, but the backbone gets those of mean "
            f"{statistics.mean} and deviation {statistics.std}: "
            f"{f'give {fitting[0]}' if fitting else 'which no model.pixels is'}."
        )


def _published(file: pathlib.Path) -> Statistics | None:
    """Returns what a file says; None if there is none or it says nothing of the pixels."""
    try:
        if not file.is_file() or file.stat().st_size > _MOST_BYTES:
            return None
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):  # it is of something else
        return None
    if not isinstance(content, dict):
        return None
    inner = content.get("pretrained_cfg")
    if isinstance(inner, dict):  # timm's
        return _statistics(inner.get("mean"), inner.get("std"))
    return _statistics(content.get("image_mean"), content.get("image_std"))


def _statistics(mean: Any, std: Any) -> Statistics | None:
    def is_color(values: Any) -> bool:
        return (
            isinstance(values, Sequence)
            and len(values) == 3
            and all(isinstance(x, int | float) for x in values)
        )

    return Statistics(tuple(mean), tuple(std)) if is_color(mean) and is_color(std) else None
