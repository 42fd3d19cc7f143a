"""The guide's own loss, miner and backbone train, from its text as it stands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcjax import losses, masks, mining, models, plugins

_ROOT = Path(__file__).parents[1]
_GUIDE = (_ROOT / "docs" / "extending.md").read_text()


def test_the_guides_parts_train(tmp_path):
    parts, config, _ = re.findall(r"```python\n(.*?)```", _GUIDE, re.S)
    (command,) = re.findall(r"```\n(python .*?)\n```", _GUIDE)
    (tmp_path / "my_parts.py").write_text(parts)
    (tmp_path / "my_config.py").write_text(config)
    program, *flags = command.split()[1:]
    flags += ["--config.train.num_epochs=3", "--config.loss.memory_size=128", "--workdir=run"]
    done = subprocess.run(
        [sys.executable, str(_ROOT / program), *flags],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{_ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    curve = [json.loads(line) for line in lines if "train/boundary" in line]
    # The parameter of the loss is trained, and the network too: beyond chance, 0.2.
    assert abs(curve[-1]["train/boundary"] - 0.5) > 0.01
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["last"]["recall_at_1"] > 0.8


def test_the_guides_proxies_take_the_mask(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    *_, proxies = re.findall(r"```python\n(.*?)```", _GUIDE, re.S)
    (tmp_path / "my_proxies.py").write_text(proxies)
    own = losses.create("my_proxies:proxies", num_classes=5, embedding_dim=8, scale=20.0)
    ours = losses.create("normalized_softmax", num_classes=5, embedding_dim=8, temperature=0.05)
    key, mask = jax.random.key(0), jnp.arange(8.0)
    x = masks.apply(jax.random.normal(key, (6, 8)), mask)
    params, labels = own.init(key), jnp.arange(6) % 5
    for given in (mask, None):
        found, expected = (loss.apply(params, x, labels, key, mask=given) for loss in (own, ours))
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)


def test_a_name_that_leads_nowhere_says_so(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "others.py").write_text("def one(**options):\n    return 1\n")
    for name in ("nowhere:part", "nowhere.at_all:part", ":part", "..above:part"):
        with pytest.raises(ValueError, match=f"can be imported, got '{name}'"):
            losses.create(name, num_classes=2, embedding_dim=2)
    with pytest.raises(ValueError, match="Require a function 'nothing' in others"):
        losses.create("others:nothing", num_classes=2, embedding_dim=2)
    with pytest.raises(ValueError, match="others:one must return a Loss, got a int"):
        losses.create("others:one", num_classes=2, embedding_dim=2)
    with pytest.raises(ValueError, match="others:one must return a Callable, got a int"):
        mining.create("others:one")
    with pytest.raises(ValueError, match="others:one must return a Module, got a int"):
        models.create(
            "others:one",
            num_stages=0,
            width=0,
            batch_norm="",
            convolution="",
            own={},
            pooling="average",
        )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import no_such_package", ModuleNotFoundError),
        ("import math; math.nothing", AttributeError),
        ("def part(**_): return len(0)", TypeError),
    ],
)
def test_a_fault_within_is_shown_as_it_is(text, error, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"has_{error.__name__}.py").write_text(text)
    with pytest.raises(error):
        mining.create(f"has_{error.__name__}:part")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("e", r"must return a scalar and a dict of scalars, got the shapes \(4, 2\)"),
        ("(e.sum(1), {})", r"got the shapes \(\(4,\), \{\}\)"),
        ("(e.sum(), {'norm': e})", r"\{'norm': \(4, 2\)\}"),
        ("(e.sum(), {'loss': e.sum()})", "must not call a scalar 'loss'"),
    ],
)
def test_a_loss_returns_a_scalar_and_scalars(output, message, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"returns_{abs(hash(output))}"
    text = f"def loss(**_):\n    return Loss(lambda k: {{}}, lambda p, e, y, k: {output})\n"
    (tmp_path / f"{name}.py").write_text(f"from dcjax.losses import Loss\n{text}")
    loss = losses.create(f"{name}:loss", num_classes=2, embedding_dim=2)
    with pytest.raises(ValueError, match=message):
        loss.apply({}, jnp.ones((4, 2)), jnp.zeros(4, int), jax.random.key(0))


def test_a_loss_takes_what_there_is(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = (
        "from dcjax.losses import Loss\ndef loss(**_):\n    return Loss(dict, dict, ('masks',))\n"
    )
    (tmp_path / "takes_too_much.py").write_text(text)
    with pytest.raises(ValueError, match=r"may take mask and memory besides, got \('masks',\)"):
        losses.create("takes_too_much:loss", num_classes=2, embedding_dim=2)


def test_options_that_do_not_fit_are_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "part_of_mine.py").write_text("def miner(*, cutoff):\n    return max\n")
    with pytest.raises(ValueError, match=r"gets the options cut: missing .*'cutoff'"):
        mining.create("part_of_mine:miner", cut=1.0)
    assert mining.create("part_of_mine:miner", cutoff=1.0)
    assert plugins.is_own("a:b")
    assert not plugins.is_own("margin")
