"""docs/losses.md: its list of losses, and its code for library users, run unchanged."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dcjax import losses

_ROOT = Path(__file__).parents[1]
_PAGE = (_ROOT / "docs" / "losses.md").read_text()


def test_list_has_every_loss_and_readme_their_number() -> None:
    listed, _, _ = _PAGE.partition("```")
    assert set(re.findall(r"`([a-z_]+)`", listed)) == set(losses.KNOWN)
    row = f"| losses | [{len(losses.KNOWN)}](docs/losses.md)"
    assert row in (_ROOT / "README.md").read_text()


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
