"""A sweep trains each run once, continues after a stop or a failure, and writes a table."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import small_runs
from absl import flags
from forks import launch
from ml_collections import ConfigDict, config_flags

from configs import digits
from dcjax.analysis import sequences
from dcjax.core.errors import InputError, SettingError
from dcjax.experiment import same_run
from dcjax.modes import run_records, sweep_runner, sweeps, tables

_ROOT = Path(__file__).parents[2]
_TINY = small_runs.TINY | {
    "sampling.batch_size": 16,
    "sampling.images_per_class": 4,
    "train.num_epochs": 3,
    "eval.every_epochs": 1,
}
# Imports nothing of configs/, and so no JAX: the trainer of these tests does not need it.
_SWEPT = """
from ml_collections import ConfigDict

SCORES = ("map_at_r", "recall_at_1", "nmi")

def get_config():
    return ConfigDict({settings})

def sweep():
    return {rows}
"""
# Has the command line of launch.py, but random scores. TROUBLE: a run with "SETTING=VALUE" fails,
# "stop" sends a stop signal to run and sweep, "wait" waits for one.
_TRAINER = """
import json, os, pathlib, random, signal, sys, time
from absl import app, flags
from ml_collections import config_flags

config_flags.DEFINE_config_file("config")
flags.DEFINE_string("workdir", "", "")
flags.DEFINE_enum("distributed", "on", ["on", "off"], "")

def main(argv):
    config, workdir = flags.FLAGS.config, pathlib.Path(flags.FLAGS.workdir)
    signal.signal(signal.SIGTERM, lambda *_: (print("stopped"), sys.exit(0)))
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    assert flags.FLAGS.distributed == "off"
    trouble = os.environ.get("TROUBLE", "")
    print("trains", flush=True)
    if trouble in sys.argv and trouble:
        sys.exit("this cannot be trained")
    if trouble == "stop":
        os.kill(os.getppid(), signal.SIGTERM)
    if trouble in ("stop", "wait"):
        (workdir / "pid.part").write_text(str(os.getpid()))
        (workdir / "pid.part").rename(workdir / "pid")
        time.sleep(60)
    draw = random.Random(str(workdir))
    scores = {"epoch": 3, "map_at_r": draw.random(), "recall_at_1": draw.random()}
    best = {"epoch": 2, "map_at_r": draw.random(), "recall_at_1": draw.random()}
    (workdir / "scores.json").write_text(json.dumps({"last": scores, "best_test": best}))

app.run(main)
"""
_BASE = {"name": "base", "settings": {"division.max_clusters": 1}, "paper": {"recall_at_1": 66.9}}
_OURS = {"name": "ours", "settings": {}}
_SAME = {"name": "same", "settings": {"division.max_clusters": 2}}
_LEARN = {"name": "learn", "settings": {"model.masks": "none", "eval.ks": (1, 4)}}
_ALL = [_BASE, _OURS, _SAME, _LEARN]


def _config(**changes: Any) -> ConfigDict:
    config = digits.get_config()
    config.update_from_flattened_dict(_TINY | changes)
    return config


def _settings(**changes: Any) -> dict[str, Any]:
    return same_run.flatten(_config(**changes).to_dict())


def _plan(
    folder: Path,
    rows: list[dict[str, Any]] = _ALL,
    seeds: str = "0,1",
    *,
    baseline: str = "",
    margin: float = 0.0,
    budget: int = 0,
    **changes: Any,
) -> sweeps.Sweep:
    """Plans a sweep of rows in a file below a folder, with the trainer of random scores."""
    (folder / "trainer.py").write_text(_TRAINER)
    (folder / "tiny.py").write_text(_SWEPT.format(settings=_config().to_dict(), rows=rows))
    return sweeps.plan(
        _config(**changes),
        program=str(folder / "trainer.py"),
        path=str(folder / "tiny.py"),
        changes=changes,
        seeds=seeds.split(",") if seeds else [],
        workdir=str(folder / "runs"),
        baseline=baseline,
        margin=margin,
        budget=budget,
    )


def _num_trainings(sweep: sweeps.Sweep) -> list[int]:
    logs = [run.folder / "output.log" for run in sweep.runs]
    return [log.read_text().count("trains") if log.exists() else 0 for log in logs]


@pytest.fixture(autouse=True)
def _finds_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(_ROOT))


def test_command_line_trains_a_run_and_writes_the_table(tmp_path: Path) -> None:
    rows = [_OURS | {"paper": {"recall_at_1": 66.9}}, _SAME]  # of equal settings: one run
    (tmp_path / "tiny.py").write_text(_SWEPT.format(settings=_config().to_dict(), rows=rows))
    flags = ["--sweep", f"--config={tmp_path}/tiny.py"]
    flags += ["--config.division.every_epochs=1", "--config.train.num_epochs=1"]
    flags += ["--config.train.report=False"]
    flags += [f"--workdir={tmp_path}/runs"]
    first, again = (launch(*flags).stdout for _ in range(2))
    assert "2 rows x 1 seeds are 1 runs, of which 0 are finished" in first
    assert "seed=0 (ours, same), 1 to go" in first
    assert "are 1 runs, of which 1 are finished" in again
    assert "to go" not in again
    text = (tmp_path / "runs" / "tiny.md").read_text()
    assert shlex.join(["python", "launch.py", *flags]) in text
    _, *parts, training, division = text.split("\n## ")
    assert "|  | steps | images seen | seconds |" in training
    assert "|  | separated_pairs | classes_per_cluster | left_out |" in division
    scores = json.loads((tmp_path / "runs" / "seed=0" / "scores.json").read_text())
    for name, paper in [("ours", "66.90"), ("same", "")]:
        for selection, part in zip(("last", "best_test"), parts, strict=True):
            cells = next(line for line in part.splitlines() if line.startswith(f"| {name} "))
            ours = [f"{100 * scores[selection][key]:.2f}" for key in ("map_at_r", "recall_at_1")]
            assert cells == f"| {name} | 1 | {ours[0]} | {ours[1]} | {paper} |"


def test_table_has_mean_and_deviation_over_seeds(tmp_path: Path) -> None:
    sweep = _plan(tmp_path, seeds="0,1,2")
    assert sweep_runner.run(sweep)
    with (tmp_path / "runs" / "tiny.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4 * 2 * 2
    for line in lines:
        scores = [
            json.loads((run.folder / "scores.json").read_text())[line["selection"]][line["score"]]
            for run in sweep.rows[line["row"]]
        ]
        assert line["seeds"] == "3"
        assert float(line["mean"]) == pytest.approx(np.mean(scores))
        assert float(line["deviation"]) == pytest.approx(np.std(scores, ddof=1))
        compared = (line["row"], line["score"]) == ("base", "recall_at_1")
        assert line["paper_percent"] == ("66.9" if compared else "")


def test_rows_with_equal_settings_share_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = _plan(tmp_path)
    assert sweep_runner.run(sweep)
    assert "seed=0 (ours, same), 4 to go, about 0 min left" in capsys.readouterr().out
    assert [run.folder for run in sweep.rows["ours"]] == [run.folder for run in sweep.rows["same"]]
    assert _num_trainings(sweep) == [1] * 6


def test_tables_share_their_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # away from existing runs

    def folders(table: str) -> set[Path]:
        path = f"{_ROOT}/configs/ablations/{table}.py:small.grocery"
        config = _module(table).get_config("small.grocery")
        sweep = sweeps.plan(
            config, program="launch.py", path=path, changes={}, seeds=["0"], workdir=None
        )
        return {run.folder for run in sweep.runs}

    top = Path("runs/ablations/small.grocery")
    baseline, fix = top / "division.max_clusters=1+seed=0", top / "model.masks=fixed+seed=0"
    assert folders("p21_table_2") & folders("p21_table_6") == {baseline, fix, top / "seed=0"}
    assert folders("p21_table_3") & folders("p21_table_4") == {fix}
    assert folders("p21_table_4") & folders("p21_table_5") == {baseline, fix}


def _module(table: str) -> Any:
    return __import__(f"configs.ablations.{table}", fromlist=["get_config"])


def test_failed_run_is_reported_and_the_others_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = _plan(tmp_path)
    monkeypatch.setenv("TROUBLE", "--config.division.max_clusters=1")
    assert not sweep_runner.run(sweep)
    output = capsys.readouterr().out
    assert output.count("failed    with code 1") == output.count(" this cannot be trained") == 2
    assert "failed    2 runs:" in output
    assert "| base | 0 |" in (tmp_path / "runs" / "tiny.md").read_text()
    assert "| ours | 2 |" in (tmp_path / "runs" / "tiny.md").read_text()
    monkeypatch.delenv("TROUBLE")
    assert sweep_runner.run(sweep)
    assert _num_trainings(sweep) == [2, 2, 1, 1, 1, 1]


def test_stopped_sweep_stops_its_run_and_can_be_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = _plan(tmp_path)
    monkeypatch.setenv("TROUBLE", "stop")
    assert sweep_runner.run(sweep)
    assert "Stopped by SIGTERM; the same command continues" in capsys.readouterr().out
    assert _num_trainings(sweep) == [1, 0, 0, 0, 0, 0]
    assert "stopped" in (next(iter(sweep.runs)).folder / "output.log").read_text()
    monkeypatch.delenv("TROUBLE")
    assert sweep_runner.run(sweep)
    assert _num_trainings(sweep) == [2, 1, 1, 1, 1, 1]


def test_stopped_run_ends_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = _plan(tmp_path, [_BASE, _OURS], seeds="0")
    trainer = tmp_path / "trainer.py"
    trainer.write_text("import os, signal, sys; print('trains'); sys.exit(0)")
    assert sweep_runner.run(sweep)
    assert "the same command continues from there" in capsys.readouterr().out
    assert _num_trainings(sweep) == [1, 0]


@pytest.mark.parametrize(("name", "finishes"), [("sweep", False), ("sweep", True), ("run", True)])
def test_run_trained_by_another_process_is_checked_again_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, finishes: bool
) -> None:
    sweep = _plan(tmp_path, [_BASE, _OURS], seeds="0")
    held, other = sweep.runs
    held.folder.mkdir(parents=True)
    lock = filelock.FileLock(held.folder / f"{name}.lock", thread_local=False)

    def trains_meanwhile() -> None:
        while not other.result():
            time.sleep(0.1)
        if finishes:
            scores = {"epoch": 3, "map_at_r": 0.25}
            result = {"last": scores, "best_test": scores}
            (held.folder / "scores.json").write_text(json.dumps(result))
            (held.folder / "config.json").write_text(json.dumps(held.config.to_dict()))
        lock.release()

    lock.acquire()
    thread = threading.Thread(target=trains_meanwhile)
    thread.start()
    assert sweep_runner.run(sweep)
    thread.join()
    output = capsys.readouterr().out
    assert output.index("(ours), 2 to go") < output.index("waiting   for 1 runs")
    assert ("(base), 1 to go" in output) is not finishes
    assert "| base | 1 |" in (tmp_path / "runs" / "tiny.md").read_text()


def test_run_keeps_its_lock_when_its_sweep_is_killed(tmp_path: Path) -> None:
    sweep = _plan(tmp_path, [_BASE], seeds="0")
    code = (
        "import pathlib, test_sweeps as t; from dcjax.modes import sweep_runner as runner; "
        f"runner.run(t._plan(pathlib.Path({str(tmp_path)!r}), [t._BASE], seeds='0'))"
    )
    paths = f"{_ROOT}:{_ROOT}/tests:{Path(__file__).parent}"
    environment = os.environ | {"TROUBLE": "wait", "PYTHONPATH": paths}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=_ROOT, env=environment)
    (run,) = sweep.runs
    while not (run.folder / "pid").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    lock = filelock.FileLock(run.folder / "sweep.lock")
    with pytest.raises(filelock.Timeout):
        lock.acquire(blocking=False)
    os.kill(int((run.folder / "pid").read_text()), signal.SIGTERM)
    with lock.acquire(timeout=30):
        pass


@pytest.mark.filterwarnings("ignore:the load_module")  # as ml_collections loads files
def test_commands_make_the_planned_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*_ALL, {"name": "rates", "settings": {"optimizer.learning_rate": 1e-05}}]
    changes = {"augment.scale": (0.3, 1.0), "augment.flip": True, "dataset.root": "/my pictures"}
    sweep = _plan(tmp_path, rows, **changes)
    for run, command in zip(sweep.runs, sweep_runner.commands(sweep), strict=True):
        python, program, *arguments = shlex.split(command)
        assert (python, program) == ("python", str(tmp_path / "trainer.py"))
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values)
        flags.DEFINE_list("workdir", None, "", flag_values=values)
        values(sys.argv)
        assert values.config.to_dict() == run.config.to_dict()
        assert values.workdir == [str(run.folder)]
    assert not (tmp_path / "runs").exists()


def test_commands_of_finished_runs_are_comments(tmp_path: Path) -> None:
    assert sweep_runner.run(_plan(tmp_path, [_BASE], seeds="0"))
    first, second = sweep_runner.commands(_plan(tmp_path, [_BASE, _OURS], seeds="0"))
    assert first.startswith("# finished: python ")
    assert second.startswith("python ")


@pytest.mark.parametrize(
    ("rows", "seeds", "changes", "message"),
    [
        ([], "", {}, "at least one row of a sweep, got none"),
        ([_BASE, _BASE], "", {}, "names of their own, got \\['base', 'base'\\]"),
        ([{"row": "base"}], "", {}, "Require a row .* got {'row': 'base'}"),
        ([_BASE], "", {"division.max_clusters": 1}, "sets division.max_clusters in row 'base'"),
        ([3], "", {}, "Require a row .* got 3"),
        ([{"name": 1, "settings": {}}], "", {}, "Require a row .* got {'name': 1"),
        ([{"name": "a", "settings": [1]}], "", {}, "Require a row .* got {'name': 'a'"),
        ([_BASE], "0,x", {}, "different whole numbers .*got 0,x"),
        ([_BASE], "1,01", {}, "different whole numbers .*got 1,01"),
        ([_BASE], str(2**31), {}, "from 0 to 2147483647, got 2147483648"),
        ([_BASE], "1", {"seed": 3}, "--seeds sets config.seed"),
        ([{"name": "a", "settings": {"seed": 3}}], "1", {}, "--seeds sets config.seed"),
        ([{"name": "a", "settings": {"divison.x": 3}}], "", {}, "divison.x, which is no setting"),
        ([{"name": "a", "settings": {"train.epochs": 3}}], "", {}, "nearest is train.num_epochs"),
        ([{"name": "a", "settings": {"augment.flip": 3}}], "", {}, "another type.*flip"),
    ],
)
def test_invalid_sweep_is_an_error(
    tmp_path: Path, rows: list[dict[str, Any]], seeds: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _plan(tmp_path, rows, seeds, **changes)


_TAKES_ONE = """
from configs import digits

def get_config(data="digits"):
    return digits.get_config()

def sweep(data{default}):
    return [{{"name": data, "settings": {{}}}}]
"""


@pytest.mark.parametrize(
    ("default", "argument", "expected"),
    [
        ("", ":birds", "birds"),
        ("='birds'", "", "birds"),
        ("=None", ":birds", "birds"),
        ("", "", "sweep of .*missing a required argument: 'data'; .*--config=FILE:ARGUMENT"),
        (", other", ":birds", "sweep of .*missing a required argument: 'other'"),
    ],
)
def test_sweep_argument_follows_a_colon(
    default: str, argument: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "takes_one.py"
    path.write_text(_TAKES_ONE.format(default=default))

    def plan() -> sweeps.Sweep:
        return sweeps.plan(
            _config(),
            program="launch.py",
            path=f"{path}{argument}",
            changes={},
            seeds=[],
            workdir=None,
        )

    if "sweep of" in expected:
        with pytest.raises(ValueError, match=expected):
            plan()
    else:
        assert plan().table == Path("runs", "takes_one", expected, "takes_one")


@pytest.mark.parametrize(
    ("name", "content"), [("config.json", "[1]"), ("scores.json", "{}"), ("scores.json", "[]")]
)
def test_file_that_belongs_to_no_run_is_named(tmp_path: Path, name: str, content: str) -> None:
    sweep = _plan(tmp_path, [_BASE], seeds="0")
    assert sweep_runner.run(sweep)
    (next(iter(sweep.runs)).folder / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} is not of a run; move it away"):
        _plan(tmp_path, [_BASE], seeds="0")


def test_folder_with_another_run_is_an_error(tmp_path: Path) -> None:
    assert sweep_runner.run(_plan(tmp_path, [_BASE], seeds="0"))
    with pytest.raises(ValueError, match=r"another config.*Different: model.width=8 \(saved: 4\)"):
        _plan(tmp_path, [_OURS, _BASE], seeds="0", **{"model.width": 8})
    with pytest.raises(ValueError, match=r"3 epochs already, got train.num_epochs=2"):
        _plan(tmp_path, [_OURS, _BASE], seeds="0", **{"train.num_epochs": 2})


def test_run_counts_as_finished_after_its_last_epoch(tmp_path: Path) -> None:
    assert sweep_runner.run(_plan(tmp_path, [_BASE], seeds="0"))
    same, longer, free = (
        next(iter(_plan(tmp_path, [_BASE], seeds="0", **changes).runs)).result()
        for changes in ({}, {"train.num_epochs": 4}, {"checkpoint.keep_latest": 3})
    )
    assert same
    assert free == same
    assert longer is None


@pytest.mark.parametrize("num_epochs", [2, 8])
def test_run_of_steps_is_finished_when_it_has_scores(tmp_path: Path, num_epochs: int) -> None:
    changes = {"train.num_epochs": num_epochs}
    (run,) = _plan(tmp_path, [_OURS], seeds="0", **changes, **{"train.num_steps": 50}).runs
    assert run.result() is None
    _finish(run, map_at_r=0.5)  # in epoch 3
    assert run.result() is not None
    with pytest.raises(InputError, match=r"another config.*train.num_steps=60 \(saved: 50\)"):
        _plan(tmp_path, [_OURS], seeds="0", **changes, **{"train.num_steps": 60})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset.root", "/elsewhere"),
        ("model.pretrained", "others.safetensors"),
        ("eval.nmi", "always"),
    ],
)
def test_scores_of_other_data_weights_or_protocols_are_refused(
    key: str, value: str, tmp_path: Path
) -> None:
    assert sweep_runner.run(_plan(tmp_path, [_BASE], seeds="0"))
    with pytest.raises(ValueError, match=f"another config.*Different: {key}='?{value}"):
        _plan(tmp_path, [_BASE], seeds="0", **{key: value})


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "seed=0"),
        ({"seed": 7, "division.max_clusters": 2}, "seed=7"),
        (
            {"model.masks": "fixed", "division.max_clusters": 4},
            "division.max_clusters=4+model.masks=fixed+seed=0",
        ),
        ({"dataset.root": "/a b"}, "dataset.root=_a_b+8f6739bb+seed=0"),
    ],
)
def test_run_folder_is_named_after_the_changed_settings(changes: dict[str, Any], name: str) -> None:
    assert sweeps.folder_name(_settings(), _settings(**changes)) == name


def test_folder_names_are_short_and_distinct() -> None:
    roots = ["x" * 300 + end for end in "ab"]
    names = {sweeps.folder_name(_settings(), _settings(**{"dataset.root": x})) for x in roots}
    assert len(names) == 2
    assert all(len(name) < 200 for name in names)


def test_score_missing_from_some_runs_is_left_empty() -> None:
    results = [
        {"last": {"epoch": 3, "nmi": 0.5, "map_at_r": x}, "best_test": {"map_at_r": x} | nmi}
        for x, nmi in ((0.25, {}), (0.75, {"nmi": 0.5}))
    ]
    rows = [tables.Row("both", results, {"nmi": 50.0}), tables.Row("none", [], {})]
    last, best = tables.format_markdown("t", "c", rows, []).split("\n## ")[1:]
    assert "|  | seeds | nmi | paper | map_at_r |" in last
    assert "| both | 2 | 50.00 ± 0.00 | 50.00 | 50.00 ± 35.36 |" in last
    assert "| both | 2 | 50.00 ± 35.36 |  | 50.00 |" in best
    assert "| none | 0 |  |  |  |" in last
    assert "both,nmi,best_test,0,,,50.0,,0,,," in tables.format_csv(rows, []).splitlines()


def _finish(run: sweeps.Run, **scores: float) -> None:
    """Writes what a finished run leaves, with these scores."""
    run.folder.mkdir(parents=True)
    (run.folder / "config.json").write_text(json.dumps(run.config.to_dict()))
    both = {"epoch": 3, **scores}
    (run.folder / "scores.json").write_text(json.dumps({"last": both, "best_test": both}))


def _part(text: str, heading: str) -> list[str]:
    """Returns the lines of a part of a table."""
    return text.split(f"\n## {heading}")[1].split("\n## ")[0].splitlines()


def test_rows_are_compared_with_the_baseline_by_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = _plan(tmp_path, [_BASE, _OURS], seeds="2,0,1", baseline="ours")
    base = {2: 0.30, 0: 0.51, 1: 0.43}
    ours = {2: 0.25, 0: 0.50, 1: 0.40}  # the mean difference is 3 of 100, its deviation 2
    for name, scores in (("base", base), ("ours", ours)):
        for run in sweep.rows[name]:
            _finish(run, map_at_r=scores[run.config.seed])
    assert sweep_runner.run(sweep)
    half = 4.302653 * 2 / 3**0.5  # of 2 degrees of freedom
    expected = f"+3.00 [{3 - half:+.2f}, {3 + half:+.2f}]"
    text = (tmp_path / "runs" / "tiny.md").read_text()
    lines = _part(text, "Last epoch")
    assert lines[-1] == f"| base | 3 | {expected} |"
    assert lines[-5] == (
        "Difference to ours, between runs of the same seed: mean and 95 % interval (Student's t)."
    )
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["base", "3", "41.33", "±", "10.60", *expected.split()] in shown
    assert ["ours", "3", "38.33", "±", "12.58"] in shown
    with (tmp_path / "runs" / "tiny.csv").open() as file:
        found = {(x["row"], x["score"], x["selection"]): x for x in csv.DictReader(file)}
    of_base, of_ours = (found[name, "map_at_r", "last"] for name in ("base", "ours"))
    assert float(of_base["difference"]) == pytest.approx(0.03)
    assert float(of_base["low"]) == pytest.approx(0.03 - half / 100, abs=1e-6)
    assert float(of_base["high"]) == pytest.approx(0.03 + half / 100, abs=1e-6)
    assert of_base["pairs"] == "3"
    assert (of_base["baseline"], of_ours["baseline"], of_ours["pairs"]) == ("ours", "", "0")
    assert "--seeds=2,0,1 --baseline=ours" in text


def test_only_seeds_that_both_rows_have_finished_are_paired(tmp_path: Path) -> None:
    sweep = _plan(tmp_path, [_BASE, _OURS], seeds="0,1,2,3")
    scores = {"base": {0: 0.5, 1: 0.9, 3: 0.2}, "ours": {1: 0.8, 2: 0.1}}
    for name, runs in sweep.rows.items():
        for run in runs:
            if run.config.seed in scores[name]:
                _finish(run, map_at_r=scores[name][run.config.seed])
    rows = sweep.table_rows()
    assert rows[1].differences_to(rows[0], "last", "map_at_r") == pytest.approx([-0.1])
    sweep.write()
    lines = _part((tmp_path / "runs" / "tiny.md").read_text(), "Last epoch")
    assert lines[-1] == "| ours | 1 | -10.00 |"
    csv_lines = (tmp_path / "runs" / "tiny.csv").read_text().splitlines()
    (line,) = (line for line in csv_lines if line.startswith("ours,map_at_r,last"))
    assert line.split(",")[-4] == "1"
    assert line.endswith(",,")


def test_baseline_that_is_no_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"--baseline .* got 'bse'; rows are base, ours"):
        _plan(tmp_path, [_BASE, _OURS], baseline="bse")
    with pytest.raises(SettingError, match=r"the baseline of ours .* got 'bse'; rows are base, o"):
        _plan(tmp_path, [_BASE, _OURS | {"baseline": "bse"}])


def test_a_row_may_name_the_row_that_it_is_compared_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [_BASE, _OURS | {"baseline": "base"}, _LEARN, {"name": "last", "settings": {}}]
    rows[3] |= {"settings": {"model.masks": "fixed"}, "baseline": "learn"}
    sweep = _plan(tmp_path, rows)
    scores = {"base": 0.1, "ours": 0.2, "learn": 0.5, "last": 0.4}
    for name, runs in sweep.rows.items():
        for run in runs:
            _finish(run, map_at_r=scores[name])
    assert sweep_runner.run(sweep)
    lines = _part((tmp_path / "runs" / "tiny.md").read_text(), "Last epoch")
    assert lines[-2:] == [
        "| ours against base | 2 | +10.00 [+10.00, +10.00] |",
        "| last against learn | 2 | -10.00 [-10.00, -10.00] |",
    ]
    assert "difference to the baseline of each row" in capsys.readouterr().out
    with_one = _plan(tmp_path, rows, baseline="last")
    assert with_one.comparison.baselines == dict.fromkeys(["base", "ours", "learn"], "last")


def test_seeds_are_added_to_the_baselines_of_undecided_rows_alone(tmp_path: Path) -> None:
    rows = [_BASE, _OURS | {"baseline": "base"}, _LEARN]
    rows += [{"name": "last", "settings": {"model.masks": "fixed"}, "baseline": "learn"}]
    sweep = _plan(tmp_path, rows, seeds="", margin=0.5, budget=8)
    draws = np.random.default_rng(0).normal(size=(8, 2))
    trained: dict[str, int] = dict.fromkeys(sweep.rows, 0)
    for runs in sweep.rounds():
        for run in runs:
            (name,) = sweep.runs[run]
            trained[name] += 1
            noise = 0.001 if name in ("base", "ours") else 0.2
            score = 0.5 + noise * draws[run.config.seed, int(name in ("base", "learn"))]
            _finish(run, map_at_r=score + 0.1 * (name == "ours"))
    assert trained["base"] == trained["ours"] < 8
    assert trained["learn"] == trained["last"] == 8


def test_seeds_are_added_until_a_row_is_decided_or_the_budget_is_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = {"name": "noisy", "settings": {"model.masks": "fixed"}}
    rows = [_BASE, _OURS, _LEARN, noisy]
    sweep = _plan(tmp_path, rows, seeds="", margin=0.5, budget=10)
    draws = np.random.default_rng(0).normal(size=(10, 5))

    def score(name: str, seed: int) -> float:
        gain, column = {"base": (0, 1), "ours": (0.02, 2), "learn": (0, 3), "noisy": (0, 4)}[name]
        deviation = 0.1 if name == "noisy" else 0.002
        return float(0.5 + gain + 0.05 * draws[seed, 0] + deviation * draws[seed, column])

    trained: dict[str, list[int]] = {str(row["name"]): [] for row in rows}
    for runs in sweep.rounds():
        for run in runs:
            (name,) = sweep.runs[run]
            trained[name].append(run.config.seed)
            _finish(run, map_at_r=score(name, run.config.seed))
    expected = {}
    for name in ("ours", "learn", "noisy"):
        less = [score(name, seed) - score("base", seed) for seed in range(10)]
        expected[name] = sequences.decide(np.array(less), 0.005)
    assert [x.outcome for x in expected.values()] == ["better", "equal", ""]
    assert {name: len(trained[name]) for name in expected} == {
        name: decision.num_pairs for name, decision in expected.items()
    }
    assert max(len(trained["ours"]), len(trained["learn"])) < 10
    assert all(seeds == list(range(len(seeds))) for seeds in trained.values())
    assert len(trained["base"]) == len(trained["noisy"]) == 10

    assert sweep_runner.run(sweep)  # which finds nothing to train
    assert _num_trainings(sweep) == [0] * 40
    output = capsys.readouterr().out
    assert "4 rows x up to 10 seeds are up to 40 runs, of which" in output
    assert f"better after {len(trained['ours'])} seeds" in output
    text = (tmp_path / "runs" / "tiny.md").read_text()
    assert (
        "Decision by map_at_r, last epoch, within a margin of 0.5 percent: "
        f"ours: better after {len(trained['ours'])} seeds; "
        f"learn: equal after {len(trained['learn'])} seeds; noisy: undecided after 10 seeds."
    ) in text.splitlines()
    assert "--until=decided --margin=0.5 --budget=10" in text
    less = [score("ours", seed) - score("base", seed) for seed in trained["ours"]]
    low, high = (100 * end[-1] for end in sequences.confidence_sequence(np.array(less)))
    assert f"| {100 * np.mean(less):+.2f} [{low:+.2f}, {high:+.2f}] |" in text
    assert "95 % interval (always-valid t, for seeds that are added until it decides)." in text
    assert "difference,always_low,always_high\n" in (tmp_path / "runs" / "tiny.csv").read_text()


def test_a_failed_run_ends_a_sweep_that_adds_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = _plan(tmp_path, [_BASE, _OURS], seeds="", margin=0.5, budget=10)
    monkeypatch.setenv("TROUBLE", "--config.division.max_clusters=1")
    assert not sweep_runner.run(sweep)
    assert sorted(_num_trainings(sweep)) == [0] * 18 + [1] * 2


@pytest.mark.parametrize(
    ("rows", "seeds", "margin", "budget", "message"),
    [
        ([_BASE, _OURS], "", 0.0, 9, "--margin of more than 0 .* got 0 and 9"),
        ([_BASE, _OURS], "", 0.5, 3, "--budget of 4 to 1000 seeds, .* got 0.5 and 3"),
        ([_BASE, _OURS], "", 0.5, 10**9, "--budget of 4 to 1000 seeds, .* 1000000000"),
        ([_BASE, _OURS], "0,1", 0.5, 9, r"the seeds 0, 1, \.\.\. to 8: leave out --seeds"),
        ([_BASE], "", 0.5, 9, "require two or more from sweep"),
    ],
)
def test_invalid_sequence_of_seeds_is_an_error(
    tmp_path: Path,
    rows: list[dict[str, Any]],
    seeds: str,
    margin: float,
    budget: int,
    message: str,
) -> None:
    with pytest.raises(SettingError, match=message):
        _plan(tmp_path, rows, seeds, margin=margin, budget=budget)


def test_table_has_steps_images_and_seconds_of_the_runs(tmp_path: Path) -> None:
    sweep = _plan(tmp_path, [_BASE, _OURS], seeds="0,1", **{"sampling.clusters_per_step": 2})
    for run in sweep.runs:
        _finish(run, recall_at_1=0.5)
        steps = {"base": 1500, "ours": 1940 + run.config.seed * 20}[sweep.runs[run][0]]
        points = [{"step": 20, "train/loss": 1}, {"step": steps, "eval/nmi": 0.5}]
        (run.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in points))
        seconds = {"training steps": 60.0, "evaluation": 7.0, "division": 0.4 + run.config.seed}
        records = [{"kind": "activity", "activity": x, "seconds": y} for x, y in seconds.items()]
        records += [{"kind": "start"}, records[0]]
        (run.folder / "times.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in records))
    sweep.write()
    text = (tmp_path / "runs" / "tiny.md").read_text()
    assert _part(text, "Training")[-4:] == [
        "|  | steps | images seen | seconds |",
        "| --- | --- | --- | --- |",
        "| base | 1,500 | 48,000 | 121 |",
        "| ours | 1,950 | 62,400 | 121 |",
    ]
    assert "Runs differ in steps, on average from 1,500 (base) to 1,950 (ours): " in text
    lines = (tmp_path / "runs" / "tiny.csv").read_text().splitlines()
    assert any(line.startswith("ours,steps,training,2,1950.0,14.14") for line in lines)
    first = sweep.table_rows()[0]
    assert tables.describe_steps([first, first]) == ""


def test_figures_of_the_last_division_are_columns(tmp_path: Path) -> None:
    points = [
        {"step": 0, "division/num_clusters": 2, "division/separated_pairs": 0.125},
        {"step": 8, "division/num_clusters": 4, "division/separated_pairs": 0.25},
        {"step": 9, "train/loss": 1.0},
    ]
    points[1] |= {"division/mask_cosine": None, "division/smallest": 3}
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in points))
    recorded = run_records.last_division(tmp_path)
    assert recorded == {"separated_pairs": 0.25}
    assert run_records.last_division(tmp_path / "none") == {}
    results = [{"last": {"nmi": 0.5}, "best_test": {"nmi": 0.5}}] * 2
    rows = [
        tables.Row("both", results, {}, [recorded, {"separated_pairs": 0.75}]),
        tables.Row("one", results, {}, [recorded, {}]),
    ]
    *_, division = tables.format_markdown("t", "c", rows, []).split("\n## ")
    assert division.startswith("Last division\n\nNot in percent.\n\n|  | separated_pairs |\n")
    assert division.endswith("| both | 0.5 ± 0.354 |\n| one |  |\n")
    lines = tables.format_csv(rows, []).splitlines()
    assert f"both,separated_pairs,division,2,0.5,{0.5**1.5},,,0,,," in lines
    assert "one,separated_pairs,division,0,,,,,0,,," in lines
    assert "Last division" not in tables.format_markdown("t", "c", rows[1:], [])


def test_sweep_imports_neither_jax_nor_tensorflow() -> None:
    code = "import sys, dcjax.modes.sweep_runner; print({'jax', 'tensorflow'} & sys.modules.keys())"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, cwd=_ROOT, text=True).strip() == "set()"


def _validated(validation: float, test: float) -> dict[str, dict[str, float]]:
    scores = {"last": 0.9, "best_test": 0.95, "best": test, "best_validation": validation}
    return {selection: {"nmi": value} for selection, value in scores.items()}


def test_row_is_chosen_by_validation_and_its_test_score_is_shown() -> None:
    rows = [
        tables.Row("good on test", [_validated(0.5, 0.8), _validated(0.5, 0.6)], {}),
        tables.Row("good on validation", [_validated(0.6, 0.25), _validated(0.5, 0.75)], {}),
    ]
    text = tables.format_markdown("t", "c", rows, [], best_by="nmi")
    assert (
        "Chosen: good on validation, by nmi 55.00 ± 7.07 on the validation classes; on the test "
        "classes 50.00 ± 35.36."
    ) in text.splitlines()
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert [heading.split(",")[0] for heading in headings[:2]] == [
        "## Best epoch by the validation classes"
    ] * 2
    assert "good on test,nmi,best,2,0.7," in tables.format_csv(rows, [])
    unfinished = [rows[0], tables.Row("one seed", rows[1].results[:1], {})]
    assert tables.choose(unfinished, "nmi") is None
    assert tables.choose([tables.Row("none", [], {})] * 2, "nmi") is None


def test_each_fold_is_held_out_once_and_the_table_is_over_folds(tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text(_TRAINER)
    settings = _config().to_dict()
    (tmp_path / "tiny.py").write_text(_SWEPT.format(settings=settings, rows=[]))

    def plan(folds: int, **changes: Any) -> sweeps.Sweep:
        return sweeps.plan(
            _config(**changes),
            program=str(tmp_path / "trainer.py"),
            path=str(tmp_path / "tiny.py"),
            changes=changes,
            seeds=[],
            workdir=str(tmp_path / "runs"),
            folds=folds,
            has_rows=False,
        )

    held_out = [run.config.dataset for run in plan(4).rows["tiny"]]
    assert [x.validation_classes for x in held_out] == [0.25] * 4
    assert [x.validation_fold for x in held_out] == [0, 1, 2, 3]
    sweep = plan(2, **{"division.max_clusters": 1})
    assert "--sweep" not in sweep.command
    assert "--folds=2" in sweep.command
    assert sweep_runner.run(sweep)
    scores = [json.loads((x.folder / "scores.json").read_text())["last"] for x in sweep.runs]
    values = [100 * x["map_at_r"] for x in scores]
    expected = f"| tiny | 2 | {np.mean(values):.2f} ± {np.std(values, ddof=1):.2f} |"
    text = (tmp_path / "runs" / "tiny.md").read_text()
    assert expected in text
    assert "over the finished folds." in text
    for folds in (1, 10**9):
        with pytest.raises(SettingError, match=f"Require --folds of 2 to 1000, got {folds}"):
            plan(folds)
    changes = {"dataset.validation_classes": 0.5}
    with pytest.raises(SettingError, match=r"leave out dataset.validation_classes"):
        plan(4, **changes)
    with pytest.raises(SettingError, match=r"folds holds classes out: .*unit=class or super_class"):
        plan(4, **{"dataset.validation_unit": "none"})


@pytest.mark.parametrize(("folds", "fold"), [(9, 1), (3, 2)])
def test_fold_that_cannot_be_trained_is_an_error_before_the_first_run(
    tmp_path: Path, folds: int, fold: int
) -> None:
    (tmp_path / "trainer.py").write_text(_TRAINER)
    (tmp_path / "tiny.py").write_text(_SWEPT.format(settings=_config().to_dict(), rows=[_OURS]))
    changes = {"division.max_clusters": 1}
    sweep = sweeps.plan(
        _config(**changes),
        program=str(tmp_path / "trainer.py"),
        path=str(tmp_path / "tiny.py"),
        changes=changes,
        seeds=["0", "1"],
        workdir=str(tmp_path / "runs"),
        folds=folds,
    )
    message = f"Fold {fold} of --folds={folds} .*got 1 validation classes.* Take fewer folds"
    with pytest.raises(InputError, match=message):
        sweep_runner.run(sweep)
    assert not (tmp_path / "runs").exists()


def test_run_that_ended_early_is_finished(tmp_path: Path) -> None:
    (run,) = _plan(tmp_path, [_OURS], seeds="0").runs
    run.folder.mkdir(parents=True)
    (run.folder / "config.json").write_text(json.dumps(run.config.to_dict()))
    scores: dict[str, Any] = {"last": {"epoch": 2, "map_at_r": 0.5}}
    (run.folder / "scores.json").write_text(json.dumps(scores))
    assert run.result() is None
    scores["ended_early"] = True
    (run.folder / "scores.json").write_text(json.dumps(scores))
    assert run.result() == scores
    # It is continued with another value, and has the scores of its first end until the second.
    scores["stop_after"] = 2
    (run.folder / "scores.json").write_text(json.dumps(scores))
    assert run.result() is None
    scores["stop_after"] = 0
    (run.folder / "scores.json").write_text(json.dumps(scores))
    assert run.result() == scores
    with pytest.raises(InputError, match=r"another config.*train.stop_after=7 \(saved: 0\)"):
        _plan(tmp_path, [_OURS], seeds="0", **{"train.stop_after": 7})


@pytest.mark.long
def test_cross_validation_of_the_command_line_scores_each_fold(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(_SWEPT.format(settings=_config().to_dict(), rows=[]))
    flags = ["--folds=2", f"--config={tmp_path}/tiny.py", f"--workdir={tmp_path}/runs"]
    flags += ["--config.division.max_clusters=1", "--config.train.num_epochs=1"]
    assert "1 rows x 2 folds are 2 runs" in launch(*flags).stdout
    held_out = [
        json.loads(path.read_text())["best_validation"]
        for path in sorted((tmp_path / "runs").glob("*/scores.json"))
    ]
    mean = 100 * np.mean([scores["map_at_r"] for scores in held_out])
    assert f"| tiny | 2 | {mean:.2f} ± " in (tmp_path / "runs" / "tiny.md").read_text()
