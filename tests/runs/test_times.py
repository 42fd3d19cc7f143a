"""What took how long is recorded line by line, and never ends a run."""

from pathlib import Path

from dcjax.runs import times
from dcjax.runs.times import Times


def test_records_of_all_starts_are_kept_in_order(tmp_path: Path) -> None:
    for step in (0, 40):
        started = Times(tmp_path)
        started.write("start", step=step)
        started.write("epoch", epoch=step // 20, images_per_second=7.5)
    records = times.read(tmp_path / times.FILE)
    assert [record["kind"] for record in records] == ["start", "epoch"] * 2
    assert [record.get("step", record.get("epoch")) for record in records] == [0, 0, 40, 2]
    assert [record["time"] for record in records] == sorted(x["time"] for x in records)


def test_lines_that_are_no_whole_record_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / times.FILE
    assert times.read(path) == []
    path.write_bytes(b'{"kind": "a"}\n[1]\n\xff\0\n{"kind": "b"}\n{"kind": "c", "ti')
    assert [record["kind"] for record in times.read(path)] == ["a", "b"]


def test_a_record_that_cannot_be_written_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / times.FILE).mkdir()
    written = Times(tmp_path)
    written.write("start", step=0)
    assert str(tmp_path / times.FILE) in written.failure
    Times(None).write("start", step=0)
