"""Runs on real digits are divided, trained, scored, saved, killed and continued."""

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from conftest import png
from ml_collections import ConfigDict
from PIL import Image

import dcjax
from configs import digits
from dcjax.core.errors import InputError
from dcjax.distributed import devices
from dcjax.experiment import build, epochs, inputs, reporter
from dcjax.modes.train import train
from dcjax.runs import shared_workdirs
from dcjax.runs.checkpoints import Checkpoints

_ROOT = Path(__file__).parents[2]
_TINY = small_runs.TINY | {
    "model.dropout": 0.1,
    "division.every_epochs": 1,
    "sampling.batch_size": 16,
    "sampling.images_per_class": 4,
    "optimizer.learning_rate": 1e-3,
    "train.num_epochs": 3,
    "train.log_every_steps": 1,
    "eval.every_epochs": 0,
    "checkpoint.every_epochs": 1,
}


# Beside the network, a step changes the parameters of the loss and the memory.
_KEPT = {
    "loss.margin.learn_beta": "per_class",
    "loss.memory_size": 48,
    "loss.memory_from_epoch": 1,
}


def _config(**changes: Any) -> ConfigDict:
    config = digits.get_config()
    config.update_from_flattened_dict(_TINY | {k.replace("__", "."): v for k, v in changes.items()})
    return config


def _lines(workdir: Path, group: str = "") -> list[dict[str, float]]:
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if any(key.startswith(group) for key in row if key != "step")]


class _Compiled(logging.Handler):
    """Keeps JAX's messages about what it compiles."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Compiling"):
            self.messages.append(record.getMessage())

    def count(self, name: str) -> int:
        return sum(f"jit({name})" in message for message in self.messages)


@contextlib.contextmanager
def _log_compilations() -> Iterator[_Compiled]:
    """Logs what is compiled in the block, in which nothing of earlier tests is compiled yet."""
    compiled, logger = _Compiled(), logging.getLogger("jax")
    jax.clear_caches()
    logger.addHandler(compiled)
    try:
        with jax.log_compiles(True):
            yield compiled
    finally:
        logger.removeHandler(compiled)


_Finished = tuple[ConfigDict, Path, dict[str, float]]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[_Finished, _Compiled]:
    """An uninterrupted run with two divisions, its scores, and what it compiled."""
    workdir = tmp_path_factory.mktemp("finished")
    config = _config(division__max_clusters=2, eval__every_epochs=1, eval__nmi="always")
    with _log_compilations() as compiled:
        scores = train(config, str(workdir))
    assert scores is not None
    return (config, workdir, scores), compiled


@pytest.fixture(scope="module")
def finished(logged: tuple[_Finished, _Compiled]) -> _Finished:
    return logged[0]


def test_each_step_is_compiled_once_per_run(logged: tuple[_Finished, _Compiled]) -> None:
    for name in ("train_step", "embed_step", "is_finite", "_rank"):
        assert logged[1].count(name) == 1


def test_batch_not_yet_on_the_devices_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "prefetch", lambda batches, shardings: batches)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(_config(), str(tmp_path))


def test_profile_is_written_and_idle_share_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(_config(sampling__batch_size=8, train__num_epochs=1), str(tmp_path), profiled=True)
    output = capsys.readouterr().out
    assert re.search(r"profile   devices idle \d+\.\d% of 50 steps", output)
    assert re.search(r"time      \d+ s: .*training steps \d+\.\d%", output)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_training_lowers_the_loss_and_writes_divisions_and_scores(finished: Any) -> None:
    _, workdir, scores = finished
    losses = [row["train/loss"] for row in _lines(workdir, "train/")]
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])
    divisions = _lines(workdir, "division/")
    assert [row["division/num_clusters"] for row in divisions] == [1, 2, 2]
    assert 0 < divisions[-1]["division/agreement"] <= 1
    assert json.loads((workdir / "scores.json").read_text())["last"] == {"epoch": 3, **scores}


def test_times_tell_division_and_planning_apart(finished: Any) -> None:
    _, workdir, _ = finished
    records = map(json.loads, (workdir / "times.jsonl").read_text().splitlines())
    counts = Counter(record["activity"] for record in records if record["kind"] == "activity")
    # Of each of three epochs: until its features are embedded, until the host has divided.
    assert (counts["division"], counts["planning"], counts["training steps"]) == (6, 3, 3)


def test_loaded_model_scores_as_in_training(finished: Any) -> None:
    _, workdir, scores = finished
    assert dcjax.load(str(workdir)).evaluate() == scores


def test_loaded_model_embeds_arrays(finished: Any) -> None:
    config, workdir, _ = finished
    splits, _ = inputs.load_splits(config.dataset)
    embedder = dcjax.load(str(workdir))
    embeddings = embedder(splits.query.images[:3])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(embedder(splits.query.images[2:3]), embeddings[2:], atol=1e-5)
    assert embedder(splits.query.images[:0]).shape == (0, 8)


def test_any_ordered_collection_of_images_is_embedded(finished: Any, tmp_path: Path) -> None:
    embedder = dcjax.load(str(finished[1]))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, pixels, strict=True):
        path.write_bytes(png(image))
    expected = embedder(pixels)
    for images in (
        paths,
        tuple(map(str, paths)),
        (str(path) for path in paths),
        np.array(paths),
        np.array(list(map(str, paths))),
        list(map(os.fsencode, paths)),
        list(pixels),
        iter(pixels),
        jnp.asarray(pixels),
        np.asfortranarray(pixels),
    ):
        np.testing.assert_array_equal(embedder(images), expected)
    for none in ([], (), pixels[:0], np.array([], str)):
        assert embedder(none).shape == (0, 8)


def test_inputs_that_are_no_list_of_images_are_refused(finished: Any) -> None:
    embedder = dcjax.load(str(finished[1]))
    images = np.zeros((2, 8, 8, 3), np.uint8)
    for wrong, description in (
        ("image.jpg", "'image.jpg'"),
        (b"image.jpg", "b'image.jpg'"),
        (Path("image.jpg"), r"PosixPath\('image.jpg'\)"),
        (None, "None"),
        (3, "3"),
        ({"a.jpg"}, "{'a.jpg'}"),
        ({"a.jpg": 1}, "{'a.jpg': 1}"),
        (np.array("a.jpg"), r"an array of <U5 \[\]"),
        (np.array(3, np.uint8), r"an array of uint8 \[\]"),
        ([images[0], 1], r"int64 \[\] in place 1"),
        ((None for _ in range(2)), r"object \[\] in place 0"),
        ([["a.jpg"]], r"<U5 \[1\] in place 0"),
        ([[images[0], images[0, :4]]], r"\[array"),
        (images / 255, r"float64 \[8, 8, 3\] in place 0"),
        ([images[0], images[1] > 9], r"bool \[8, 8, 3\] in place 1"),
        (images.astype(int), r"int64 \[8, 8, 3\] in place 0"),
        (images[0], r"an array of uint8 \[8, 8, 3\]"),
        (images[..., 0], r"an array of uint8 \[2, 8, 8\]"),
        (images[..., :2], r"uint8 \[8, 8, 2\]"),
        (images[:, :0], r"uint8 \[0, 8, 3\]"),
        (Image.fromarray(images[0]), r"<PIL"),
        ([Image.fromarray(images[0, ..., 0]).convert("F")], r"float32 \[8, 8\] in place 0"),
    ):
        with pytest.raises(
            InputError, match=rf"^Give a list of pictures: paths, .*; got {description}"
        ):
            embedder(wrong)
    with pytest.raises(InputError, match=r"\(255 \* x\).round\(\).astype\('uint8'\); got float32"):
        embedder([images[0].astype(np.float32)])


def test_loaded_model_runs_at_any_batch_size_on_any_number_of_devices(finished: Any) -> None:
    config, workdir, _ = finished
    config = config.copy_and_resolve_references()
    images = inputs.load_splits(config.dataset)[0].query.images[:21]
    expected = dcjax.load(str(workdir))(images)
    for batch_size in (1, 7, 100):  # on eight devices
        config.eval.batch_size = batch_size
        embeddings = dcjax.load(str(workdir), config)(images)
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)


def test_loaded_model_embeds_128_images_a_batch_on_six_devices(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workdir, _ = finished
    assert config.eval.batch_size == 128
    images = inputs.load_splits(config.dataset)[0].query.images[:300]
    expected = dcjax.load(str(workdir))(images)
    mesh = devices.create_mesh(jax.devices()[:6])
    monkeypatch.setattr(devices, "create_mesh", lambda: mesh)
    np.testing.assert_allclose(dcjax.load(str(workdir))(images), expected, atol=1e-5)


def test_loaded_model_compiles_once_for_each_size_of_a_batch(
    finished: Any, caplog: pytest.LogCaptureFixture
) -> None:
    embedder = dcjax.load(str(finished[1]))
    images = np.random.default_rng(0).integers(0, 256, (300, 9, 9, 3), np.uint8)
    jax.clear_caches()

    def compiled(numbers: tuple[int, ...]) -> int:
        caplog.clear()
        with jax.log_compiles(True):
            for number in numbers:
                embedder(images[:number])
        return sum(r.getMessage().startswith("Compiling") for r in caplog.records)

    assert compiled((128, 50)) > 0  # batches of 128 and of 64 images
    assert compiled((128, 127, 65, 64, 50, 33, 300 - 44)) == 0


def test_loading_a_model_does_not_change_process_settings(finished: Any) -> None:
    done = subprocess.run(
        [sys.executable, "tests/host_state.py", str(finished[1])],
        cwd=_ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_best_checkpoint_can_be_selected(finished: Any) -> None:
    config, workdir, _ = finished
    best = json.loads((workdir / "scores.json").read_text())["best_test"]
    with config.unlocked():
        chosen = config.copy_and_resolve_references()
    chosen.eval.select = "best_test"
    embedder = dcjax.load(str(workdir), chosen)
    assert embedder.epoch == best.pop("epoch")
    assert embedder.evaluate() == best


def test_finished_run_is_not_trained_again(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, workdir, scores = finished
    monkeypatch.delattr(build.Experiment, "readers")  # and its images are not read
    before = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert train(config, str(workdir)) == scores
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == before


def test_workdir_of_another_config_is_refused(finished: Any) -> None:
    _, workdir, _ = finished
    other = _config(division__max_clusters=2, optimizer__learning_rate=0.5, seed=1)
    with pytest.raises(ValueError, match=r"optimizer.learning_rate=0.5 \(saved: 0.001\), seed=1"):
        train(other, str(workdir))


def test_second_run_in_a_workdir_is_refused_before_it_writes(finished: Any) -> None:
    config, workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    with (
        shared_workdirs.lock(str(workdir)),
        pytest.raises(OSError, match=rf"{workdir}, held by process {os.getpid()} on "),
    ):
        train(config, str(workdir))
    after = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    del before[workdir / "run.lock"], after[workdir / "run.lock"]
    assert after == before


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": '{"model_type": "resnet"}'},
        {"config.json": "[1, 2]"},
        {"config.json": '{"seed": '},
        {"scores.json": "{}"},
        {"metrics.jsonl": '{"step": 1}'},
        {"tensorboard/events": ""},
        {"config.json": "OURS", "scores.json": "{}"},
    ],
)
def test_new_run_overwrites_nothing_of_another(tmp_path: Path, files: dict[str, str]) -> None:
    config = _config()
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text.replace("OURS", json.dumps(config.to_dict())))
    before = {name: (tmp_path / name).read_bytes() for name in files}
    named = re.escape(", ".join(name.partition("/")[0] for name in files))
    with pytest.raises(ValueError, match=rf"no checkpoint, but {named} of another .*--workdir"):
        train(config, str(tmp_path))
    assert before == {name: (tmp_path / name).read_bytes() for name in files}


def test_run_killed_before_its_first_checkpoint_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(epochs.Planner, "begin", kill)
    with pytest.raises(KeyboardInterrupt):
        train(_config(), str(tmp_path))
    reporter.check_new(_config(train__num_epochs=4), str(tmp_path))
    names = re.escape("config.json, metrics.jsonl, tensorboard of another run")
    with pytest.raises(ValueError, match=names):
        train(_config(seed=1), str(tmp_path))


@pytest.mark.parametrize(
    ("grouping", "hierarchy", "max_clusters", "masks"),
    [
        pytest.param("random", "progressive", 4, "learned", marks=pytest.mark.long),
        ("labels", "direct", 3, "fixed"),
    ],
)
def test_continued_run_of_other_groupings_equals_an_uninterrupted_one(
    grouping: str,
    hierarchy: str,
    max_clusters: int,
    masks: str,
    tmp_path: Path,
    write_tree: Callable[..., str],
) -> None:
    classes = [("train", f"{i:02}", "abcd"[i % 4]) for i in range(12)] + [("test", "x", "a")] * 2
    rows = [
        f"{number}_{i}.png,{label}{number if split == 'test' else ''},{split},{above}"
        for number, (split, label, above) in enumerate(classes)
        for i in range(4)
    ]
    pictures = {row.split(",")[0]: None for row in rows}
    table = "\n".join(["path,label,split,super_class", *rows])
    config = _config(
        dataset__name="manifest",
        dataset__manifest=f"{write_tree(pictures | {'table.csv': table})}/table.csv",
        division__grouping=grouping,
        division__hierarchy=hierarchy,
        division__max_clusters=max_clusters,
        model__masks=masks,
        sampling__batch_size=8,
        sampling__images_per_class=2,
        eval__ks=(1,),
    )
    uninterrupted, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(config, str(uninterrupted))
    shutil.copytree(uninterrupted, stopped)
    small_runs.remove_last_checkpoint(stopped)
    train(config, str(stopped))
    run, division = small_runs.load_checkpoint(config, uninterrupted)
    small_runs.assert_equal(small_runs.load_checkpoint(config, stopped), (run, division))
    assert run.num_clusters == len(division["parents"]) == max_clusters
    assert set(division["cluster"][division["cluster"] >= 0]) == set(range(max_clusters))
    if masks == "fixed":  # 8 dimensions for 3 clusters
        np.testing.assert_array_equal(run.masks.sum(axis=0), np.ones(8))
        np.testing.assert_array_equal(run.masks.sum(axis=1), [2, 3, 3])


def test_stopped_run_of_steps_with_schedule_and_average_equals_an_uninterrupted_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(
        division__max_clusters=2,
        sampling__batch_size=32,
        optimizer__name="adamw",
        optimizer__decay="decoupled",
        optimizer__schedule="cosine",
        optimizer__clip_norm=0.5,
        checkpoint__every_epochs=0,
        train__ema_decay=0.9,
        train__num_epochs=40,
        train__num_steps=35,  # of about 28 an epoch
    )
    uninterrupted, stopped = tmp_path / "whole", tmp_path / "stopped"
    with _log_compilations() as compiled:
        scores = train(config, str(uninterrupted))
    assert compiled.count("train_step") == 1
    run, division = small_runs.load_checkpoint(config, uninterrupted)
    assert run.step == 35
    assert [row["step"] for row in _lines(uninterrupted, "eval/")] == [35]
    assert json.loads((uninterrupted / "scores.json").read_text())["last"]["epoch"] == 2
    of_steps = [row["train/learning_rate"] for row in _lines(uninterrupted, "train/")]
    expected = 1e-3 * (1 + np.cos(np.pi * np.arange(35) / 35)) / 2
    np.testing.assert_allclose(of_steps, expected, rtol=1e-4)
    assert "35 steps, about 28 an epoch, of 32 images" in capsys.readouterr().out

    again = small_runs.train_with_a_stop(config, stopped, after_steps=32)  # in the last epoch
    assert again == scores
    small_runs.assert_equal(small_runs.load_checkpoint(config, stopped), (run, division))
    assert train(config, str(stopped)) == scores  # nothing is left to train
    assert "finished  already" in capsys.readouterr().out

    embedder = dcjax.load(str(uninterrupted))
    np.testing.assert_array_equal(embedder.masks, run.average["masks"])
    assert np.all(run.average["masks"] != run.masks)
    assert embedder.evaluate() == embedder.scores == scores


def test_epochs_of_ten_steps_divide_and_score_every_ten_and_continue_exactly(
    tmp_path: Path,
) -> None:
    config = _config(
        division__max_clusters=2,
        division__every_epochs=1,
        division__freeze_backbone_epochs=0,
        sampling__batch_size=32,
        sampling__epoch_steps=10,
        eval__every_epochs=1,
        train__num_epochs=3,
    )
    uninterrupted, stopped = tmp_path / "whole", tmp_path / "stopped"
    scores = train(config, str(uninterrupted))
    assert [row["step"] for row in _lines(uninterrupted, "eval/")] == [10, 20, 30]
    assert [row["step"] for row in _lines(uninterrupted, "division/")] == [0, 10, 20]
    assert small_runs.train_with_a_stop(config, stopped, after_steps=14) == scores
    small_runs.assert_equal(
        *(small_runs.load_checkpoint(config, folder) for folder in (stopped, uninterrupted))
    )


def test_non_finite_loss_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    # In epoch 1 the backbone is frozen; in epoch 2 each step makes its weights larger.
    config = _config(
        division__every_epochs=2,
        division__freeze_backbone_epochs=1,
        model__masks="fixed",
        optimizer__embedding_multiplier=0.0,
        optimizer__decay="decoupled",
        optimizer__learning_rate=10.0,
        optimizer__weight_decay=10.0,
    )
    with pytest.raises(FloatingPointError, match=r"The loss of step \d+, nan, is not") as stopped:
        train(config, str(tmp_path))
    step = int(str(stopped.value).split("step ")[1].split(",")[0])
    (saved,) = _lines(tmp_path, "train/")[-1:]
    last_good = Checkpoints(str(tmp_path), read_only=True).number("last")
    assert last_good < step == saved["step"] + 1
    run, _ = small_runs.load_checkpoint(config, tmp_path)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(run))


def _start(workdir: Path, cache: str) -> subprocess.Popen[str]:
    settings = _TINY | _KEPT | {"dataset.cache": cache}
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "launch.py", "--config=configs/digits.py", f"--workdir={workdir}"]
    return subprocess.Popen(
        command + flags,
        cwd=_ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


def _wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _steps_done(workdir: Path) -> int:
    try:
        return int(_lines(workdir, "train/")[-1]["step"])
    except (OSError, IndexError, json.JSONDecodeError):
        return 0


@pytest.mark.long
def test_run_killed_in_an_epoch_and_in_a_save_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    # A run from the device cache, which is filled again each time, also equals one from files.
    uninterrupted, broken = tmp_path / "whole", tmp_path / "broken"
    output, _ = _start(uninterrupted, cache="none").communicate()
    steps_per_epoch = int(output.split("epochs of about ")[1].split()[0])

    def kill_when(condition: Callable[[], Any], number: int) -> str:
        process = _start(broken, cache="device")
        _wait_for(condition, process)
        process.send_signal(number)
        text = process.communicate()[0]
        assert process.returncode == (0 if number == signal.SIGTERM else -number)
        return text

    kill_when(lambda: _steps_done(broken) > steps_per_epoch * 0.5, signal.SIGKILL)
    kill_when(lambda: list((broken / "checkpoints").glob("*tmp*")), signal.SIGKILL)
    text = kill_when(lambda: _steps_done(broken) > steps_per_epoch * 1.3, signal.SIGTERM)
    assert "Stopped by SIGTERM and saved" in text
    process = _start(broken, cache="device")
    text, _ = process.communicate()
    assert process.returncode == 0, text

    config = _config(**_KEPT)
    run, division = small_runs.load_checkpoint(config, uninterrupted)
    assert np.all(run.memory["labels"] >= 0)
    assert run.memory["count"] > 48
    small_runs.assert_equal(small_runs.load_checkpoint(config, broken), (run, division))
    assert _lines(uninterrupted, "train/") == _lines(broken, "train/")
