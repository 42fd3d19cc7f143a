"""The scores of all runs of a sweep are a file, from which its table and plots are made again."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from forks import launch

from dcjax.analysis import differences
from dcjax.core import streams
from dcjax.core.errors import FileError, InputError, SettingError
from dcjax.modes import raw_scores, run_records, sweep_files, sweep_plots, tables
from dcjax.modes.raw_scores import Study
from dcjax.modes.tables import Comparison, Row
from dcjax.runs import query_scores

_T = {2: 12.706205, 3: 4.302653}  # 97.5 % quantiles of Student's t for two and three values


def _run(seed: int, gain: float, *, validates: bool = True) -> dict[str, Any]:
    """Returns the fields of a row for one run: evaluations after 10, 20 and 30 steps."""
    scores = [0.4 + gain, 0.6 + gain + 0.01 * seed, 0.5 + gain]
    test = [
        {"epoch": i + 1, "step": 10 * (i + 1), "images": 160 * (i + 1), "seconds": 2.5 * (i + 1)}
        | {"recall_at_1": score, "map_at_r": score / 3}
        for i, score in enumerate(scores)
    ]
    test[-1]["nmi"] = 0.25
    validation = [{**point, "recall_at_1": point["recall_at_1"] / 2} for point in test[:2]]

    def selected(points: list[dict[str, float]], number: int) -> dict[str, float]:
        point = points[number]
        return {x: y for x, y in point.items() if x not in ("step", "images", "seconds")}

    result: dict[str, Any] = {"last": selected(test, 2), "best_test": selected(test, 1)}
    if validates:
        result |= {"ended_early": False, "best": selected(test, 1)}
        result |= {"best_validation": selected(validation, 1)}
        result |= {"refit": {"epoch": 2, "recall_at_1": 0.7 + gain, "map_at_r": 0.3}}
    return {
        "results": result,
        "pairs": (seed, 0),
        "costs": {"steps": 30, "images": 480, "seconds": 8.0 + seed},
        "divisions": {"separated_pairs": 0.125 * seed, "mask_cosine": 0.5},
        "evaluations": {"test": test, "validation": validation} if validates else {"test": test},
    }


def _row(name: str, runs: list[dict[str, Any]], **paper: float) -> Row:
    return Row(name, paper=paper, **{key: [run[key] for run in runs] for key in runs[0]})


def _rows() -> list[Row]:
    gains = {0: 0.02, 1: 0.05, 2: 0.03}
    return [
        _row("K = 1, plain", [_run(seed, 0.01 * seed) for seed in gains], recall_at_1=66.9),
        _row("learned", [_run(seed, 0.01 * seed + gain) for seed, gain in gains.items()]),
        _row("one seed", [_run(1, 0.1)]),
    ]


def _to(baseline: str, *rows: str, margin: float = 0.0) -> Comparison:
    """Returns the comparison of rows with one."""
    return Comparison(dict.fromkeys(rows, baseline), margin)


def _write(folder: Path, *, names: tuple[str, ...] = (), margin: float = 0.0) -> Study:
    comparison = _to("learned", "K = 1, plain", "one seed", margin=margin / 100)
    study = Study(_rows(), "recall_at_1", comparison)
    sweep_files.write(folder / "study", study, command="make it", names=names, over="seeds")
    return study


@pytest.mark.parametrize(
    ("names", "margin"), [((), 0.0), (("map_at_r", "recall_at_1"), 0.0), (("recall_at_1",), 0.5)]
)
def test_table_and_plots_made_from_the_scores_of_runs_are_the_same(
    tmp_path: Path, names: tuple[str, ...], margin: float
) -> None:
    _write(tmp_path, names=names, margin=margin)
    runs = tmp_path / "runs" / "study.runs.csv"
    runs.parent.mkdir()
    (tmp_path / "study.runs.csv").rename(runs)
    sweep_files.write_again(runs, command="make it", names=names, baseline="learned")
    first, again = (
        {path.name: path.read_text() for path in folder.glob("study*") if path != runs}
        for folder in (tmp_path, runs.parent)
    )
    assert set(first) == {"study.md", "study.csv"} | {
        f"study.{classes}{name}.svg"
        for name in names or ("recall_at_1",)
        for classes in ("", "validation.")
    }
    assert again == first
    shown = {"recall_at_1": "Recall@1", "map_at_r": "MAP@R"}
    for name in names or ("recall_at_1",):
        label = f"{shown[name]}, validation classes over steps"
        assert f"![{label}](study.validation.{name}.svg)" in first["study.md"]
    assert "![Recall@1 over steps](study.recall_at_1.svg)" in first["study.md"]


def test_each_evaluation_is_one_line_with_what_it_is_selected_as(tmp_path: Path) -> None:
    _write(tmp_path, names=("map_at_r",))
    with (tmp_path / "study.runs.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0])[10:13] == ["map_at_r", "recall_at_1", "nmi"]
    first = [line for line in lines if (line["row"], line["seed"]) == ("K = 1, plain", "2")]
    shown = [(x["split"], x["epoch"], x["step"], x["selected"], x["seconds"]) for x in first]
    assert shown == [
        ("test", "1", "10", "", "2.5"),
        ("test", "2", "20", "best_test best", "5.0"),
        ("test", "3", "30", "last", "10.0"),  # with what followed the last epoch
        ("validation", "1", "10", "", "2.5"),
        ("validation", "2", "20", "best_validation", "5.0"),
        ("refit", "2", "", "refit", ""),
    ]
    assert float(first[1]["recall_at_1"]) == 0.6 + 0.02 + 0.01 * 2
    assert first[2]["division/separated_pairs"] == "0.25"
    assert [x["map_at_r"] for x in lines if x["split"] == "paper"] == [""]


def test_rows_keep_their_own_baselines_in_the_file(tmp_path: Path) -> None:
    rows = [
        _row(name, [_run(seed, gain + 0.01 * seed * seed) for seed in range(2)])
        for name, gain in {"a": 0.0, "a, divided": 0.01, "b": 0.1, "b, divided": 0.13}.items()
    ]
    comparison = Comparison({"a, divided": "a", "b, divided": "b"})
    study = Study(rows, "recall_at_1", comparison)
    sweep_files.write(tmp_path / "study", study, command="c", names=["recall_at_1"], over="seeds")
    text = (tmp_path / "study.md").read_text()
    assert "Difference to the baseline of each row, between runs of the same seed: mean" in text
    assert "| a, divided against a | 2 | +1.00 [+1.00, +1.00] |" in text
    assert "| b, divided against b | 2 | +3.00 [+3.00, +3.00] |" in text
    assert "| a against" not in text
    assert "| b against" not in text
    runs = tmp_path / "study.runs.csv"
    assert raw_scores.read(runs).comparison == comparison
    sweep_files.write_again(runs, command="c", baseline="b", output=str(tmp_path / "b"))
    assert "| a, divided | 2 | -9.00 [-9.00, -9.00] |" in (tmp_path / "b.md").read_text()


def test_rows_of_a_file_without_baselines_are_compared_with_the_first(tmp_path: Path) -> None:
    _write(tmp_path)
    runs = tmp_path / "study.runs.csv"
    with runs.open() as file:
        lines = [*csv.DictReader(file)]
    with runs.open("w") as file:
        writer = csv.DictWriter(
            file, [x for x in lines[0] if x != "baseline"], extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(lines)
    found = raw_scores.read(runs).comparison.baselines
    assert found == dict.fromkeys(["learned", "one seed"], "K = 1, plain")


def test_command_line_makes_the_table_from_the_scores_of_runs(tmp_path: Path) -> None:
    _write(tmp_path)
    output = launch(
        "--mode=table",
        f"--runs={tmp_path}/study.runs.csv",
        f"--output={tmp_path}/again",
        "--scores=nmi,recall_at_1",
        "--baseline=learned",
    ).stdout
    assert output.count("wrote ") == 4  # no curve of NMI: one evaluation has it
    text = (tmp_path / "again.md").read_text()
    assert "|  | seeds | nmi | recall_at_1 | paper |" in text
    assert "Difference to learned, between runs of the same seed" in text


def test_table_without_a_file_or_with_flags_of_a_sweep_is_an_error() -> None:
    for flags, code, message in (
        ([], 2, "--mode=table takes --runs=NAME.runs.csv, got none."),
        (["--runs=/nowhere.csv", "--interval=bootstrap"], 2, "Only a sweep takes --interval"),
        (["--runs=/nowhere.csv"], 1, "Cannot read /nowhere.csv"),
    ):
        ended = launch("--mode=table", *flags)
        assert ended.returncode == code
        (line,) = ended.stderr.strip().splitlines()
        assert message in line


def test_what_is_no_file_of_scores_or_is_not_in_it_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path)
    runs = tmp_path / "study.runs.csv"

    def write_again(path: Path = runs, **changes: Any) -> None:
        sweep_files.write_again(path, command="", **changes)

    with pytest.raises(SettingError, match=r"--baseline .* got 'lerned'; rows are K = 1, plain, l"):
        write_again(baseline="lerned")
    with pytest.raises(SettingError, match=r"has: recall_at_1, map_at_r, nmi; got 'map'"):
        write_again(names=("map",))
    with pytest.raises(SettingError, match=r"written over the scores .* give another --output"):
        write_again(output=str(tmp_path / "study.runs"))
    with pytest.raises(SettingError, match=r"has: recall_at_1, map_at_r, nmi; got 'epoch'"):
        write_again(names=("epoch",))
    with pytest.raises(InputError, match=r"study.csv has no scores of runs: .* got no seed, fold"):
        write_again(tmp_path / "study.csv", output=str(tmp_path / "x"))
    text = runs.read_text()
    for wrong, message in (
        (
            text.replace("learned,0,0,", "learned,x,0,", 1),
            r"Line \d+ of .* is no line of a run: .*'x'",
        ),
        (text.replace("0.25", "a quarter", 1), "Line .* could not convert string to float: 'a qua"),
        (text.splitlines()[0], "got no lines"),
        ('"', "is no CSV file in UTF-8: unexpected end of data"),
        (text.replace("0.25", "nan", 1), "require a finite number in column nmi, got nan"),
        (text.replace("0.25", "1e999", 1), "require a finite number in column nmi, got 1e999"),
        (text.replace("0.25", "9" * 400, 1), "require a finite number in column nmi, got 9{50}"),
        (text.replace(",recall_at_1,\n", ",recall_at_1,-1\n"), "margin from 0 to 100, got -1"),
        (text.replace("\n", ",7\n").replace(",7\n", "\n", 1), "as many cells as there are columns"),
        (text.replace(",recall_at_1,\n", "\n", 1), "as many cells as there are columns"),
        (text.replace(",validation,", ",tset,"), "require a split of test, .*, paper, got 'tset'"),
        (
            text.replace(",best_test best,", ",beast,", 1),
            "lines of test to be last, .*, got 'beast'",
        ),
        (text + text.splitlines()[-1], r"two lines '\w+', of which one is too many"),
        (text.replace(",learned,", ",lerned,"), "the baseline of .* got 'lerned'; rows are K"),
        (text.replace(",learned,2,", ",,2,", 1), "is no line of a run: its row has two baselines"),
        (text.replace("map_at_r", "recall_at_1", 1), "has two columns 'recall_at_1'; remove one"),
        (text.replace("map_at_r", "../map", 1), r"letters, digits and _.@-, got '../map'"),
    ):
        runs.write_text(wrong)
        with pytest.raises(InputError, match=message):
            write_again()


def test_table_is_not_written_over_the_file_that_it_is_made_from(tmp_path: Path) -> None:
    _write(tmp_path)
    runs = tmp_path / "study.runs.csv"
    text = runs.read_text()
    (tmp_path / "linked.csv").hardlink_to(runs)
    for suffix in (".md", ".recall_at_1.svg"):
        (tmp_path / f"copy{suffix}").write_text(text)
    for source, output in (
        ("study.runs.csv", "study.runs"),
        ("study.runs.csv", "linked"),
        ("copy.md", "copy"),
        ("copy.recall_at_1.svg", "copy"),
    ):
        with pytest.raises(SettingError, match=r"written over the scores .* give another --output"):
            sweep_files.write_again(
                tmp_path / source, command="", names=["recall_at_1"], output=str(tmp_path / output)
            )
        assert (tmp_path / source).read_text() == text
    for output in (".", ".."):
        with pytest.raises(SettingError, match="Require --output to be the prefix of the files"):
            sweep_files.write_again(runs, command="", output=output)
    with pytest.raises(FileError, match="is a folder; give a file"):
        sweep_files.write_again(tmp_path, command="")


def test_names_of_rows_are_text_in_markdown() -> None:
    name = "a|b\n# <i>c</i> `d` *e* ![f](g)"
    rows = [_row(name, [_run(0, 0.0)]), _row("plain", [_run(0, 0.1)])]
    text = tables.format_markdown("t", "c", rows, [], comparison=_to(name, "plain"))
    escaped = r"a\|b\\n# &lt;i>c&lt;/i> \`d\` \*e\* !\[f](g)"
    assert f"| {escaped} | 1 |" in text
    assert f"Difference to {escaped}, between" in text
    assert name.replace("\n", "\\n") not in text


def test_evaluations_have_steps_images_and_seconds_of_training(tmp_path: Path) -> None:
    points = [
        {"step": 0, "backbone_features/recall_at_1": 0.1},
        {"step": 20, "train/loss": 0.5},
        {"step": 25, "eval/recall_at_1": 0.5, "eval/nmi": None, "eval/epoch": 1},
        {"step": 25, "validation/recall_at_1": 0.25, "validation/epoch": 1},
        {"step": 55, "eval/recall_at_1": 0.75, "eval/epoch": 2},
    ]
    records = [
        {"kind": "start"},
        {"kind": "activity", "activity": "division", "seconds": 2.0},
        {"kind": "activity", "activity": "training steps", "seconds": 8.0},
        {"kind": "epoch", "epoch": 0},
        {"kind": "activity", "activity": "evaluation", "seconds": 100.0},
        {"kind": "activity", "activity": "training steps", "seconds": 3.0},
        {"kind": "epoch", "epoch": 1},  # stopped in its midst
        {"kind": "start"},
        {"kind": "activity", "activity": "training steps", "seconds": 4.0},
        {"kind": "epoch", "epoch": 1},
    ]
    for name, lines in (("metrics.jsonl", points), ("times.jsonl", records)):
        (tmp_path / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert run_records.evaluations(tmp_path, 16) == {
        "test": [
            {"epoch": 1, "step": 25, "images": 400, "seconds": 10.0, "recall_at_1": 0.5},
            {"epoch": 2, "step": 55, "images": 880, "seconds": 17.0, "recall_at_1": 0.75},
        ],
        "validation": [
            {"epoch": 1, "step": 25, "images": 400, "seconds": 10.0, "recall_at_1": 0.25}
        ],
    }
    assert run_records.evaluations(tmp_path / "none", 16) == {}


def _drawn(rows: list[Row], comparison: Comparison) -> tuple[str, list[str]]:
    """Returns what the plot of recall at 1 says in words, and the texts of its legend."""
    (plot,) = sweep_plots.draw(rows, ["recall_at_1"], comparison=comparison, over="seeds").values()
    root = ElementTree.fromstring(plot[1])
    texts = [x.text or "" for x in root.iter("{http://www.w3.org/2000/svg}text")]
    return root.attrib["aria-label"], texts


def test_plot_has_means_and_paired_differences_with_their_intervals() -> None:
    rows = [
        _row(name, [_run(seed, gain, validates=False) for seed, gain in enumerate(gains)])
        for name, gains in {"base": (0.10, 0.14, 0.12), "ours": (0.13, 0.16, 0.16)}.items()
    ]
    label, texts = _drawn(rows, _to("base", "ours"))
    half = _T[3] * 2 / 3**0.5  # of a deviation of 2 percent
    less = [3.0, 2.0, 4.0]
    around = _T[3] * np.std(less, ddof=1) / 3**0.5
    mean = np.mean([50, 54, 52])
    assert f"base, Recall@1: {mean:.2f} [{mean - half:.2f}, {mean + half:.2f}] at 10, " in label
    assert (
        f"ours, difference: 3.00 [{3 - around:.2f}, {3 + around:.2f}] at 10, "
        f"3.00 [{3 - around:.2f}, {3 + around:.2f}] at 30 steps"
    ) in label
    assert "base, difference" not in label
    assert {"base", "ours", "steps", "difference, points", "Recall@1, percent"} <= set(texts)
    assert "Below: difference to base, between runs of the same seed, by" in " ".join(texts)
    cut = "Bands reach beyond the frame where they end at it."
    assert cut not in texts
    alone, _ = _drawn(rows[:1], _to("base", "ours"))
    assert "difference" not in alone
    far = [_row("far", [_run(0, 0.0, validates=False), _run(1, 0.3, validates=False)])]
    assert cut in _drawn(far, Comparison())[1]  # a band of 15 ± 191 percent, a line of 20


def test_rows_of_other_numbers_of_steps_are_compared_at_equal_steps() -> None:
    slow = _run(0, 0.0, validates=False)
    fast = _run(0, 0.0, validates=False)
    for evaluation in fast["evaluations"]["test"]:
        evaluation["step"] = evaluation["step"] * 5 // 4  # 12, 25, 37
    label, _ = _drawn([_row("slow", [slow]), _row("fast", [fast])], _to("slow", "fast"))
    # Between its evaluations after 10 and 20 steps, slow is at 0.4 + 0.2 * 2 / 10 after 12. It ends
    # after 30 steps, where fast is at 0.6 - 0.1 * 5 / 12.
    assert "fast, difference: -4.00 at 12, " in label
    assert label.endswith(f"{60 - 10 * 5 / 12 - 50:.2f} at 30 steps")
    assert "fast, Recall@1: 40.00 at 12, 50.00 at 37 steps" in label


def test_axis_has_images_where_steps_are_not_recorded_and_nothing_where_neither_is() -> None:
    row = _row("base", [_run(0, 0.0, validates=False)])
    for left_out, axis in (("step", "images seen"), ("images", "seconds of training")):
        for evaluation in row.evaluations[0]["test"]:
            evaluation.pop(left_out)  # type: ignore[attr-defined]
        _, texts = _drawn([row], Comparison())
        assert axis in texts
    for evaluation in row.evaluations[0]["test"]:
        evaluation.pop("seconds")  # type: ignore[attr-defined]
    assert not sweep_plots.draw([row], ["recall_at_1"], comparison=Comparison(), over="seeds")
    assert not sweep_plots.draw(_rows(), ["nmi"], comparison=Comparison(), over="seeds")


def test_scores_that_lack_an_epoch_or_curves_are_lines_too(tmp_path: Path) -> None:
    old = _run(0, 0.0, validates=False)
    for evaluation in old["evaluations"]["test"]:
        evaluation.pop("epoch")
    bare = _run(1, 0.0, validates=False) | {"evaluations": {}, "costs": {}, "divisions": {}}
    study = Study([_row("row", [old, bare])], "recall_at_1", Comparison())
    path = tmp_path / "x.runs.csv"
    path.write_text(raw_scores.format_csv(study, []))
    (row,) = raw_scores.read(path).rows
    assert row.results == [
        {x: y for x, y in run["results"].items() if x in ("last", "best_test")}
        for run in (old, bare)
    ]
    assert {x["step"] for x in row.evaluations[0]["test"]} == {10, 20, 30}
    assert row.evaluations[1] == {}
    assert row.costs == [{"steps": 30, "images": 480, "seconds": 8.0}, {}]


def _queries(seed: int, gain: float) -> dict[str, dict[str, np.ndarray]]:
    """Returns the scores of 40 queries of ten classes, of the last epoch of a run."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(0, 0.02, 40).astype(np.float32)
    labels = np.repeat(np.arange(10, dtype=np.int32), 4)
    return {"last": {"recall_at_1": 0.5 + gain + noise + 0.01 * labels * gain, "labels": labels}}


def test_intervals_by_bootstrap_are_over_seeds_and_classes() -> None:
    gains = {"base": (0.0, 0.0, 0.0, 0.0), "ours": (0.03, 0.05, 0.04, 0.06)}
    rows = [
        Row(
            name,
            [
                {"last": {"recall_at_1": 0.5 + x, "nmi": x}, "best": {"recall_at_1": x}}
                for x in each
            ],
            {},
            pairs=[(seed, 0) for seed in range(4)],
            queries=[_queries(10 * seed + len(name), x) for seed, x in enumerate(each)],
        )
        for name, each in gains.items()
    ]
    base, ours = rows
    less = np.stack(
        [
            x["last"]["recall_at_1"] - y["last"]["recall_at_1"]
            for x, y in zip(ours.queries, base.queries, strict=True)
        ]
    )
    labels = base.queries[0]["last"]["labels"]
    _, low, high = differences.two_level_interval(
        less, labels, streams.generator(0, streams.Stream.INTERVALS)
    )
    by_bootstrap = dataclasses.replace(_to("base", "ours"), bootstraps=True)
    found = by_bootstrap.difference(ours, rows, "last", "recall_at_1")
    assert found == pytest.approx([0.045, low, high])
    assert found[1:] != pytest.approx(
        _to("base", "ours").difference(ours, rows, "last", "recall_at_1")[1:], abs=1e-4
    )
    assert by_bootstrap.difference(ours, rows, "last", "nmi") == pytest.approx([0.045, "", ""])
    assert by_bootstrap.difference(ours, rows, "best", "recall_at_1")[1:] == ["", ""]
    text = tables.format_markdown("t", "c", rows, [], comparison=by_bootstrap)
    assert f"| ours | 4 | +4.50 [{100 * low:+.2f}, {100 * high:+.2f}] | +4.50 |" in text
    assert "95 % interval (bootstrap over seeds and classes, of scores that are means" in text
    note = "A difference without an interval is of fewer than three pairs"
    assert text.count(note) == 2  # NMI of the last epoch, and the epoch without scores of queries
    assert note not in tables.format_markdown("t", "c", rows, [], comparison=_to("base", "ours"))
    with_intervals = tables.format_markdown(
        "t", "c", rows, ["recall_at_1"], comparison=by_bootstrap
    )
    assert with_intervals.count(note) == 1
    assert (
        tables.format_csv(rows, [], by_bootstrap)
        .split("\n")[0]
        .endswith("difference,bootstrap_low,bootstrap_high")
    )
    ours.queries[0]["last"]["labels"][0] = 3
    assert by_bootstrap.difference(ours, rows, "last", "recall_at_1")[1:] == ["", ""]


def test_scores_of_queries_are_kept_for_the_epochs_that_are_wanted(tmp_path: Path) -> None:
    labels = np.array([7, 7, 9])
    for epoch in (1, 2, 3):
        scores = {"map_at_r": np.array([0.25, np.nan, epoch])}
        query_scores.write(tmp_path, epoch, scores, labels)
        query_scores.keep(tmp_path, {epoch, 1})
    assert query_scores.read(tmp_path, 2) == {}
    result = {"last": {"epoch": 3}, "best_test": {"epoch": 1}, "last_validation": {"epoch": 3}}
    result["best"] = {}  # of an older version
    found = run_records.of_queries(tmp_path, result)
    assert found.keys() == {"last", "best_test"}
    np.testing.assert_array_equal(found["last"]["map_at_r"], [0.25, np.nan, 3])
    np.testing.assert_array_equal(found["best_test"]["labels"], labels)
    path = tmp_path / "query_scores" / "3.npz"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 4] ^= 255  # in what is compressed
    for content in (b"PK of a copy that broke off", b"", whole[:-40], bytes(damaged)):
        path.write_bytes(content)
        assert query_scores.read(tmp_path, 3) == {}
    others: list[dict[str, Any]] = [
        {"map_at_r": np.zeros(3)},
        {"map_at_r": np.zeros(2), "labels": labels},
        {"map_at_r": np.array(["a", "b", "c"]), "labels": labels},
        {"map_at_r": np.zeros(3), "labels": labels.astype(float)},
        {"map_at_r": np.array([None] * 3), "labels": labels},
    ]
    for arrays in others:
        np.savez_compressed(path, **arrays)
        assert query_scores.read(tmp_path, 3) == {}
    np.save(path.with_suffix(".npy"), labels)
    path.with_suffix(".npy").replace(path)
    assert query_scores.read(tmp_path, 3) == {}
    query_scores.write(tmp_path / "query_scores" / "1.npz", 1, {}, labels)  # a file is in the way
