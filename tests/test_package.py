"""The package as users get it: built, installed in an empty environment, and run."""

import email
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import small_runs
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import dcjax

_ROOT = Path(__file__).parents[1]
_TINY = small_runs.TINY | {
    "train.num_epochs": 1,
    "division.every_epochs": 1,
    "eval.best_by": "recall_at_1",
}
_FLAGS = [f"--config.{key}={value}" for key, value in _TINY.items()]
_SWEPT = """
from configs import digits

SCORES = ("recall_at_1",)

def get_config():
    return digits.get_config()

def sweep():
    return [{"name": "one", "settings": {"seed": 3}}]
"""


def test_project_metadata_files_parse_and_agree() -> None:
    versions = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    workflow = yaml.safe_load((_ROOT / ".github" / "workflows" / "ci.yml").read_text())
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    supported = [x.rpartition(" ")[2] for x in versions if " Python :: 3." in x]
    assert tested == [supported[0], supported[-1]]

    lines = (_ROOT / "requirements" / "dev.txt").read_text().splitlines()
    (ruff,) = (Requirement(line) for line in lines if line.startswith("ruff"))
    (hooks,) = yaml.safe_load((_ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert ruff.specifier.contains(hooks["rev"].removeprefix("v"))

    citation = yaml.safe_load((_ROOT / "CITATION.cff").read_text())
    readme = (_ROOT / "README.md").read_text()
    assert all(f"{{{paper['title']}}}" in readme for paper in citation["references"])
    assert "version" not in citation  # defined only in dcjax.__version__

    _, head, body = (_ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.md").read_text().split("---\n")
    assert yaml.safe_load(head)["name"]
    assert "dcjax --version" in body


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The built files, by their suffix."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in ("dcjax", "configs", "requirements", "tests"):
        copytree(_ROOT / name, source / name, ignore=ignore_patterns("__pycache__"))
    for path in _ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            (source / path.name).write_bytes(path.read_bytes())
    _run([sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(source)], folder)
    files = {path.suffix: path for path in (folder / "dist").iterdir()}
    assert sorted(files) == [".gz", ".whl"]
    return files


@pytest.fixture(scope="module")
def command(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The installed command `dcjax`, in an environment that shares only dcjax's requirements."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder)
    python = folder / "bin" / "python"
    install = ["install", "--no-deps", "--no-index", str(built[".whl"])]
    _run([sys.executable, "-m", "pip", "--python", str(python), *install], folder)
    library = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(library, "requirements.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return str(folder / "bin" / "dcjax")


def _run(command: list[str], folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder, far from the clone."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("PYTHONPATH", None)
    completed = subprocess.run(
        command, cwd=folder, env=environment, text=True, capture_output=True, check=False
    )
    assert completed.returncode == code, completed.stdout + completed.stderr
    return completed


@pytest.mark.long
def test_built_files_hold_the_package_and_the_experiments(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = [Path(name) for name in wheel.namelist()]
        (about,) = (name for name in names if name.name == "METADATA")
        described = email.message_from_bytes(wheel.read(str(about)))
    assert {name.parts[0] for name in names} == {"dcjax", about.parts[0]}
    held = {name for name in names if name.parts[0] == "dcjax"}
    ours = {path.relative_to(_ROOT) for path in (_ROOT / "dcjax").rglob("*.py")}
    experiments = {path.relative_to(_ROOT) for path in (_ROOT / "configs").rglob("*.py")}
    assert held == ours | {"dcjax" / path for path in experiments} | {Path("dcjax/py.typed")}

    listed = {
        _describe(line, "" if name == "common" else name)
        for name in ("common", "cuda", "tpu", "dev")
        for line in (_ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    extra = re.compile(r'extra == "(\w+)"')
    assert listed == {
        _describe(line, *extra.findall(line)) for line in described.get_all("Requires-Dist", [])
    }
    assert described["Version"] == dcjax.__version__

    with tarfile.open(built[".gz"]) as source:
        parts = {Path(name).parts[1] for name in source.getnames() if "/" in name}
    assert {"dcjax", "configs", "requirements", "LICENSE", "README.md"} <= parts
    assert "tests" not in parts


def _describe(line: str, extra: str = "") -> tuple[str, frozenset[str], SpecifierSet, str]:
    requirement = Requirement(line)
    return requirement.name, frozenset(requirement.extras), requirement.specifier, extra


@pytest.mark.long
def test_built_files_can_be_published(built: dict[str, Path], tmp_path: Path) -> None:
    files = map(str, built.values())
    _run([sys.executable, "-m", "twine", "check", "--strict", *files], tmp_path)


@pytest.mark.long
def test_installed_command_prints_its_version_and_help(command: str, tmp_path: Path) -> None:
    first, second = _run([command, "--version"], tmp_path).stdout.splitlines()
    assert first.startswith(f"dcjax {dcjax.__version__}, Python 3.")
    assert f"jax {metadata.version('jax')}, " in first
    assert second
    assert _run([command, "--help"], tmp_path).stdout.startswith("dcjax --config=")
    where = "import dcjax; print(dcjax.__file__)"
    python = str(Path(command).with_name("python"))
    assert str(_ROOT) not in _run([python, "-c", where], tmp_path).stdout
    wrong = _run([command, "--config=configs/digit.py"], tmp_path, code=2).stderr
    assert wrong.startswith("dcjax: --config must be a Python file")
    assert "configs/digits.py" in wrong


@pytest.mark.long
def test_installed_command_trains_and_evaluates_in_any_folder(command: str, tmp_path: Path) -> None:
    _run([command, "--config=configs/digits.py", *_FLAGS], tmp_path)
    scores = json.loads((tmp_path / "runs" / "digits" / "scores.json").read_text())
    assert scores["last"]["epoch"] == 1
    shown = _run([command, "--mode=evaluate", "--workdir=runs/digits"], tmp_path).stdout
    assert f"{scores['last']['recall_at_1']:.4f}" in shown


@pytest.mark.long
def test_installed_command_sweeps_a_users_own_config(command: str, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.py").write_text(_SWEPT)
    sweep = ["--sweep", "--config=configs/mine.py", *_FLAGS]
    planned = _run([command, *sweep, "--dry_run"], tmp_path).stdout
    assert planned.startswith("dcjax --config=configs/mine.py ")
    _run([command, *sweep], tmp_path)
    assert "    dcjax --sweep" in (tmp_path / "runs" / "mine" / "mine.md").read_text()
    assert (tmp_path / "runs" / "mine" / "seed=3" / "scores.json").is_file()
