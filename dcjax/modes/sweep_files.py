"""The files of a sweep: its table, the scores of each run, plots of its learning curves."""

import dataclasses
import pathlib
from collections.abc import Sequence

from etils import epath

from dcjax.core import naming
from dcjax.core.errors import SettingError, file_errors
from dcjax.modes import raw_scores, sweep_plots, tables
from dcjax.modes.raw_scores import Study
from dcjax.runs import workdirs

_RUNS = ".runs.csv"  # ends the name of the scores of each run


def write(
    prefix: pathlib.Path,
    study: Study,
    *,
    command: str,
    names: Sequence[str],
    over: str,
    source: pathlib.Path | None = None,
) -> list[pathlib.Path]:
    """Writes the files of a sweep.

    Args:
      prefix: of their paths, whose name is the title of the table.
      study: the finished runs, and how rows are compared.
      command: that made the table.
      names: its scores in order; all that there are, if empty.
      over: what its means are over.
      source: file of the scores of each run, from which the table is made again; None: they are
        written too.

    Returns:
      The files.

    Raises:
      SettingError: if one of them would replace the source.
    """
    rows, comparison = study.rows, study.comparison
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
        **({} if source else {_RUNS: raw_scores.format_csv(study, names)}),
        **{f".{key}.svg": svg for key, (_, svg) in plots.items()},
    }
    texts = {pathlib.Path(f"{prefix}{suffix}"): text for suffix, text in files.items()}
    with file_errors("Cannot write the table of the sweep"):
        prefix.parent.mkdir(parents=True, exist_ok=True)
        if source and any(path.exists() and path.samefile(source) for path in texts):
            raise SettingError(
                f"The table would be written over the scores of its runs in {source}; give another "
                "--output, the prefix of its files."
            )
        for path, text in texts.items():
            workdirs.write(epath.Path(path), text.encode())
    return list(texts)


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
      baseline: name of the row that the others are compared with; "": as the file says.
      output: prefix of the files; "": that of the file of scores.

    Returns:
      The files.

    Raises:
      InputError: if the file has no scores of runs.
      SettingError: if it lacks what is asked for.
    """
    study = raw_scores.read(runs)
    prefix = pathlib.Path(naming.expand(output)) if output else runs
    name = prefix.name if output else runs.name.removesuffix(".csv").removesuffix(".runs")
    if name in ("", ".."):
        raise SettingError(
            "Require --output to be the prefix of the files of a table, such as results/study, got "
            f"{output!r}."
        )
    prefix = prefix.with_name(name)
    if baseline:
        own = dict.fromkeys([row.name for row in study.rows], "")
        compared = dataclasses.replace(
            study.comparison, baselines=tables.find_baselines(baseline, own)
        )
        study = dataclasses.replace(study, comparison=compared)
    known = dict.fromkeys(
        name for row in study.rows for run in row.results for x in run.values() for name in x
    )
    known.pop("epoch", None)
    if unknown := [name for name in names if name not in known]:
        raise SettingError(
            f"Require --scores that {runs} has: {', '.join(known)}; got {unknown[0]!r}."
        )
    seeds, folds = (len({pair[i] for row in study.rows for pair in row.pairs}) for i in (0, 1))
    over = "seeds" if folds < 2 else "folds" if seeds == 1 else "seeds x folds"
    return write(
        prefix,
        study,
        command=command,
        names=names,
        over=over,
        source=runs,
    )
