"""Runs saved by older versions of dcjax are continued; those of newer versions are refused."""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from forks import Fork, launch
from ml_collections import ConfigDict

import dcjax
from configs import default, digits
from dcjax.core.errors import InputError, SettingError
from dcjax.experiment import config_files, same_run, settings, versions
from dcjax.experiment.versions import Change
from dcjax.modes import command_line, evaluate, sweeps
from dcjax.modes.train import train
from dcjax.runs.checkpoints import Checkpoints

_GOLDEN = Path(__file__).parents[1] / "golden" / "run_of_format_1.zip"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Two epochs of a tiny network on digits, saved before runs recorded their format."""
    with zipfile.ZipFile(_GOLDEN) as file:
        file.extractall(tmp_path / "saved")
    return tmp_path / "saved"


def _content(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "config.json").read_text())


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> ConfigDict:
    """Simulates a version with one more setting; returns its default settings."""
    config = default.get_config()
    with config.unlocked():
        config.model.added = (7,)
    monkeypatch.setattr(versions, "CHANGES", (*versions.CHANGES, Change({"model.added": (7,)})))
    monkeypatch.setattr(versions, "default_settings", config.to_dict)
    rule = settings.Several(settings.Whole(1, 9), 1, 1)
    monkeypatch.setattr(settings, "RULES", {**settings.RULES, "model.added": rule})
    return config


def test_settings_added_since_the_first_format_are_in_the_table() -> None:
    with zipfile.ZipFile(_GOLDEN) as file:
        first = json.loads(file.read("config.json"))
    upgraded = same_run.flatten(versions.upgrade(first, 1, "golden"))
    assert upgraded.keys() == same_run.flatten(default.get_config().to_dict()).keys()
    assert same_run.flatten(first).items() <= upgraded.items()


def test_run_without_a_new_setting_is_evaluated_and_continued(
    saved: Path, newer: ConfigDict, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = json.loads((saved / "scores.json").read_text())["last"]
    embedder = dcjax.load(str(saved))
    assert embedder.config.model.added == (7,)
    actual = embedder.evaluate()
    assert actual == {name: pytest.approx(scores[name], abs=0.01) for name in actual}

    config = ConfigDict(versions.parse(_content(saved), str(saved)))
    assert sweeps.Run(saved, config, ()).result() is not None
    evaluate.compare([str(saved)], config)
    assert "epoch 2" in capsys.readouterr().out
    other = config.copy_and_resolve_references()
    other.model.added = (8,)
    for refused in (dcjax.load, lambda path, config: train(config, path)):
        with pytest.raises(InputError, match=r"model.added=\[8\] \(saved: \[7\]\)"):
            refused(str(saved), other)

    config.train.num_epochs = 3
    assert train(config, str(saved)) is not None
    assert _content(saved)["format"] == versions.current()
    checkpoints = Checkpoints(str(saved), read_only=True)
    meta = checkpoints.meta(checkpoints.number("last"))
    assert meta["format"] == versions.current()
    assert meta["config"]["model"]["added"] == [7]
    assert "format" not in dcjax.load(str(saved)).config


def test_run_of_a_newer_version_is_refused_by_every_reader(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ConfigDict(versions.parse(_content(saved), str(saved)))
    readers = (
        lambda: dcjax.load(str(saved)),
        lambda: dcjax.load(str(saved), config),
        lambda: train(config, str(saved)),
        lambda: sweeps.Run(saved, config, ()).result(),
    )
    monkeypatch.setattr(versions, "current", lambda: 0)
    for read in readers:
        with pytest.raises(InputError, match=r"newer version of dcjax, in format 1"):
            read()


def test_unknown_settings_are_attributed_to_a_newer_version() -> None:
    saved = digits.get_config().to_dict()
    saved["model"]["later"] = 1
    for config in (None, digits.get_config()):
        with pytest.raises(InputError, match=r"runs/a has .* newer version saves them: model.la"):
            same_run.saved_settings({"config": saved, "progress": {}}, "runs/a", config)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"format": 99}, "newer version of dcjax, in format 99; this version reads formats up to"),
        ({"later": 1}, "does not know, as a newer version saves them: later;"),
    ],
)
def test_command_line_refuses_a_newer_run_in_one_line(
    change: dict[str, int], line: str, saved: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(_content(saved) | change))
    completed = launch("--mode=evaluate", f"--workdir={tmp_path}")
    assert completed.returncode == 2
    assert line in completed.stderr
    assert completed.stderr.count("\n") == 1


def _print_settings(*flags: str) -> None:
    sys.argv[1:] = flags
    command_line._parse(sys.argv)
    sys.stdout.write(f"{command_line._config().to_dict()}\n")


def test_command_line_reads_settings_with_and_without_a_format(saved: Path, tmp_path: Path) -> None:
    expected = versions.parse(_content(saved), str(saved))
    expected["eval"]["ks"] = (1,)
    for content in (_content(saved), _content(saved) | {"format": versions.current()}):
        (tmp_path / "config.json").write_text(json.dumps(content))
        flags = ["--mode=evaluate", f"--workdir={tmp_path}", "--config.eval.ks=(1,)"]
        code, output, errors = Fork(_print_settings, *flags).finish()
        assert code == 0, errors
        assert output == f"{ConfigDict(expected).to_dict()}\n"


def test_changes_of_each_format_are_applied_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = (
        Change(added={"train.first": 1}),
        Change(added={"train.second": [2, 3]}, renamed={"train.first": "model.renamed"}),
        Change(removed={"train.second": (2, 3)}),
    )
    expected = default.get_config().to_dict()
    expected["model"]["renamed"] = 1
    monkeypatch.setattr(versions, "CHANGES", changes)
    monkeypatch.setattr(versions, "default_settings", lambda: expected)
    saved = default.get_config().to_dict()
    assert versions.upgrade(saved, 1, "a run") == expected
    saved["train"] |= {"first": 5}
    assert versions.upgrade(saved, 2, "a run")["model"]["renamed"] == 5
    assert versions.upgrade(expected, 4, "a run") == expected
    saved["train"]["second"] = (4,)
    with pytest.raises(InputError, match=r"a run was saved with train.second=\(4,\)"):
        versions.upgrade(saved, 2, "a run")


def test_saved_settings_are_read_under_their_new_names() -> None:
    for version in (1, versions.current()):
        saved = default.get_config().to_dict()
        del saved["model"]["chunk_size"]
        saved["sampling"]["chunk_size"] = 64
        for group, options in {"model": {"width": 3}, "loss": {}, "mining": {"t": 0.5}}.items():
            del saved[group]["custom"]
            saved[group]["own"] = options
        upgraded = versions.upgrade(saved, version, "a run")
        assert [upgraded[x]["custom"] for x in ("model", "loss", "mining")] == [
            {"width": 3},
            {},
            {"t": 0.5},
        ]
        assert not any("own" in group for group in upgraded.values() if isinstance(group, dict))
        assert upgraded["model"]["chunk_size"] == 64
        assert "chunk_size" not in upgraded["sampling"]


@pytest.mark.parametrize("use", ["config.loss.own = {}", "config.loss.own.alpha = 8.0"])
def test_renamed_setting_in_a_config_file_is_refused_with_its_new_name(
    use: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    lines = ("from configs import digits", "def get_config():", "    config = digits.get_config()")
    path.write_text("\n".join([*lines, f"    {use}", "    return config"]))
    with pytest.raises(SettingError, match=r"mine.py uses .* loss.own is loss.custom now"):
        config_files.load(str(path))


def test_content_that_no_version_saves_is_refused() -> None:
    saved = default.get_config().to_dict()
    for version in (0, -1, True, "2", None, 1.0):
        with pytest.raises(InputError, match="a run must hold settings and the number"):
            versions.upgrade(saved, version, "a run")
    for content in ([], "x", None, 3):
        with pytest.raises(InputError, match="a run must hold settings"):
            versions.parse(content, "a run")
    del saved["train"]["num_epochs"], saved["checkpoint"]
    with pytest.raises(InputError, match=r"a run lacks settings .*: checkpoint, train.num_epochs;"):
        versions.upgrade(saved, 1, "a run")


def test_additions_in_a_users_config_do_not_mean_a_newer_version() -> None:
    saved = default.get_config().to_dict()
    saved["loss"]["custom"] = {"anything": {"at": "all"}}
    saved["note"] = "mine"
    with pytest.raises(InputError, match=r"newer version saves them: note; .* give that"):
        versions.upgrade(saved, 1, "a run")
    assert versions.upgrade(saved, 1, "a run", known=saved) == saved
