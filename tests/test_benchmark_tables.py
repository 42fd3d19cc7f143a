"""Records of benchmarks, and the tables that are written from them into docs/."""

import dataclasses
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

_ROOT = Path(__file__).parents[1]
_PAGE = "# Speed\n\n<!-- details of python benchmarks/a.py: one -->\nold\n<!-- end -->\n\nText.\n"


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, which benchmarks import from their own folder."""
    monkeypatch.syspath_prepend(_ROOT / "benchmarks")
    return importlib.import_module("records")


@pytest.fixture
def tables(records: ModuleType) -> ModuleType:
    return importlib.import_module("tables")


def _record(records: ModuleType, **fields: object) -> object:
    contestants = [
        records.Contestant("dcjax", seconds=0.5, spread=[0.4, 0.6]),
        records.Contestant("peer", seconds=1.0, ratio=2.0, ratio_spread=[1.9, 2.2]),
    ]
    return records.Record(
        **{
            "command": "python benchmarks/a.py",
            "subject": "one",
            "device": "CPU",
            "date": "2026-11-30",
            "machine": "2 cores",
            "other_work": None,
            "versions": {"jax": "0.10.2"},
            "rounds": 3,
            "work": 10,
            "unit": "images",
            "contestants": contestants,
        }
        | fields
    )


def test_tables_of_pages_are_those_of_the_records(records: ModuleType, tables: ModuleType) -> None:
    found = records.load()
    for page in sorted((_ROOT / "docs").glob("*.md")):
        text = page.read_text()
        assert tables.fill(text, found) == text, "run python benchmarks/tables.py --write"


def test_every_command_of_make_benchmark_has_a_table() -> None:
    commands = re.findall(r"benchmarks/\S+\.py[^\n]*", (_ROOT / "Makefile").read_text())
    commands.remove("benchmarks/tables.py --write")
    assert len(commands) > 8
    page = (_ROOT / "docs" / "performance.md").read_text()
    places = re.findall(r"<!-- \w+ of python ([^\n:]*)(?:: [^\n]*)? -->", page)
    assert [command for command in commands if command not in places] == []


def test_ratio_is_the_median_of_the_rounds_and_seconds_are_of_one_repeat(
    records: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results.jsonl")
    timings = {
        "dcjax": records.Timing([1.0, 2.0, 4.0], [2.0, 2.0, 2.0]),
        "peer": records.Timing([5.0, 4.0, 4.0], [3.0, 2.0, 6.0], results={"nmi": 0.5}),
    }
    record = records.save("one", timings, since=records.now(), repeats=10)
    assert records.load() == [record]
    ours, peer = record.contestants
    assert (ours.seconds, ours.spread, ours.ratio) == (0.2, [0.1, 0.4], None)
    assert (peer.ratio, peer.ratio_spread, peer.cpu_ratio) == (2.0, [1.0, 5.0], 1.5)
    assert peer.results == {"nmi": 0.5}


def test_record_replaces_the_one_of_its_command_and_subject(
    records: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results.jsonl")
    for subject, seconds in (("one", 1.0), ("two", 2.0), ("one", 3.0)):
        records.save(subject, {"dcjax": records.Timing([seconds])}, since=records.now())
    found = [(record.subject, record.contestants[0].seconds) for record in records.load()]
    assert found == [("one", 3.0), ("two", 2.0)]


def test_tables_of_a_page_say_date_and_machine(records: ModuleType, tables: ModuleType) -> None:
    old = _record(records)
    new = dataclasses.replace(old, subject="one more", date="2026-12-01", other_work=0.25)
    other = dataclasses.replace(old, subject="two", other_work=0.01)
    page = f"<!-- machines -->\n<!-- end -->\n\n{_PAGE}"
    shown = tables.fill(page, [old, new, other])
    table = (
        "| subject | contestant | time | images/s | ours is faster by | spread |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| {} | dcjax | 500 ms | 20 |  |  |\n"
        "|  | peer | 1 s | 10 | 2 | 1.9 to 2.2 |\n"
    )
    assert shown == (
        "<!-- machines -->\n\n* [1] 2 cores; jax 0.10.2\n\n<!-- end -->\n\n# Speed\n\n"
        "<!-- details of python benchmarks/a.py: one -->\n\n"
        "`python benchmarks/a.py`, 2026-11-30, medians of 3 rounds, on [1]:\n\n"
        f"{table.format('one')}\n"
        "`python benchmarks/a.py`, 2026-12-01, medians of 3 rounds, beside other work on up to "
        f"25% of the cores, on [1]:\n\n{table.format('one more')}\n"
        "<!-- end -->\n\nText.\n"
    )
    assert tables.fill(shown, [old, new, other]) == shown


def test_what_was_not_measured_is_said(tables: ModuleType) -> None:
    assert "Not measured yet: `python benchmarks/a.py`.\n\n<!-- end -->" in tables.fill(_PAGE, [])


def test_overview_has_a_row_for_each_peer(records: ModuleType, tables: ModuleType) -> None:
    new = _record(records, subject="two", date="2026-12-01", versions={"jax": "0.11.0"})
    lines = tables.overview([_record(records), new]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    assert cells[0] == [
        "subject",
        "ours",
        "peer",
        "peer's",
        "ours is faster by",
        "spread",
        "date",
        "on",
    ]
    assert cells[2] == ["one", "500 ms", "peer", "1 s", "2", "1.9 to 2.2", "2026-11-30", "[1]"]
    assert cells[3] == ["two", "500 ms", "peer", "1 s", "2", "1.9 to 2.2", "2026-12-01", "[2]"]
    assert lines[-1] == "* [2] 2 cores; jax 0.11.0"
