"""Tables of what benchmarks measured, from `results.jsonl`.

    python benchmarks/tables.py            # prints one table of everything
    python benchmarks/tables.py --write    # also writes the tables of docs/*.md

A table of a page stands between two comments, of which the first one names what it shows:

    <!-- details of python benchmarks/clustering.py: K-means -->
    <!-- end -->

"details" has a row for each contestant, "summary" one for each peer. After the command, which ends
at the colon, may stand how its subjects begin. Records are shown under the command and the date
that they have in common, so that no table is older than it says; `<!-- machines -->` is the place
for the machines and versions that the tables name by number.
"""

import argparse
import itertools
import pathlib
import re
from collections.abc import Iterable, Sequence

import records
from records import Contestant, Record

_ROOT = pathlib.Path(__file__).parents[1]
_PLACE = re.compile(
    r"<!-- (?P<form>details|summary) of (?P<command>[^\n]+?)(?:: (?P<subject>[^\n]+))? -->\n"
    r".*?<!-- end -->",
    re.DOTALL,
)
# Share of the cores that other work takes on a machine that is called quiet.
_QUIET = 0.02
_MACHINES = re.compile(r"<!-- machines -->\n.*?<!-- end -->", re.DOTALL)


def main() -> None:
    """Writes what is asked for, and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="also write the tables of docs/*.md")
    options = parser.parse_args()
    found = records.load()
    for page in sorted((_ROOT / "docs").glob("*.md")) if options.write else ():
        text = page.read_text(encoding="utf-8")
        if (filled := fill(text, found)) != text:
            page.write_text(filled, encoding="utf-8")
            print(f"wrote     {page.relative_to(_ROOT)}")
    print(overview(found))


def fill(page: str, found: Sequence[Record]) -> str:
    """Returns a page with its tables made anew from records."""
    machines: list[str] = []

    def replace(place: re.Match[str]) -> str:
        chosen = [
            record
            for record in found
            if record.command == place["command"]
            and record.subject.startswith(place["subject"] or "")
        ]
        form = details if place["form"] == "details" else summary
        tables = []
        for _, alike in itertools.groupby(chosen, _common):
            group = list(alike)
            if (machine := _machine(group[0])) not in machines:
                machines.append(machine)
            number = machines.index(machine) + 1
            tables.append(f"{_caption(group)}, on [{number}]:\n\n{form(group)}")
        first, _, _ = place[0].partition("\n")
        missing = f"Not measured yet: `{place['command']}`."
        return "\n\n".join([first, *(tables or [missing]), "<!-- end -->"])

    page = _PLACE.sub(replace, page)
    legend = f"<!-- machines -->\n\n{_legend(machines)}\n\n<!-- end -->"
    return _MACHINES.sub(lambda _: legend, page)


def details(found: Iterable[Record]) -> str:
    """Returns a table with a row for each contestant."""
    rows = []
    for record in found:
        compared = record.rounds == 1 or any(x.ratio for x in record.contestants)
        for number, contestant in enumerate(record.contestants):
            results = contestant.results.items()
            row = {
                "subject": "" if number else record.subject,
                "contestant": contestant.name,
                "time": _seconds(contestant.seconds),
                "least to most, s": "" if compared else _range(contestant.spread or ()),
                "CPU time": _seconds(contestant.cpu_seconds),
                f"{record.unit}/s": _rate(record, contestant),
                **_comparison(contestant),
                "peak MiB": _number(contestant.peak_mib),
                "results": ", ".join(f"{name} {value:,.6g}" for name, value in results),
            }
            rows.append(row)
    return markdown(rows)


def summary(found: Iterable[Record]) -> str:
    """Returns a table with a row for each peer, and for each contestant without ratios."""
    return markdown([row for record in found for row in _summary_rows(record)])


def overview(found: Sequence[Record]) -> str:
    """Returns the summary of all records with their dates, and below it machines and versions."""
    machines = list(dict.fromkeys(map(_machine, found)))
    rows = [
        row | {"date": record.date, "on": f"[{machines.index(_machine(record)) + 1}]"}
        for record in found
        for row in _summary_rows(record)
    ]
    return f"{markdown(rows, aligned=True)}\n\n{_legend(machines)}"


def _summary_rows(record: Record) -> list[dict[str, str]]:
    ours, *others = record.contestants
    if any(other.ratio for other in others):
        return [_summary_row(record.subject, ours, other) for other in others]
    alone = len(record.contestants) == 1
    return [
        _summary_row(record.subject if alone else f"{record.subject}: {one.name}", one, None)
        for one in record.contestants
    ]


def _summary_row(subject: str, ours: Contestant, peer: Contestant | None) -> dict[str, str]:
    return {
        "subject": subject,
        "ours": _seconds(ours.seconds),
        "peer": peer.name if peer else "",
        "peer's": _seconds(peer.seconds if peer else None),
        **_comparison(peer or ours),
    }


def _comparison(contestant: Contestant) -> dict[str, str]:
    """Returns the columns of the ratios."""
    return {
        "ours is faster by": _number(contestant.ratio),
        "spread": _range(contestant.ratio_spread or ()),
        "by CPU time": _number(contestant.cpu_ratio),
    }


def _rate(record: Record, contestant: Contestant) -> str:
    if record.work is None or contestant.seconds is None:
        return ""
    return _number(record.work / contestant.seconds)


def _common(record: Record) -> tuple[str, str, int, str]:
    """Returns what records of one table have in common."""
    return record.command, record.date, record.rounds, _machine(record)


def _caption(found: Sequence[Record]) -> str:
    """Returns how the records of a table were measured, in words."""
    command, date, rounds, _ = _common(found[0])
    busy = [record.other_work for record in found if record.other_work is not None]
    most = max(busy, default=0.0)
    others = f", beside other work on up to {most:.0%} of the cores" if most > _QUIET else ""
    how = f"medians of {rounds} rounds" if rounds > 1 else "one round"
    return f"`{command}`, {date}, {how}{others}"


def _machine(record: Record) -> str:
    """Returns machine and versions in words."""
    device = "" if record.device == "CPU" else f"{record.device}, "
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return f"{device}{record.machine}; {versions}"


def _legend(machines: Sequence[str]) -> str:
    return "\n".join(f"* [{number}] {machine}" for number, machine in enumerate(machines, start=1))


def markdown(rows: Sequence[dict[str, str]], *, aligned: bool = False) -> str:
    """Returns rows as Markdown, without columns that are empty."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = [name for name in names if any(row.get(name) for row in rows)]
    lines = [columns, ["---"] * len(columns)]
    lines += [[row.get(name, "") for name in columns] for row in rows]
    if aligned:
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        lines = [[x.ljust(n) for x, n in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _range(values: Sequence[float]) -> str:
    shown = dict.fromkeys(_number(value) for value in (min(values), max(values))) if values else ()
    return " to ".join(shown)


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{_number(value)} s" if value >= 1 else f"{_number(1000 * value)} ms"


def _number(value: float | None) -> str:
    """Returns three digits, without an exponent."""
    return "" if value is None else f"{float(f'{value:.3g}'):,.10g}"


if __name__ == "__main__":
    main()
