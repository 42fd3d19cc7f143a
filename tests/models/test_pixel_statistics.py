"""Pixels that a publisher names beside the weights are compared with those that a backbone gets."""

import json
from pathlib import Path
from typing import Any

import pytest

from dcjax.models import pixel_statistics
from dcjax.models.pixel_statistics import KNOWN

_HALF = [0.5, 0.5, 0.5]
_IMAGENET = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]
_CLIP = [[0.481, 0.458, 0.408], [0.269, 0.261, 0.276]]


def _of_hugging_face(mean: Any, std: Any) -> dict[str, Any]:
    return {"image_mean": mean, "image_std": std, "do_normalize": True}


def _of_timm(mean: Any, std: Any) -> dict[str, Any]:
    return {"architecture": "vit", "pretrained_cfg": {"mean": mean, "std": std}}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("preprocessor_config.json", _of_hugging_face),
        ("config.json", _of_timm),
    ],
)
def test_other_pixels_than_published_are_refused_with_the_flag_to_give(
    file: str, content: Any, tmp_path: Path
) -> None:
    weights = str(tmp_path / "model.safetensors")
    (tmp_path / file).write_text(json.dumps(content(_HALF, _HALF)))
    pixel_statistics.check_published(weights, KNOWN["half"])
    with pytest.raises(
        ValueError, match=rf"mean \(0.5, .*{file} .*give --config.model.pixels=half\.$"
    ):
        pixel_statistics.check_published(weights, KNOWN["imagenet"])
    (tmp_path / file).write_text(json.dumps(content(*_IMAGENET)))
    pixel_statistics.check_published(weights, KNOWN["imagenet"])
    (tmp_path / file).write_text(json.dumps(content(*_CLIP)))
    with pytest.raises(ValueError, match=r"0\.481.*: which no model.pixels is\.$"):
        pixel_statistics.check_published(weights, KNOWN["imagenet"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b"\xff",
        b"[" * 100_000,
        b'{"image_mean": null, "image_std": null}',
        b'{"image_mean": 0.5, "image_std": 0.5}',
        b'{"image_mean": ["a", "b", "c"], "image_std": [1, 1, 1]}',
        b'{"pretrained_cfg": {"mean": [0.5], "std": [0.5]}}',
        b'{"pretrained_cfg": 3, "model": {"backbone": "vit_small"}}',
    ],
)
def test_files_of_something_else_say_nothing(content: bytes, tmp_path: Path) -> None:
    for name in pixel_statistics.FILES:
        (tmp_path / name).write_bytes(content)
    pixel_statistics.check_published(str(tmp_path / "weights.pth"), KNOWN["imagenet"])
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").mkdir()
    pixel_statistics.check_published(str(tmp_path / "weights.pth"), KNOWN["imagenet"])
