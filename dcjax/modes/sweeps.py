"""Plans sweeps: the rows of a table, each with some settings, as runs that rows share.

A config file has a sweep if it has, beside `get_config`, a function `sweep`, with the same argument
if there is one. It returns the rows of the table: `[{"name": "K = 2", "settings":
{"division.max_clusters": 2}}, ...]`, where a row may also have `"paper"`, a paper's scores in
percent, and `"baseline"`, the name of the row that it is compared with. The file may also say
`SCORES`, the scores of the table in order, and `RUNS`, a folder below runs/ that several files
share.
"""

import dataclasses
import inspect
import itertools
import json
import pathlib
import re
import shlex
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from dcjax.analysis import sequences
from dcjax.core import programs, regular_files
from dcjax.core.errors import InputError, SettingError, file_errors
from dcjax.experiment import config_files, same_run, versions
from dcjax.modes import raw_scores, run_records, sweep_files, tables
from dcjax.runs import workdirs

_ROW = {"name": str, "settings": dict, "paper": dict, "baseline": str}
_MOST = 1000  # folds, and seeds that are added: each is planned before the first run
_MAX_NAME = 150  # characters of what differs; file systems take 255 bytes of a name


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One training.

    Attributes:
      folder: its workdir, named after what it changes.
      config: its settings.
      command: the command that trains or continues it.
    """

    folder: pathlib.Path
    config: ConfigDict
    command: tuple[str, ...]

    def result(self) -> dict[str, dict[str, float]] | None:
        """Returns the scores if the run is finished, else None.

        Raises:
          InputError: if the folder holds a run of another config, or of more epochs.
        """
        path = self.folder / "config.json"
        if (content := _read(path)) is None:
            return None
        saved = versions.parse(content, str(path), known=self.config.to_dict())
        same_run.check_same(self.config.to_dict(), saved, str(self.folder), scored=True)
        scores = _read(self.folder / "scores.json")
        train = self.config.train
        epochs, wanted = _epochs(scores, self.folder), train.until_epoch or train.num_epochs
        if train.num_steps:  # the same in both; scores are written at the end
            wanted = epochs
        if epochs > wanted:
            raise InputError(
                f"{self.folder} holds a run of {epochs} epochs already, got "
                f"train.num_epochs={wanted}; take another --workdir, or ask for as many."
            )
        if scores is None or not (epochs == wanted or _ended_early(scores, train.stop_after)):
            return None
        if not train.refit:
            return scores
        again = _read(self.folder / "refit" / "scores.json")
        return scores | {"refit": again["last"]} if again else None

    @property
    def images_per_step(self) -> int:
        """Images of a step."""
        sampled = self.config.sampling
        return sampled.batch_size * sampled.clusters_per_step


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Rows of runs.

    Attributes:
      table: path of the table, without suffix.
      command: of the sweep.
      scores: those of the table; all if empty.
      rows: the runs of each row, one a seed and fold, by the row's name.
      paper: a paper's scores in percent, by the row's name.
      best_by: the score by which a row is chosen, if there are validation classes.
      over: what a row's runs differ in: "seeds", "folds" or "seeds x folds".
      comparison: of the rows; with a margin, not all of their runs may be needed.
    """

    table: pathlib.Path
    command: str
    scores: tuple[str, ...]
    rows: dict[str, list[Run]]
    paper: dict[str, dict[str, float]]
    best_by: str
    over: str
    comparison: tables.Comparison

    @property
    def runs(self) -> dict[Run, list[str]]:
        """Each run once, with the names of the rows that it belongs to."""
        first: dict[pathlib.Path, Run] = {}
        names: dict[Run, list[str]] = {}
        for name, runs in self.rows.items():
            for run in runs:
                names.setdefault(first.setdefault(run.folder, run), []).append(name)
        return names

    def rounds(self) -> Iterator[list[Run]]:
        """Yields the runs to finish next: all, or those of one more seed for undecided rows.

        What is undecided is found when the next round is asked for.
        """
        if not self.comparison.margin:
            yield list(self.runs)
            return
        for of_seed in zip(*self.rows.values(), strict=True):
            decisions = self.comparison.decisions(self.table_rows(), self.best_by)
            undecided = {name for name, decision in decisions.items() if not decision.outcome}
            needed = undecided | {self.comparison.baselines[name] for name in undecided}
            if not undecided:
                return
            wanted = {
                run.folder for name, run in zip(self.rows, of_seed, strict=True) if name in needed
            }
            yield [run for run in self.runs if run.folder in wanted]

    def table_rows(self) -> list[tables.Row]:
        """Returns the rows of what is finished."""
        rows = []
        for name, runs in self.rows.items():
            finished = {run: result for run in runs if (result := run.result())}
            images = [(run.folder, run.images_per_step) for run in finished]
            rows.append(
                tables.Row(
                    name,
                    list(finished.values()),
                    self.paper[name],
                    divisions=[run_records.last_division(run.folder) for run in finished],
                    pairs=[
                        (run.config.seed, run.config.dataset.validation_fold) for run in finished
                    ],
                    costs=[run_records.cost(*each) for each in images],
                    evaluations=[run_records.evaluations(*each) for each in images],
                    queries=[
                        run_records.of_queries(run.folder, result)
                        for run, result in finished.items()
                        if self.comparison.bootstraps
                    ],
                )
            )
        return rows

    def write(self) -> list[pathlib.Path]:
        """Writes the table of what is finished, its plots and the scores of each run.

        Returns:
          The files.
        """
        study = raw_scores.Study(self.table_rows(), self.best_by, self.comparison)
        return sweep_files.write(
            self.table,
            study,
            command=self.command,
            names=self.scores,
            over=self.over,
        )


def plan(
    config: ConfigDict,
    *,
    program: str,
    path: str,
    changes: Mapping[str, Any],
    seeds: Sequence[str],
    workdir: str | None,
    folds: int = 0,
    has_rows: bool = True,
    baseline: str = "",
    margin: float = 0.0,
    budget: int = 0,
    bootstraps: bool = False,
) -> Sweep:
    """Plans a sweep, and checks that its runs can be trained.

    Args:
      config: the file's settings with those of the command line.
      program: path of the program that trains, as in `sys.argv`.
      path: of the config file, with its argument behind a colon.
      changes: the settings of the command line, which hold for all rows.
      seeds: each trains all rows; none: that of the config.
      workdir: folder of the runs and the table; None: one below runs/.
      folds: disjoint parts of the training classes, each of which is once held out for validation
        from the runs of all rows; 0: none is.
      has_rows: whether the rows are those of the file's `sweep`; else one, the config as it is.
      baseline: name of the row that the others are compared with; "": as the rows say, or the
        first one.
      margin: difference in percent up to which rows count as equal, if seeds are added until that
        is decided.
      budget: how many seeds a row may then have; 0: none are added.
      bootstraps: whether intervals of differences are over seeds and classes of the queries.

    Raises:
      SettingError: if a row or a seed cannot be run.
      InputError: if a folder holds a run of another config.
    """
    file, _, argument = path.partition(":")
    module = vars(config_files.run(file))
    name = pathlib.Path(file).stem
    if has_rows:
        table_rows, experiment = _rows(module, file, argument)
    else:
        table_rows, experiment = [{"name": name, "settings": {}}], argument
    if folds:
        _check_folds(folds, config, table_rows, changes)
    own = {row["name"]: row.get("baseline", "") for row in table_rows}
    baselines = tables.find_baselines(baseline, own)
    if budget and bootstraps:
        raise SettingError(
            "--until=decided adds seeds by always-valid intervals, which are over seeds alone: "
            "leave out --interval=bootstrap."
        )
    if budget:
        _check_sequence(margin, budget, seeds, folds, table_rows, changes)
    folder = pathlib.Path("runs", module.get("RUNS", name), experiment)
    if workdir is not None:
        folder = workdirs.on_disk(workdir)
        if workdirs.is_in_bucket(workdir):
            raise SettingError(f"A sweep's --workdir must be a folder on a disk, got {workdir}.")
    for key in changes:
        if setting := [row["name"] for row in table_rows if key in row["settings"]]:
            raise SettingError(
                f"--config.{key} holds for all rows, but {file} sets {key} in row {setting[0]!r}; "
                "leave it out."
            )
    rows = {}
    all_seeds = [*map(str, range(budget))] or seeds
    for row in table_rows:
        each = [
            settings | fold
            for settings in _with_seeds(row["settings"], all_seeds, changes)
            for fold in _folds(folds)
        ]
        rows[row["name"]] = [_run(config, program, path, folder, changes, one) for one in each]
    for run in itertools.chain(*rows.values()):
        run.result()
    flags = [f"--config={path}", *_flags(changes)]
    flags += [f"--seeds={','.join(seeds)}"] if seeds else []
    flags += [f"--folds={folds}"] if folds else []
    flags += [f"--baseline={baseline}"] if baseline else []
    flags += ["--until=decided", f"--margin={margin:g}", f"--budget={budget}"] if budget else []
    flags += ["--interval=bootstrap"] if bootstraps else []
    flags += [f"--workdir={workdir}"] if workdir else []
    return Sweep(
        table=folder / name,
        command=shlex.join(programs.command([program, *["--sweep"] * has_rows, *flags])),
        scores=tuple(module.get("SCORES", ())),
        rows=rows,
        paper={row["name"]: row.get("paper", {}) for row in table_rows},
        best_by=config.eval.best_by,
        over=("seeds x folds" if seeds else "folds") if folds else "seeds",
        comparison=tables.Comparison(baselines, margin / 100 if budget else 0.0, bootstraps),
    )


def folder_name(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Returns the settings that differ, as the name of a folder, the seed last."""
    different = [key for key in sorted(after) if after[key] != before[key] and key != "seed"]
    text = "+".join(f"{key}={after[key]}" for key in different)
    name = re.sub(r"[^\w.=+-]", "_", text, flags=re.ASCII)[:_MAX_NAME]
    if name != text:
        name += f"+{zlib.crc32(text.encode()):08x}"
    return "+".join(filter(None, [name, f"seed={after['seed']}"]))


def _rows(module: Mapping[str, Any], file: str, argument: str) -> tuple[list[dict[str, Any]], str]:
    """Returns the rows of a file's `sweep`, after checking them, and its argument or ""."""
    if not callable(sweep := module.get("sweep")):
        raise SettingError(
            f"--sweep requires a function sweep() that returns rows beside get_config(), got none "
            f"in {file}; configs/ablations/ has examples."
        )
    parameters = list(inspect.signature(sweep).parameters.values())
    given = [argument] if argument and parameters else []
    rows = config_files.call(sweep, given, file)
    defaults = [parameter.default for parameter in parameters[:1]]
    experiment = next((value for value in [*given, *defaults] if isinstance(value, str)), "")
    if not isinstance(rows, list):
        raise SettingError(f"Require a list of rows from sweep(), got {rows!r} in {file}.")
    for row in rows:
        if not _is_row(row):
            raise SettingError(
                'Require a row of a sweep to be {"name": ..., "settings": {...}}, with or without '
                f'"paper": {{...}} and "baseline": ..., got {row!r} in {file}.'
            )
    names = [row["name"] for row in rows]
    if not names:
        raise SettingError(f"Require at least one row of a sweep, got none in {file}.")
    if len(set(names)) < len(names):
        raise SettingError(
            f"Require a sweep's rows to have names of their own, got {names} in {file}."
        )
    return rows, experiment


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not {"name", "settings"} <= set(row) <= _ROW.keys():
        return False
    return all(isinstance(value, _ROW[key]) for key, value in row.items())


def _with_seeds(
    settings: dict[str, Any], seeds: Sequence[str], changes: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Returns a row's settings once for each seed."""
    if not all(map(_is_seed, seeds)) or len(set(map(int, seeds))) < len(seeds):
        raise SettingError(
            "Require --seeds of different whole numbers from 0 to 2147483647, got "
            f"{','.join(seeds)}."
        )
    if seeds and ("seed" in settings or "seed" in changes):
        raise SettingError("--seeds sets config.seed, which a row or --config.seed sets too.")
    return [settings | {"seed": int(seed)} for seed in seeds] or [settings]


def _folds(number: int) -> list[dict[str, Any]]:
    """Returns the settings of each fold."""
    if not number:
        return [{}]
    share = {"dataset.validation_classes": 1 / number}
    return [share | {"dataset.validation_fold": fold} for fold in range(number)]


def _check_folds(
    number: int, config: ConfigDict, rows: Sequence[dict[str, Any]], changes: Mapping[str, Any]
) -> None:
    if not 2 <= number <= _MOST:
        raise SettingError(f"Require --folds of 2 to {_MOST}, got {number}.")
    names = ("dataset.validation_classes", "dataset.validation_fold", "dataset.validation_list")
    given = [x for x in names if x in changes or any(x in row["settings"] for row in rows)]
    given += ["dataset.validation_list"] if config.dataset.validation_list else []
    if given:
        raise SettingError(f"--folds chooses the validation classes: leave out {given[0]}.")
    units = [config.dataset.validation_unit]
    units += [row["settings"].get("dataset.validation_unit") for row in rows]
    if "none" in units:
        raise SettingError(
            "--folds holds classes out: require dataset.validation_unit=class or super_class, got "
            "none."
        )


def _check_sequence(
    margin: float,
    budget: int,
    seeds: Sequence[str],
    folds: int,
    rows: Sequence[dict[str, Any]],
    changes: Mapping[str, Any],
) -> None:
    if not 0 < margin <= 100 or not sequences.LEAST_PAIRS <= budget <= _MOST:
        raise SettingError(
            f"Require --margin of more than 0 percent and --budget of {sequences.LEAST_PAIRS} to "
            f"{_MOST} seeds, with fewer of which nothing can be decided, got {margin:g} and "
            f"{budget}."
        )
    if seeds or folds or "seed" in changes or any("seed" in row["settings"] for row in rows):
        raise SettingError(
            f"--until=decided adds the seeds 0, 1, ... to {budget - 1}: leave out --seeds, --folds "
            "and settings of seed."
        )
    if len(rows) < 2:
        raise SettingError(
            "--until=decided compares rows: require two or more from sweep(), got one."
        )


def _is_seed(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) < 2**31


def _run(
    config: ConfigDict,
    program: str,
    path: str,
    folder: pathlib.Path,
    changes: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Run:
    """Returns the run of a row and a seed."""
    changed = config.copy_and_resolve_references()
    known = same_run.flatten(config.to_dict())
    if unknown := sorted(settings.keys() - known.keys()):
        raise SettingError(
            f"A row of {path} sets {unknown[0]}, which is no setting of its get_config()"
            f"{versions.hint(unknown[0], known)}."
        )
    try:
        changed.update_from_flattened_dict(settings)
    except TypeError as error:
        raise SettingError(f"A row of {path} sets a value of another type: {error}") from error
    workdir = folder / folder_name(known, same_run.flatten(changed.to_dict()))
    flags = _flags({**changes, **settings, "seed": changed.seed})
    return Run(workdir, changed, (program, f"--config={path}", *flags, f"--workdir={workdir}"))


def _flags(settings: Mapping[str, Any]) -> list[str]:
    return [f"--config.{key}={value}" for key, value in settings.items()]


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns the object in a JSON file, None if there is none or a part of one.

    Raises:
      InputError: if it holds something else.
    """
    regular_files.require(path)
    if not path.exists():
        return None
    with file_errors(f"Cannot read {path}"):
        content = path.read_bytes()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        raise InputError(f"{path} is not of a run; move it away, and the run is made again.")
    return value


def _ended_early(scores: dict[str, Any], stop_after: int) -> bool:
    """Returns whether a run ended early by the setting that it has now.

    A run that is continued with a higher one keeps its scores until it ends again.
    """
    return bool(scores.get("ended_early")) and scores.get("stop_after", stop_after) == stop_after


def _epochs(scores: dict[str, Any] | None, folder: pathlib.Path) -> int:
    """Returns the number of epochs of a run's scores, 0 without scores."""
    if scores is None:
        return 0
    try:
        return int(scores["last"]["epoch"])
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{folder / 'scores.json'} is not of a run; move it away, and the run is made again."
        ) from None
