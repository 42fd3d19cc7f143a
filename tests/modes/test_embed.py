"""Embeddings are written to files, survive a stop, and score as in an evaluation."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import small_runs
from forks import launch

import dcjax
from configs import digits
from dcjax.core.errors import FileError, InputError, MissingFileError
from dcjax.experiment import embedding
from dcjax.experiment.embedder import Embedder
from dcjax.modes.embed import embed
from dcjax.modes.score import score
from dcjax.modes.train import train
from dcjax.retrieval import embedding_files
from dcjax.runs import locks

_CHANGES = small_runs.TINY | {
    "division.every_epochs": 1,
    "division.max_clusters": 2,
    "train.num_epochs": 1,
    "eval.every_epochs": 0,
    "eval.nmi": "last",
    "eval.nmi_runs": 2,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run on digits."""
    config = digits.get_config()
    config.update_from_flattened_dict(_CHANGES)
    workdir = str(tmp_path_factory.mktemp("run"))
    train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def gallery_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run on folders of pictures with queries and a gallery."""
    top, workdir = (tmp_path_factory.mktemp(name) for name in ("images", "run"))
    return small_runs.train_on_folders(top, workdir, _CHANGES)


def _table(prefix: str | Path) -> dict[str, Any]:
    table = pyarrow.parquet.read_table(f"{prefix}.parquet")
    return {name: table[name].to_pylist() for name in table.column_names}


def test_the_scores_of_the_file_are_those_of_an_evaluation(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(run, None)
    told = capsys.readouterr().out
    assert "wrote     " + f"{run}/embeddings/test.parquet" in told
    embedder = dcjax.load(run)
    expected = embedder.evaluate()
    assert "nmi" in expected
    path = f"{run}/embeddings/test.parquet"
    config = embedder.config
    assert score([path], config, with_nmi=True, output=str(tmp_path)) == expected
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert saved["scores"] == expected
    assert saved["images"] == len(embedder.load_test().query)
    told = capsys.readouterr().out
    assert "lengths" not in told
    assert f"{expected['recall_at_1']:.4f}" in told

    with config.unlocked():
        drawn = config.copy_and_resolve_references()
    drawn.eval.protocol, drawn.eval.gallery_draws, drawn.eval.ks = "gallery", 3, (1, 2)
    expected = dcjax.load(run, drawn).evaluate()
    assert score([path], drawn, with_nmi=True, output=str(tmp_path)) == expected


def test_queries_and_a_gallery_score_as_in_an_evaluation(
    gallery_run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(gallery_run, None, output=f"{tmp_path}/one.parquet")
    embedder = dcjax.load(gallery_run)
    expected = embedder.evaluate()
    config = embedder.config
    one = f"{tmp_path}/one.parquet"
    assert score([one], config, with_nmi=True) == expected
    columns = _table(tmp_path / "one")
    assert columns["split"] == ["query"] * 15 + ["gallery"] * 20
    assert columns["label"][:6] == ["x"] * 5 + ["y"]
    found = json.loads((tmp_path / "scores.json").read_text())
    assert (found["images"], found["gallery"]) == (15, 20)

    top = config.dataset.root
    files = [f"{tmp_path}/{name}.parquet" for name in ("query", "gallery")]
    for name in ("query", "gallery"):
        assert embed(gallery_run, None, images=f"{top}/{name}", output=f"{tmp_path}/")
    capsys.readouterr()
    found = score(files, config, with_nmi=True)
    # Classes are numbered anew, and so summed in another order in NMI.
    assert found.pop("nmi") == pytest.approx(expected.pop("nmi"), abs=1e-12)
    assert found == expected
    assert "networks" not in capsys.readouterr().out
    table = pyarrow.parquet.read_table(files[1])
    kept = table.schema.metadata
    other = json.dumps(json.loads(kept[b"dcjax"]) | {"weights": 0})
    table = table.replace_schema_metadata({**kept, b"dcjax": other})
    pyarrow.parquet.write_table(table, files[1])
    score(files, config)
    assert "are of two networks" in capsys.readouterr().out
    with pytest.raises(InputError, match="give it alone"):
        score([one, files[1]], config)


def test_vectors_are_those_of_the_embedder_with_what_they_are_of(run: str) -> None:
    embed(run, None)
    embedder = dcjax.load(run)
    columns = _table(f"{run}/embeddings/test")
    vectors = np.load(f"{run}/embeddings/test.npy")
    images = embedder.load_test().query
    np.testing.assert_array_equal(vectors, columns["vector"])
    np.testing.assert_allclose(vectors, embedder(images.images), atol=1e-6)
    assert columns["label"] == [images.class_names[label] for label in images.labels]
    metadata = embedding_files.read_metadata(Path(run, "embeddings", "test"))
    assert metadata is not None
    assert metadata["checkpoint"] == embedder.checkpoint
    assert (metadata["epoch"], metadata["dcjax"]) == (1, dcjax.__version__)
    assert metadata["settings"] == embedder.identity()["settings"]


def test_images_without_classes_have_no_labels(gallery_run: str, tmp_path: Path) -> None:
    top = dcjax.load(gallery_run).config.dataset.root
    embed(gallery_run, None, images=top, output=f"{tmp_path}/all")
    columns = _table(tmp_path / "all")
    assert columns.keys() == {"path", "vector"}
    assert len(columns["path"]) == 4 * 8 + 3 * 5 + 4 * 5
    expected = dcjax.load(gallery_run)(columns["path"])
    np.testing.assert_allclose(columns["vector"], expected, atol=1e-6)


class _StopError(Exception):
    pass


@pytest.fixture
def stopped(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The prefix of an embedding that has ended after its second part of three or more."""
    monkeypatch.setattr(embedding, "_IMAGES_PER_PART", 384)
    original, calls = Embedder.embed, iter(range(100))

    def embed_two(self: Embedder, *arguments: Any) -> np.ndarray:
        if next(calls) == 2:
            raise _StopError
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "embed", embed_two)
        with pytest.raises(_StopError):
            embed(run, None, output=f"{tmp_path}/x")
    assert [path.name for path in tmp_path.iterdir()] == ["x.parts"]
    return tmp_path / "x"


def _count_parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    original, sizes = Embedder.embed, []

    def embed_part(self: Embedder, images: Any, *arguments: Any) -> np.ndarray:
        sizes.append(len(images))
        return original(self, images, *arguments)

    monkeypatch.setattr(Embedder, "embed", embed_part)
    return sizes


def test_a_stopped_embedding_continues_from_its_parts(
    run: str, stopped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = _count_parts(monkeypatch)
    embed(run, None, output=str(stopped))
    assert len(sizes) == 1
    assert "continue  after 2 of 3 parts" in capsys.readouterr().out
    embed(run, None, output=str(stopped))
    assert "finished  already" in capsys.readouterr().out
    assert len(sizes) == 1
    monkeypatch.undo()
    embed(run, None, output=f"{stopped}-whole")
    whole, joined = (Path(f"{name}.npy") for name in (f"{stopped}-whole", stopped))
    assert joined.read_bytes() == whole.read_bytes()
    assert _table(stopped) == _table(f"{stopped}-whole")
    assert {path.suffix for path in stopped.parent.iterdir()} == {".npy", ".parquet"}


def test_parts_of_other_images_are_not_used(
    run: str, stopped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Embedder.load_test

    def load_fewer(self: Embedder) -> Any:
        splits = original(self)
        return type(splits)(splits.train, splits.query.select(np.arange(1, len(splits.query))))

    monkeypatch.setattr(Embedder, "load_test", load_fewer)
    sizes = _count_parts(monkeypatch)
    embed(run, None, output=str(stopped))
    assert len(sizes) == 3
    assert "begin     anew: the parts that were there are of another" in capsys.readouterr().out
    assert len(np.load(f"{stopped}.npy")) == sum(sizes)


def test_a_signal_ends_it_without_files_and_loses_no_part(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embedding, "_IMAGES_PER_PART", 384)
    for owner, name in ((Embedder, "embed"), (embedding.Parts, "load")):
        original, calls = getattr(owner, name), iter(range(100))

        def disturbed(*arguments: Any, original: Any = original, calls: Any = calls) -> Any:
            if next(calls) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, disturbed)
            assert not embed(run, None, output=f"{tmp_path}/x")
        assert "Stopped by SIGTERM; the same command continues" in capsys.readouterr().out
        assert [path.name for path in tmp_path.iterdir()] == ["x.parts"]
    assert embed(run, None, output=f"{tmp_path}/x")
    assert "continue  after 3 of 3 parts" in capsys.readouterr().out


def test_unreadable_images_are_named_or_left_out_and_counted(
    gallery_run: str, tmp_path: Path, write_tree: Callable[..., str], capsys: Any
) -> None:
    top = write_tree({"in/a/1.png": None, "in/a/2.png": "no image", "in/b/3.png": None}) + "/in"
    with pytest.raises(InputError, match=f"1 of 3 images cannot be read.*\n.*{top}/a/2.png"):
        embed(gallery_run, None, images=top, output=f"{tmp_path}/x")
    assert not list(tmp_path.glob("x*"))
    config = dcjax.load(gallery_run).config
    config.dataset.skip_unreadable = True
    assert embed(gallery_run, config, images=top, output=f"{tmp_path}/x")
    assert "left out  1 of 3 images" in capsys.readouterr().out
    columns = _table(tmp_path / "x")
    assert columns["path"] == [f"{top}/a/1.png", f"{top}/b/3.png"]
    assert columns["label"] == ["a", "b"]
    assert len(np.load(tmp_path / "x.npy")) == 2
    (tmp_path / "list.txt").write_text("in/a/2.png\n")
    with pytest.raises(InputError, match="got none of 1"):
        embed(gallery_run, config, images=f"{tmp_path}/list.txt", output=f"{tmp_path}/y")


def test_two_at_once_are_refused(run: str, tmp_path: Path) -> None:
    (tmp_path / "x.parts").mkdir()
    descriptor = locks.hold(tmp_path / "x.parts")
    with pytest.raises(FileError, match=f"under way .* held by process {os.getpid()} on "):
        embed(run, None, output=f"{tmp_path}/x")
    locks.release(descriptor)


def test_what_is_not_there_is_named(run: str, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=f"No checkpoint in {tmp_path}"):
        embed(str(tmp_path), None)
    with pytest.raises(MissingFileError, match="correct --images"):
        embed(run, None, images=f"{tmp_path}/nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=f"Cannot write {tmp_path}/file/x.parts"):
        embed(run, None, output=f"{tmp_path}/file/x")


def test_launch_embeds_and_scores_in_folders_of_ones_own(run: str, tmp_path: Path) -> None:
    checkpoint = dcjax.load(run).checkpoint
    flags = ["--mode=embed", f"--workdir={run}/checkpoints/{checkpoint}", f"--output={tmp_path}/x"]
    ended = launch(*flags)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"checkpoint {checkpoint}, after epoch 1" in ended.stdout
    files = f"--embeddings={tmp_path}/x.parquet"
    ended = launch("--mode=score", files, "--ks=1,3", f"--output={tmp_path}/scores")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "R@3" in ended.stdout
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())["scores"]
    assert "recall_at_3" in scores
    assert not {"recall_at_2", "nmi"} & scores.keys()
