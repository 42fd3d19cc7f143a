"""The code of docs/losses.md for library users, run unchanged."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

_PAGE = (Path(__file__).parents[1] / "docs" / "losses.md").read_text()


def test_example_computes_a_loss() -> None:
    blocks = re.findall(r"```python\n(.*?)```", _PAGE, re.S)
    (lines,) = (block for block in blocks if "losses.create(" in block)
    key = jax.random.key(0)
    raw = jax.random.normal(key, (8, 512))
    names: dict[str, Any] = {
        "key": key,
        "embeddings": raw / np.linalg.norm(raw, axis=1, keepdims=True),
        "labels": np.arange(8) // 2,
    }
    exec(lines, names)
    assert names["value"] > 0
    assert names["stats"]["own_similarity"] < 1
