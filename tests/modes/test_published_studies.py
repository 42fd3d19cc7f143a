"""The tables and plots of docs/ablations are those of the scores of their runs."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from dcjax.modes import sweep_files

_ROOT = Path(__file__).parents[2]
_STUDIES = sorted((_ROOT / "docs" / "ablations").glob("*/*.runs.csv"))


@pytest.mark.parametrize("runs", _STUDIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_table_is_made_from_the_scores_of_its_runs(runs: Path, tmp_path: Path) -> None:
    name = runs.name.removesuffix(".runs.csv")
    published = runs.with_name(f"{name}.md").read_text()
    command = published.splitlines()[2].strip()
    assert command.startswith(
        f"python launch.py --mode=table --runs={runs.relative_to(_ROOT)} --scores="
    )
    names = command.rpartition("=")[2].split(",")
    made = sweep_files.write_again(runs, command=command, names=names, output=str(tmp_path / name))
    assert {path.name for path in made} == {
        path.name for path in runs.parent.glob(f"{name}.*") if path != runs
    }
    for path in made:
        assert path.read_text() == (runs.parent / path.name).read_text()


def test_forecasts_are_compared_with_the_gains_of_the_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(_ROOT / "benchmarks")
    forecasts = importlib.import_module("forecasts")
    assert forecasts.page() == forecasts.PAGE.read_text()
    # By the definition, resample by resample.
    x, y = np.array([1.0, 2.0, 3.0, 3.0]), np.array([2.0, 1.0, 5.0, 4.0])
    drawn = np.random.default_rng(0).integers(4, size=(forecasts.NUM_RESAMPLES, 4))
    varied = [rows for rows in drawn[:400] if np.ptp(x[rows]) and np.ptp(y[rows])]
    expected = [scipy.stats.spearmanr(x[rows], y[rows]).statistic for rows in varied]
    monkeypatch.setattr(forecasts, "NUM_RESAMPLES", 400)
    found = forecasts.correlate(x, y)
    np.testing.assert_allclose(found[1:], np.quantile(expected, [0.025, 0.975]), rtol=1e-12)
    assert found[0] == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
