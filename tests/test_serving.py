"""The recipes of docs/serving.md, run as they stand there."""

import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import small_runs
from conftest import png

import dcjax
from configs import digits
from dcjax.experiment import inputs
from dcjax.modes.embed import embed
from dcjax.modes.export import export
from dcjax.modes.train import train

_PAGE = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()
_BLOCKS = re.findall(r"```python\n(.*?)```", _PAGE, re.S)

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, a gallery of pictures in classes with its embeddings, and a query."""
    top = tmp_path_factory.mktemp("serving")
    config = digits.get_config()
    config.update_from_flattened_dict(small_runs.TINY | {"train.num_epochs": 1})
    images = inputs.load_splits(config.dataset)[0].query
    for row in range(60):
        path = top / "gallery" / f"digit {images.class_names[images.labels[row]]}" / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(np.repeat(images.images[row], 3, axis=2)))
    shutil.copy(path, top / "query.jpg")  # the last one; its suffix does not matter
    train(config, f"{top}/runs/cub")
    embed(f"{top}/runs/cub", None, images=f"{top}/gallery", output=f"{top}/gallery.parquet")
    return top


def _block(name: str) -> str:
    (block,) = (block for block in _BLOCKS if name in block)
    return block


def _nearest(folder: Path) -> list[str]:
    """Returns the paths of the five images of the gallery that are nearest to the query."""
    paths = sorted((folder / "gallery").rglob("*.png"), key=str)
    embedder = dcjax.load(f"{folder}/runs/cub")
    distances = np.linalg.norm(embedder(paths) - embedder([folder / "query.jpg"]), axis=1)
    return [str(paths[row]) for row in np.argsort(distances, kind="stable")[:5]]


@pytest.mark.parametrize("library", ["faiss", "lancedb"])
def test_recipe_finds_the_nearest_images(
    library: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(library)
    monkeypatch.chdir(folder)
    expected = _nearest(folder)
    capsys.readouterr()
    exec(_block(f"import {library}"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines] == expected
    assert float(lines[0].split()[0]) == pytest.approx(float(library == "faiss"), abs=1e-3)


def test_exported_folder_is_uploaded_and_loaded_by_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(f"{folder}/runs/cub", None)

    def upload(self: Any, *, repo_id: str, folder_path: str) -> None:
        shutil.copytree(folder_path, tmp_path / repo_id)

    def download(repo_id: str, filename: str) -> str:
        return str(tmp_path / repo_id / filename)

    # The hub cannot be reached in tests; what is sent and received is what matters here.
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda *_, exist_ok: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(_block("upload_folder"), names)
    exec(_block("hf_hub_download"), names)
    assert (tmp_path / "NAME/birds/README.md").is_file()
    pictures = [folder / "query.jpg"]
    np.testing.assert_allclose(
        names["embedder"](pictures), dcjax.load(f"{folder}/runs/cub")(pictures), atol=1e-5
    )
