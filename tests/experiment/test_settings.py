"""Every setting has a rule; a value that violates it gives a one-line error naming the setting."""

import copy
import math
from typing import Any

import pytest
from ml_collections import ConfigDict

from configs import default
from dcjax import losses
from dcjax.core.errors import SettingError
from dcjax.experiment import same_run, settings
from dcjax.experiment.settings import Flag, Names, Number, OneOf, Rule, Several, Text, Whole
from dcjax.losses import mining

_TREE = default.get_config().to_dict()
_DEFAULTS = same_run.flatten(_TREE)
_OF_NO_TYPE = (None, {}, b"1", object())
_MINER = mining.create("all")


def bad_values(rule: Rule) -> list[Any]:
    """Returns values of other types, and values just and far beyond the bounds of a rule."""
    match rule:
        case Flag():
            return [*_OF_NO_TYPE, 0, 1, "True", "", []]
        case Whole(low, high):
            beyond = [low - 1, high + 1, -(10**12), 10**12, 10**400]
            return [
                *_OF_NO_TYPE,
                *beyond,
                float(low),
                math.nan,
                math.inf,
                str(low),
                "",
                True,
                [low],
            ]
        case Number(low, high):
            beyond = [low - 1e-6, high * 1.001 + 1e-6, -1e12, 1e12, 10**400]
            of_type = [math.nan, math.inf, -math.inf, str(high), "", True, [high]]
            return [*_OF_NO_TYPE, *beyond, *of_type]
        case Several(each, least, most, ascends):
            one = each.low
            lengths = [[one] * (most + 1), *([[one] * (least - 1)] if least else [])]
            inner = [[value] * max(least, 1) for value in bad_values(each)]
            order = [[each.high, each.low]] if ascends else []
            return [*_OF_NO_TYPE, *lengths, *inner, *order, one, str(one), ""]
        case OneOf():
            word = rule.known[0]
            return [*_OF_NO_TYPE, "", f"{word}s", word.upper(), f" {word}", [word], 0, True]
        case Names():
            return [*_OF_NO_TYPE, 0, True, "x", "", [""], [1], ["x", "x"], ["a\0b"], [["x"]]]
        case Text():
            return [*_OF_NO_TYPE, 0, True, ["x"], "a\0b"]
    raise AssertionError(rule)


class _Holding:
    """Settings that a `ConfigDict` would refuse but a file may contain."""

    def __init__(self, **changes: Any) -> None:
        self._tree = copy.deepcopy(_TREE)
        for name, value in changes.items():
            *groups, last = name.split(".")
            inner = self._tree
            for group in groups:
                inner = inner[group]
            inner[last] = value

    def to_dict(self) -> dict[str, Any]:
        return self._tree


def test_every_setting_has_a_rule_that_its_default_satisfies() -> None:
    assert settings.RULES.keys() == _DEFAULTS.keys()
    settings.check(default.get_config())


def test_every_bad_value_is_refused_in_one_line_naming_its_setting() -> None:
    passed, unclear = [], []
    for name, rule in settings.RULES.items():
        for value in bad_values(rule):
            try:
                settings.check(_Holding(**{name: value}))  # type: ignore[arg-type]
            except SettingError as error:
                text = str(error)
                if name not in text or len(text.splitlines()) != 1 or error.exit_code != 2:
                    unclear.append((name, value, text))
            else:
                passed.append((name, value))
    assert not passed
    assert not unclear


def test_rules_are_printed_with_readable_bounds() -> None:
    assert str(Whole(0, 2**31 - 1)) == "a whole number from 0 to 2147483647"
    assert str(Number(1e-6, math.pi / 2)) == "a number from 1e-06 to 1.5708"


def test_bounds_themselves_are_allowed() -> None:
    for name, rule in settings.RULES.items():
        ends = {
            Whole: lambda r: [r.low, r.high],
            Number: lambda r: [r.low, r.high],
            OneOf: lambda r: [*r.known, *(["mine.parts:make"] if r.or_custom else [])],
            Flag: lambda _: [True, False],
            Text: lambda _: ["", "ä b"],
            Names: lambda _: [[], ("a", "b c"), ["ä"]],
            Several: lambda r: [[r.each.low] * r.least, (r.each.low,) * r.most],
        }[type(rule)](rule)
        for value in ends:
            settings.check(_Holding(**{name: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", losses.KNOWN)
def test_losses_accept_all_values_that_their_rules_allow(name: str) -> None:
    options = {
        key.rpartition(".")[2]: rule
        for key, rule in settings.RULES.items()
        if key.startswith(f"loss.{name}.")
    }
    defaults = {key: _DEFAULTS[f"loss.{name}.{key}"] for key in options}
    for key, rule in options.items():
        for value in getattr(rule, "known", ()) or (
            getattr(rule, "low", 1),
            getattr(rule, "high", 2),
        ):
            chosen = defaults | ({key: value} if not isinstance(rule, Several) else {})
            if "miner" in chosen:
                chosen["miner"] = _MINER
            if key == "least_margin":
                chosen["margin"] = 0.0  # the bound is that of their sum
            losses.create(name, num_classes=3, embedding_dim=4, class_sizes=[1, 2, 30], **chosen)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.num_epoch": 3}, "no setting train.num_epoch; the nearest is train.num_epochs"),
        ({"sedd": 3}, "no setting sedd; the nearest is seed"),
        ({"train": 5}, "no setting train"),
        ({"loss.custom": 5}, "no setting loss.custom"),
        ({"paper": 5}, "no setting paper"),
        ({"paper.nmi": 101.0}, "paper.nmi must be a number from 0 to 100, got 101.0"),
        ({"loss.own": 5}, "no setting loss.own; it is loss.custom now"),
    ],
)
def test_unknown_setting_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        settings.check(_Holding(**changes))  # type: ignore[arg-type]


def test_options_of_custom_parts_are_unrestricted() -> None:
    config = default.get_config()
    with config.unlocked():
        config.loss.custom = ConfigDict({"anything": None, "inner": {"x": [1]}})
    settings.check(config)


def test_missing_setting_is_refused() -> None:
    config = _Holding()
    del config.to_dict()["train"]["num_epochs"]
    with pytest.raises(ValueError, match=r"got none for train.num_epochs"):
        settings.check(config)  # type: ignore[arg-type]
