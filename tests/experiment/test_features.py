"""Runs on files of features: they learn, divide, and are evaluated, searched and reported."""

import csv
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

import dcjax
from configs import features
from dcjax.core.errors import DcjaxError
from dcjax.data import datasets
from dcjax.data.datasets import HoldOut, embedding_files
from dcjax.data.datasets.validation import hold_out
from dcjax.experiment import checks, inputs
from dcjax.modes import check_data, embed, export, report
from dcjax.modes.train import train
from dcjax.retrieval import embedding_writer
from dcjax.retrieval.embedding_writer import Block

_CLASSES, _PER_CLASS, _DIM = 24, 12, 16
_NAMES = [f"class {label:02d}" for label in range(_CLASSES)]


def _vectors() -> np.ndarray:
    """Classes that differ in four numbers, under noise in twelve others of greater length."""
    rng = np.random.default_rng(0)
    centers = np.zeros((_CLASSES, _DIM))
    centers[:, :4] = rng.normal(size=(_CLASSES, 4))
    noise = rng.normal(size=(_CLASSES, _PER_CLASS, _DIM)) * np.where(np.arange(_DIM) < 4, 0.1, 1)
    return (centers[:, None] + noise).reshape(-1, _DIM).astype(np.float32)


def _write_array(
    folder: Path, splits: Sequence[str] = (), vectors: np.ndarray | None = None
) -> Path:
    """Writes features as .npy and .csv; each class is of the split of its number, in turn."""
    np.save(folder / "features.npy", _vectors() if vectors is None else vectors)
    with (folder / "features.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", *(["split"] if splits else [])])
        for row in range(_CLASSES * _PER_CLASS):
            label = row // _PER_CLASS
            split = [splits[label % len(splits)]] if splits else []
            rows.writerow([f"{row}.png", _NAMES[label], *split])
    return folder / "features.npy"


def _write_parquet(folder: Path) -> Path:
    texts = {
        "path": [f"{row}.png" for row in range(_CLASSES * _PER_CLASS)],
        "label": [name for name in _NAMES for _ in range(_PER_CLASS)],
    }
    embedding_writer.write(
        folder / "features",
        iter([Block(texts, _vectors())]),
        num_rows=_CLASSES * _PER_CLASS,
        dim=_DIM,
        columns={name: embedding_writer.text_type(values) for name, values in texts.items()},
        classes=_NAMES,
        metadata={},
    )
    return folder / "features.parquet"


def _config(file: Path, **changes: Any) -> ConfigDict:
    config = features.get_config()
    small = {
        "dataset.features": str(file),
        "model.embedding_dim": 8,
        "division.max_clusters": 2,
        "division.every_epochs": 2,
        "sampling.batch_size": 32,
        "optimizer.learning_rate": 1e-2,
        "eval.nmi": "never",
        "eval.every_epochs": 0,
        "train.num_epochs": 3,
        "train.report": False,
    }
    named = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(small | named)
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on features of queries and a gallery."""
    top = tmp_path_factory.mktemp("features")
    file = _write_array(top, ("train", "train", "test", "train"))
    train(_config(file), str(top / "run"))
    return top / "run"


def test_run_learns_and_divides_on_features_of_any_origin(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _write_parquet(tmp_path)
    scores = train(_config(file, train__num_epochs=10), str(tmp_path / "run"))
    output = capsys.readouterr().out
    assert "train 144 images of 12 classes, test 144 images of 12 classes" in output
    assert "features of 16 numbers, no backbone" in output
    assert "K = 2" in output
    before = float(output.split("backbone features")[1].split()[0])
    assert scores is not None
    assert scores["recall_at_1"] > before + 0.2


def test_embedder_of_features_takes_features(workdir: Path) -> None:
    run = dcjax.load(str(workdir))
    assert isinstance(run, dcjax.Embedder)
    splits = run.load_test()
    assert splits.query.name(0) == "24.png"
    assert splits.query.select([3, 1]).name(0) == "27.png"
    embedded = run(splits.query.images.tolist())
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(run.embed(splits.query, lambda _: None), embedded, atol=1e-6)
    assert run(np.zeros((0, _DIM))).shape == (0, 8)
    for wrong, message in (
        (np.zeros((2, 3)), r"features \[n, 16\].*got an array \[2, 3\]"),
        (np.full((1, _DIM), np.nan), "got NaN or infinity"),
        (["a.png"], "got what is no array of numbers"),
    ):
        with pytest.raises(DcjaxError, match=message):
            run(wrong)


def test_run_on_features_is_searched_reported_and_embedded_without_images(
    workdir: Path, tmp_path: Path
) -> None:
    run = dcjax.load(str(workdir))
    assert isinstance(run, dcjax.Embedder)
    found = run.search()
    assert found.images.pictures is None
    nearest = found.like(0, 3)
    assert [neighbor.name[-4:] for neighbor in nearest] == [".png"] * 3
    vector = run.load_test().query.images[0]
    assert found(vector, 1)[0].number == 0
    report.report([str(workdir)], None, output=str(tmp_path / "report.html"))
    assert "24.png" in (tmp_path / "report.html").read_text()
    assert embed.embed(str(workdir), None, output=f"{tmp_path}/test")
    written = embedding_files.read(tmp_path / "test.parquet", to_search=True)
    assert written.vectors.shape == (72, 8)
    assert written.paths is not None
    assert written.paths[0] == "24.png"
    with pytest.raises(DcjaxError, match="leave out --images to embed its test features"):
        embed.embed(str(workdir), None, images=str(tmp_path), output=f"{tmp_path}/others")
    with pytest.raises(DcjaxError, match=r"load it by dcjax\.load, which takes features"):
        export.export(str(workdir), None)


def test_run_on_features_continues_bit_for_bit_and_is_evaluated_without_training_features(
    workdir: Path, tmp_path: Path
) -> None:
    whole = dcjax.load(str(workdir))
    file = _write_array(tmp_path, ("train", "train", "test", "train"))
    for num_epochs in (1, 3):
        train(_config(file, train__num_epochs=num_epochs), str(tmp_path / "run"))
    parts = dcjax.load(str(tmp_path / "run"))
    assert isinstance(whole, dcjax.Embedder)
    assert isinstance(parts, dcjax.Embedder)
    assert parts.identity()["weights"] == whole.identity()["weights"]
    is_test = np.repeat(np.arange(_CLASSES) % 4 == 2, _PER_CLASS)
    np.save(file, _vectors()[is_test])
    lines = file.with_suffix(".csv").read_text().splitlines()
    kept = [lines[0], *(line for line in lines if line.endswith("test"))]
    file.with_suffix(".csv").write_text("\n".join(kept))
    assert parts.evaluate() == whole.evaluate()
    with pytest.raises(DcjaxError, match="require the splits train and test"):
        train(_config(file), str(tmp_path / "other"))


def test_batches_side_by_side_on_the_devices_train_the_same_network(tmp_path: Path) -> None:
    file, embedded = _write_array(tmp_path), []
    changes = {"division__hierarchy": "direct", "sampling__clusters_per_step": 2}
    for parallel in (1, 2):
        workdir = str(tmp_path / f"run {parallel}")
        config = _config(file, devices__cluster_parallel=parallel, train__num_epochs=1, **changes)
        train(config, workdir)
        embedded.append(dcjax.load(workdir)(_vectors()))
    np.testing.assert_allclose(*embedded, atol=1e-3)


def _cut(file: Path) -> None:
    table = file.with_suffix(".csv")
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))


def _unlabel(file: Path) -> None:
    file.with_suffix(".csv").unlink()


def _spoil(file: Path) -> None:
    vectors = np.load(file)
    vectors[[3, 7]] = np.inf
    np.save(file, vectors)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_cut, r"Require a row of .*features\.csv for each row of .*npy, got 287 and 288\."),
        (_unlabel, r"require labels, in a column label of .*features\.csv, got none\."),
        (_spoil, "require vectors that are finite as float32, got NaN or infinity in rows 3, 7 "),
    ],
)
def test_files_that_are_not_as_required_are_named_in_one_line(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    file = _write_array(tmp_path)
    spoil(file)
    with pytest.raises(DcjaxError, match=message) as error:
        train(_config(file), str(tmp_path / "run"))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.backbone": "resnet18"}, "dataset.name=features and model.backbone=none together"),
        ({"dataset.name": "digits"}, "got dataset.name=digits and model.backbone=none"),
        ({"dataset.features": ""}, "needs a file of vectors, got an empty dataset.features"),
        ({"dataset.features": "a.txt"}, "dataset.features must be a .parquet file, or a .npy"),
        ({"dataset.features": "a.npy"}, r"There is no file of embeddings a\.npy; correct dataset"),
        ({"eval.pixels": True}, "has no pixels: require eval.pixels=False"),
        ({"model.pretrained": "x.npz"}, "leave it empty with model.backbone=none, got 'x.npz'"),
        ({"model.train": "last_blocks"}, "model.train=all or embedding for one of your own, and"),
        ({"dataset.feature_views": 2}, "model.train=embedding with a backbone, got 2"),
        ({"model.chunk_size": 16}, "require model.chunk_size=0 with model.train=all and "),
    ],
)
def test_settings_that_do_not_fit_features_are_named(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = _config(tmp_path / "features.npy")
    config.update_from_flattened_dict(changes)
    with pytest.raises(DcjaxError, match=message) as error:
        train(config, str(tmp_path / "run"))
    assert len(str(error.value).splitlines()) == 1


def test_features_have_validation_classes_of_their_own_or_held_out(tmp_path: Path) -> None:
    file = _write_array(tmp_path, ("train", "validation", "query", "gallery", "query"))
    given = datasets.load("features", root="", features=str(file), test_classes=0.5)
    assert given.validation is not None
    assert given.gallery is not None
    assert given.validation.class_names == tuple(_NAMES[1::5])
    vectors = _vectors().reshape(_CLASSES, _PER_CLASS, _DIM)
    np.testing.assert_array_equal(given.validation.images, np.concatenate(vectors[1::5]))
    assert given.query.class_names == given.gallery.class_names
    load = functools.partial(datasets.load, "features", root="", features=str(file))
    joined = load(test_classes=0.5, validation=HoldOut(unit="none"))
    split = [label for label in range(_CLASSES) if label % 5 < 2]
    assert joined.validation is None
    assert joined.train.class_names == tuple(_NAMES[label] for label in split)
    assert joined.train.names is not None
    for image, label, name in zip(
        joined.train.images, joined.train.labels, joined.train.names, strict=True
    ):
        row = int(name.removesuffix(".png"))
        np.testing.assert_array_equal(image, _vectors()[row])
        assert split[label] == row // _PER_CLASS
    held = dataclasses.replace(given, validation=None)
    names = (_NAMES[5],)
    assert hold_out(held, HoldOut(names=names)).validation.class_names == names


def test_features_have_cameras_and_no_junk(tmp_path: Path) -> None:
    file = _write_array(tmp_path, ("train", "train", "query", "gallery"))
    table = tmp_path / "features.csv"
    head, *rows = table.read_text().splitlines()
    # Queries and gallery are of the same classes, of which "-1" is none; two cameras took turns.
    shared = [row.replace("class 03", "class 02").replace("class 22", "-1") for row in rows]
    lines = [f"{head},camera", *(f"{row},c{number % 2}" for number, row in enumerate(shared))]
    table.write_text("\n".join(lines))
    config = _config(file, eval__protocol="cross_camera", eval__ks=(1,))
    splits, _ = inputs.load_splits(config.dataset)
    checks.check_data(config, splits)
    assert splits.gallery is not None
    for images in splits.test_sets:
        assert "-1" not in images.class_names
        assert images.cameras is not None
        assert set(images.cameras) == {"c0", "c1"}
    assert len(splits.query) == 5 * _PER_CLASS
    assert splits.query.cameras.tolist() == ["c0", "c1"] * (len(splits.query) // 2)


def test_check_data_says_that_there_are_no_images(tmp_path: Path) -> None:
    file = _write_array(tmp_path)
    with pytest.raises(DcjaxError, match=r"images, and dataset\.name=features has none"):
        check_data.check_data(_config(file), str(tmp_path))
