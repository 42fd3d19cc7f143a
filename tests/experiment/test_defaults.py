"""Defaults are defined in signatures; configs/default.py keeps its golden values."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import default
from dcjax import losses
from dcjax.core import options
from dcjax.experiment import parts
from dcjax.losses import mining
from dcjax.losses.pairs import compare

_GOLDEN = Path(__file__).parents[1] / "golden" / "default_settings.txt"
_KEY = jax.random.key(0)
_RAW = jax.random.normal(_KEY, (12, 8))
_X, _LABELS = _RAW / jnp.linalg.norm(_RAW, axis=1, keepdims=True), jnp.arange(12) // 3


def _lines(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _lines(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key} = {value!r}"  # distinguishes 1 from 1.0


def test_default_settings_equal_the_golden_ones_in_name_value_and_type() -> None:
    assert list(_lines(default.get_config().to_dict())) == _GOLDEN.read_text().splitlines()


def test_default_options_of_each_loss_equal_the_default_config() -> None:
    config = default.get_config()
    config.model.embedding_dim = 8
    for config.loss.name in losses.KNOWN:
        configured = parts.create_loss(config, np.ones(4, int))
        by_default = losses.create(config.loss.name, num_classes=4, embedding_dim=8)
        actual, expected = (
            loss.apply(loss.init(_KEY), _X, _LABELS, _KEY) for loss in (by_default, configured)
        )
        jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_miner_is_given_by_name_or_as_a_function() -> None:
    def value(miner: Any) -> Any:
        loss = losses.create("margin", num_classes=4, embedding_dim=8, miner=miner)
        return loss.apply({}, _X, _LABELS, _KEY)[0]

    assert value("all") == value(mining.create("all")) != value("hard")
    assert value("distance_weighted") == value(mining.create("distance_weighted", cutoff=0.5))


def test_default_options_of_each_miner_equal_the_default_config() -> None:
    config, compared = default.get_config(), compare(_X, _LABELS)
    for name in mining.KNOWN:
        actual = mining.create(name)(_KEY, compared)
        given = {option: config.mining[option] for option in mining.options_of(name)}
        expected = mining.create(name, **given)(_KEY, compared)
        jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_miners_share_the_defaults_of_common_options() -> None:
    shared: dict[str, set[Any]] = {}
    for make in mining.MINERS.values():
        for name, value in options.of(make).items():
            shared.setdefault(name, set()).add(value)
    assert not {name: values for name, values in shared.items() if len(values) > 1}
