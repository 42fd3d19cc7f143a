"""Scores of embeddings from elsewhere: those of the metrics, and errors in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import default
from dcjax.core.errors import FileError, InputError, SettingError
from dcjax.modes.score import score
from dcjax.retrieval import metrics

_GENERATOR = np.random.default_rng(0)
_VECTORS = _GENERATOR.normal(size=(40, 6)).astype(np.float32)
_LABELS = _GENERATOR.integers(0, 5, 40)


def _write(path: Path, rows: Any = slice(None), **columns: Any) -> str:
    np.save(path, _VECTORS[rows])
    columns = {"label": _LABELS[rows], **columns}
    lines = [
        ",".join(columns),
        *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True)),
    ]
    path.with_suffix(".csv").write_text("\n".join(lines))
    return str(path)


def test_scores_are_those_of_the_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _write(tmp_path / "x.npy")
    expected = metrics.score(_VECTORS, _LABELS)
    assert score([path], default.get_config()) == expected
    told = capsys.readouterr().out
    assert "not 1: scores are by Euclidean distance; --normalize" in told
    assert f"{expected['map_at_r']:.4f}" in told
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found == {"embeddings": [path], "images": 40, "scores": expected}

    unit = _VECTORS / np.linalg.norm(_VECTORS.astype(np.float64), axis=1)[:, None]
    expected = metrics.score(unit.astype(np.float32), _LABELS)
    assert score([path], default.get_config(), normalize=True) == expected
    assert "lengths" not in capsys.readouterr().out


def test_two_files_are_queries_and_a_gallery_of_the_same_classes(tmp_path: Path) -> None:
    order = np.argsort(_LABELS)  # the gallery lacks the first classes: numbers are not the same
    query, gallery = order[::2], order[15::2]
    files = [_write(tmp_path / "q.npy", query), _write(tmp_path / "g.npy", gallery)]
    expected = metrics.score(_VECTORS[query], _LABELS[query], _VECTORS[gallery], _LABELS[gallery])
    assert score(files, default.get_config()) == expected
    split = np.where(np.isin(np.arange(40), gallery), "gallery", "query")
    one = _write(tmp_path / "one.npy", split=split)
    is_query = split == "query"
    expected = metrics.score(
        _VECTORS[is_query], _LABELS[is_query], _VECTORS[~is_query], _LABELS[~is_query]
    )
    assert score([one], default.get_config()) == expected
    same = _write(tmp_path / "same.npy", split=["test"] * 40)
    assert score([same], default.get_config()) == metrics.score(_VECTORS, _LABELS)


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    config = default.get_config()
    three = np.resize(["train", "query", "gallery"], 40)
    with pytest.raises(InputError, match=r"column split, .* got gallery, query, train"):
        score([_write(tmp_path / "x.npy", split=three)], config)
    with pytest.raises(InputError, match="two classes or more"):
        score([_write(tmp_path / "x.npy", label=range(40))], config)
    config.eval.ks = (1, 40)
    with pytest.raises(InputError, match=r"--ks must lie in 1 to 39, .* got \(1, 40\)"):
        score([_write(tmp_path / "x.npy")], config)
    config.eval.ks = (1,)
    config.eval.protocol = "gallery"
    with pytest.raises(InputError, match="there is one of its own"):
        score([_write(tmp_path / "x.npy"), str(tmp_path / "x.npy")], config)
    config.eval.gallery_draws = 0
    with pytest.raises(SettingError, match=r"eval\.gallery_draws"):
        score([str(tmp_path / "x.npy")], config)
    assert not (tmp_path / "scores.json").exists()


def test_scores_of_a_run_are_not_overwritten(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.npy")
    (tmp_path / "scores.json").write_text('{"last": {}}')
    with pytest.raises(FileError, match=r"scores\.json holds other scores.*--output"):
        score([path], default.get_config())
    assert (tmp_path / "scores.json").read_text() == '{"last": {}}'
