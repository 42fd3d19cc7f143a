"""Curves continue where a run does; printed output is readable in a file and on a terminal."""

import json
import resource
from pathlib import Path

import pytest
from tensorboardX.proto import event_pb2

from dcjax.core.console import Console
from dcjax.core.errors import FileError
from dcjax.data.quiet_tensorflow import tf
from dcjax.runs.curves import Scalars

SCORES = {"recall_at_1": 0.5, "map_at_r": 0.25, "marp_paper": 0.125, "nmi": 1.0}
MANY = SCORES | {"recall_at_2": 0.5, "recall_at_4": 0.5, "recall_at_8": 0.5, "r_precision": 0.25}


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")


def write(workdir: Path, *steps: int, size: int = 0) -> int:
    scalars = Scalars(workdir, step=0, size=size)
    for step in steps:
        scalars.write(step, {"loss": step / 4}, group="train")
    size = scalars.size
    scalars.close()
    return size


def rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_each_line_is_one_step_with_names_by_group(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    assert rows(tmp_path) == [{"step": 1, "train/loss": 0.25}, {"step": 2, "train/loss": 0.5}]
    assert list((tmp_path / "tensorboard").iterdir())


def test_continued_run_drops_lines_of_repeated_steps(tmp_path: Path) -> None:
    size = write(tmp_path, 1, 2)
    write(tmp_path, 3, 4, size=size)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "trai')  # a line truncated by a kill
    write(tmp_path, 3, 4, 5, size=size)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("damage", [lambda x: x[:-3], lambda x: x[:-3] + bytes(3), lambda x: b""])
def test_truncated_curves_continue_with_complete_lines(tmp_path: Path, damage) -> None:
    size = write(tmp_path, 1, 2)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(damage(path.read_bytes()))
    scalars = Scalars(tmp_path, step=2, size=size)
    assert scalars.lost == size - scalars.size > 0
    scalars.write(3, {"loss": 1.0}, group="train")
    assert scalars.size == path.stat().st_size
    scalars.close()
    assert [row["step"] for row in rows(tmp_path)] in ([1, 3], [3])


def test_tensorboard_reads_every_point_of_a_continued_run(tmp_path: Path) -> None:
    scalars = Scalars(tmp_path, step=7, size=0)
    scalars.write(8, {"loss": 0.25, "none": float("nan")}, group="train")
    scalars.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()  # which compares checksums
    first, session, point = map(event_pb2.Event.FromString, records)
    assert first.file_version == "brain.Event:2"
    assert (session.step, session.session_log.status) == (8, event_pb2.SessionLog.START)
    assert [(point.step, x.tag, x.simple_value) for x in point.summary.value] == [
        (8, "train/loss", 0.25)
    ]


def test_restarted_run_drops_all_earlier_lines(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    write(tmp_path, 0, 1)
    assert [row["step"] for row in rows(tmp_path)] == [0, 1]


def test_non_finite_values_are_written_as_json_null(tmp_path: Path) -> None:
    scalars = Scalars(tmp_path, step=0, size=0)
    scalars.write(1, {"loss": float("nan")}, group="train")
    scalars.close()
    assert rows(tmp_path) == [{"step": 1, "train/loss": None}]


def test_lines_are_printed_unchanged_and_unwrapped(capsys) -> None:
    text = "workdir   /data/[old] [/bold] " + 60 * "long "
    Console().print_line(text)
    assert capsys.readouterr().out == text + "\n"


@pytest.mark.parametrize("text", [":100: clusters", r"C:\runs\[1]"])
def test_markup_in_a_line_is_not_interpreted(text: str, capsys) -> None:
    Console().print_line(text)
    assert capsys.readouterr().out == text + "\n"


def test_table_aligns_numbers_and_leaves_missing_scores_blank(capsys) -> None:
    Console().print_scores("Scores", {"epoch 1": SCORES, "[best] epoch": {"nmi": 0.5}})
    lines = capsys.readouterr().out.splitlines()
    heading = next(line for line in lines if "R@1" in line)
    assert heading.split() == ["Scores", "R@1", "MAP@R", "mARP", "NMI"]
    first, second = (next(line for line in lines if name in line) for name in ("epoch 1", "[best]"))
    assert first.split() == ["epoch", "1", "0.5000", "0.2500", "0.1250", "1.0000"]
    assert second.split() == ["[best]", "epoch", "0.5000"]
    end = heading.index("NMI") + 3
    assert first[end - 6 : end] == "1.0000"
    assert second[end - 6 : end] == "0.5000"


def test_file_output_has_every_number_beside_a_long_label(capsys) -> None:
    label = "best epoch (120), chosen on these classes"
    Console().print_scores("Scores", {label: MANY})
    words = capsys.readouterr().out.split()
    assert {f"{score:.4f}" for score in MANY.values()} <= set(words)
    assert set(label.split()) <= set(words)
    assert not any("…" in word for word in words)


@pytest.mark.usefixtures("terminal")
def test_terminal_of_80_columns_shows_every_number(capsys) -> None:
    Console().print_scores("Scores", {"epoch 3": MANY})
    out = capsys.readouterr().out
    assert "…" not in out
    assert "epoch 3" in out
    assert out.count(".5000") + out.count(".2500") + out.count(".1250") == 7


def progress() -> None:
    with Console().progress("epoch 1/2", total=3, done=1) as move:
        move("loss 0.5")


def test_no_progress_bar_without_a_terminal(capsys) -> None:
    progress()
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("terminal")
def test_progress_bar_starts_at_the_steps_done_and_shows_its_text(capsys) -> None:
    progress()
    out = capsys.readouterr().out
    assert "1/3" in out
    assert "2/3" in out
    assert "loss 0.5" in out


def test_full_disk_is_an_error_unless_curves_may_be_lossy(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    strict = Scalars(tmp_path, step=0, size=0)
    for use in (lambda: strict.write(1, {"loss": 1.0}, group="train"), strict.close):
        with pytest.raises(OSError, match="No space left"):
            use()
    lossy = Scalars(tmp_path, step=0, size=0, lossy=True)
    for step in range(3):
        lossy.write(step, {"loss": 1.0}, group="train")
    lossy.close()


def test_temporarily_full_disk_leaves_only_complete_lines(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    scalars = Scalars(tmp_path, step=0, size=0, lossy=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        for step in range(100):
            scalars.write(step, {"loss": 1.0}, group="train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in scalars.failure
    scalars.write(100, {"loss": 1.0}, group="train")
    scalars.close()
    steps = [row["step"] for row in rows(tmp_path)]
    assert steps == [*range(len(steps) - 1), 100]
    assert 1 < len(steps) < 100
    assert scalars.size == (tmp_path / "metrics.jsonl").stat().st_size


def test_unwritable_tensorboard_folder_loses_no_json_lines(tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(FileError, match=r"Cannot write curves to .*tensorboard"):
        Scalars(tmp_path, step=0, size=0)
    scalars = Scalars(tmp_path, step=0, size=0, lossy=True)
    scalars.write(1, {"loss": 1.0}, group="train")
    scalars.close()
    assert [row["step"] for row in rows(tmp_path)] == [1]
    assert scalars.failure
