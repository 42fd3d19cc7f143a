"""The tables and plots of docs/ablations are those of the scores of their runs."""

from pathlib import Path

import pytest

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
