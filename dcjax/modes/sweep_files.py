"""The files of a sweep: its table, the scores of each run, plots of its learning curves."""

import pathlib
from collections.abc import Sequence

from etils import epath

from dcjax.core.errors import SettingError, file_errors
from dcjax.modes import raw_scores, sweep_plots, tables
from dcjax.modes.raw_scores import Study
from dcjax.modes.tables import Comparison
from dcjax.runs import workdirs

_RUNS = ".runs.csv"  # ends the name of the scores of each run


def write(
    prefix: pathlib.Path,
    study: Study,
    *,
    command: str,
    names: Sequence[str],
    comparison: Comparison,
    over: str,
    with_runs: bool = True,
) -> list[pathlib.Path]:
    """Writes the files of a sweep.

    Args:
      prefix: of their paths, whose name is the title of the table.
      study: the finished runs.
      command: that made the table.
      names: its scores in order; all that there are, if empty.
      comparison: of its rows.
      over: what its means are over.
      with_runs: whether to write the scores of each run too.

    Returns:
      The files.
    """
    rows = study.rows
    plots = sweep_plots.draw(rows, names or (study.best_by,), comparison=comparison, over=over)
    files = {
        ".md": tables.format_markdown(
            prefix.name,
            command,
            rows,
            names,
            best_by=study.best_by,
            comparison=comparison,
            over=over,
            plots={name: f"{prefix.name}.{key}.svg" for key, (name, _) in plots.items()},
        ),
        ".csv": tables.format_csv(rows, names, comparison),
        **({_RUNS: raw_scores.format_csv(study, names)} if with_runs else {}),
        **{f".{key}.svg": svg for key, (_, svg) in plots.items()},
    }
    with file_errors("Cannot write the table of the sweep"):
        prefix.parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in files.items():
            workdirs.write(epath.Path(f"{prefix}{suffix}"), text.encode())
    return [pathlib.Path(f"{prefix}{suffix}") for suffix in files]


def write_again(
    runs: pathlib.Path,
    *,
    command: str,
    names: Sequence[str] = (),
    baseline: str = "",
    output: str = "",
) -> list[pathlib.Path]:
    """Writes the table and the plots of a sweep from the scores of its runs.

    Args:
      runs: the file of these scores.
      command: that makes the table.
      names: scores of the table in order; all that there are, if empty.
      baseline: name of the row that the others are compared with; "": the first one.
      output: prefix of the files; "": that of the file of scores.

    Returns:
      The files.

    Raises:
      InputError: if the file has no scores of runs.
      SettingError: if it lacks what is asked for.
    """
    study = raw_scores.read(runs)
    prefix = pathlib.Path(output or str(runs).removesuffix(".csv").removesuffix(".runs"))
    if not prefix.name or pathlib.Path(f"{prefix}.csv").resolve() == runs.resolve():
        raise SettingError(
            f"The table would be written over the scores of its runs in {runs}; give --output, the "
            "prefix of its files."
        )
    rows = [row.name for row in study.rows]
    if baseline and baseline not in rows:
        raise SettingError(
            f"Require --baseline to be a row of the table, got {baseline!r}; rows are "
            f"{', '.join(rows)}."
        )
    known = dict.fromkeys(
        name for row in study.rows for run in row.results for x in run.values() for name in x
    )
    if unknown := [name for name in names if name not in known]:
        there = ", ".join(name for name in known if name != "epoch")
        raise SettingError(f"Require --scores that {runs} has: {there}; got {unknown[0]!r}.")
    seeds, folds = (len({pair[i] for row in study.rows for pair in row.pairs}) for i in (0, 1))
    over = "seeds" if folds < 2 else "folds" if seeds == 1 else "seeds x folds"
    return write(
        prefix,
        study,
        command=command,
        names=names,
        comparison=Comparison(baseline or rows[0], study.margin / 100),
        over=over,
        with_runs=False,
    )
