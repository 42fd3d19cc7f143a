"""Each benchmark's protocol against a slow version, and in the evaluation of a trained run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import benchmark_trees
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from slow_retrieval import slow_score, slow_score_one_per_class

from configs import vid
from dcjax.data import datasets
from dcjax.distributed import devices, sharded_rows
from dcjax.experiment import embedder
from dcjax.modes import evaluate
from dcjax.modes.train import train
from dcjax.retrieval import evaluation, metrics

_ROOT = Path(__file__).parents[2]
_LISTS = {"small": "800", "medium": "1600", "large": "2400"}


def _on_a_grid(labels: np.ndarray, seed: int) -> np.ndarray:
    """Draws embeddings around those of their classes; all distances are exact, some are equal."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(-3, 4, (max(labels) + 1, 16))
    return (centres[labels] + rng.integers(-3, 4, (len(labels), 16))).astype(np.float32)


def _labels(sizes: np.ndarray, seed: int) -> np.ndarray:
    """Returns `sizes[c]` labels of each class c in random order."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


def _sharded(embeddings: np.ndarray) -> jax.Array:
    return sharded_rows.place(embeddings, devices.create_mesh()).values


# A test class of CUB and CARS has some 60 images, one of Stanford Online Products 2 to 12.
@pytest.mark.parametrize(("num_classes", "smallest", "largest"), [(8, 20, 31), (70, 2, 12)])
@pytest.mark.parametrize("gallery_draws", [0, 3])
def test_protocols_of_cub_cars_and_sop_equal_slow_scores(
    num_classes, smallest, largest, gallery_draws
):
    sizes = np.random.default_rng(0).integers(smallest, largest + 1, num_classes)
    labels = _labels(sizes, seed=1)
    embeddings = _on_a_grid(labels, seed=2)
    scores = evaluation.evaluate(
        [_sharded(embeddings)],
        [labels],
        ks=(1, 2, 4, 8),
        nmi_runs=0,
        gallery_draws=gallery_draws,
    )
    slow = (
        slow_score_one_per_class(embeddings, labels, (1, 2, 4, 8), gallery_draws)
        if gallery_draws
        else slow_score(embeddings, labels, None, None, (1, 2, 4, 8))
    )
    assert scores == pytest.approx(slow, abs=1e-12)
    assert 0.2 < scores["recall_at_1"] < scores["recall_at_8"]


def test_protocol_of_inshop_equals_slow_scores():
    # Three or four images of an item in query and in gallery; some items are in the gallery alone.
    rng = np.random.default_rng(0)
    query_labels = _labels(rng.integers(3, 5, 40), seed=1)
    gallery_labels = _labels(rng.integers(3, 5, 55), seed=2)
    both = _on_a_grid(np.concatenate([query_labels, gallery_labels]), seed=3)
    queries, searched = np.split(both, [len(query_labels)])
    scores = evaluation.evaluate(
        [_sharded(queries), _sharded(searched)],
        [query_labels, gallery_labels],
        ks=(1, 10, 20, 30, 50),
        nmi_runs=0,
        gallery_draws=0,
    )
    slow = slow_score(queries, query_labels, searched, gallery_labels, (1, 10, 20, 30, 50))
    assert scores == pytest.approx(slow, abs=1e-12)
    assert 0.2 < scores["recall_at_1"] < scores["recall_at_10"] < scores["recall_at_50"]


def _read_list(root: Path, name: str) -> tuple[list[int], np.ndarray]:
    """Returns the numbers of images and vehicles of a test list."""
    path = root / "VehicleID_V1.0" / "train_test_split" / f"test_list_{_LISTS[name]}.txt"
    rows = np.loadtxt(path, dtype=int)
    return rows[:, 0].tolist(), rows[:, 1]


def test_each_vehicleid_list_is_scored_by_its_own_rows(tmp_path):
    benchmark_trees.write("vid", "original", tmp_path, num_test_classes=48)
    small, _ = _read_list(tmp_path, "small")
    large, vehicles = _read_list(tmp_path, "large")
    assert set(small) < set(_read_list(tmp_path, "medium")[0]) < set(large)
    known = dict(zip(large, _on_a_grid(vehicles, seed=1), strict=True))
    changed = {i: x if i in small else x[::-1] for i, x in known.items()}

    def score(name: str, by_image: dict[int, np.ndarray], gallery_draws: int) -> dict[str, float]:
        query = datasets.load(
            "vid", root=str(tmp_path), test_list=name, source="auto", complete=False, download=False
        ).query
        embeddings = np.stack([by_image[int(Path(path).stem)] for path in query.images])
        return evaluation.evaluate(
            [_sharded(embeddings)],
            [query.labels],
            ks=(1, 5),
            nmi_runs=0,
            gallery_draws=gallery_draws,
        )

    for name in _LISTS:
        numbers, vehicles = _read_list(tmp_path, name)
        embeddings = np.stack([known[number] for number in numbers])
        slow = slow_score(embeddings, vehicles, None, None, (1, 5))
        slow_drawn = slow_score_one_per_class(embeddings, vehicles, (1, 5), 10)
        assert score(name, known, 0) == pytest.approx(slow, abs=1e-12)
        assert score(name, known, 10) == pytest.approx(slow_drawn, abs=1e-12)
        for draws in (0, 10):
            same = score(name, known, draws) == score(name, changed, draws)
            assert same == (name == "small")


def _tiny(root: Path, **changes: Any) -> ConfigDict:
    config = vid.get_config()
    settings = {
        "dataset.root": str(root),
        "dataset.complete": False,
        "dataset.resize": 16,
        "dataset.crop": 16,
        "model.backbone": "resnet_small",
        "model.num_stages": 1,
        "model.width": 8,
        "model.batch_norm": "train",
        "model.embedding_dim": 8,
        "division.max_clusters": 2,
        "division.every_epochs": 1,
        "division.freeze_backbone_epochs": 0,
        "sampling.batch_size": 8,
        "train.num_epochs": 2,
        "train.full_embedding_from_epoch": -1,
        "eval.at_start": False,
        "eval.batch_size": 8,
        "eval.nmi": "never",
    }
    config.update_from_flattened_dict(
        settings | {key.replace("__", "."): value for key, value in changes.items()}
    )
    return config


_DRAWING = {"eval__protocol": "gallery", "eval__gallery_draws": 3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of VehicleID and of runs on it by both protocols: all_vs_all/ and gallery/."""
    root = tmp_path_factory.mktemp("vehicle_id")
    benchmark_trees.write("vid", "original", root, num_test_classes=15)
    train(_tiny(root), str(root / "all_vs_all"))
    train(_tiny(root, **_DRAWING), str(root / "gallery"))
    return root


def _saved_scores(workdir: Path) -> dict[str, dict[str, float]]:
    return json.loads((workdir / "scores.json").read_text())


def _score_as_trained(trained: Path, name: str, protocol: str) -> dict[str, float]:
    """Scores the first run by a list that is read here, with a function tested elsewhere."""
    numbers, vehicles = _read_list(trained, name)
    paths = [f"{trained}/VehicleID_V1.0/image/{number:07}.jpg" for number in numbers]
    embeddings = embedder.load(str(trained / "all_vs_all"))(paths)
    if protocol == "gallery":
        return metrics.score_one_per_class(embeddings, vehicles, ks=(1, 5), num_draws=10)
    return metrics.score(embeddings, vehicles, ks=(1, 5))


@pytest.mark.long
@pytest.mark.parametrize("name", _LISTS)
@pytest.mark.parametrize("protocol", ["all_vs_all", "gallery"])
def test_trained_run_is_evaluated_by_every_list_and_protocol(trained, name, protocol):
    config = _tiny(trained, dataset__test_list=name, eval__protocol=protocol)
    scores = embedder.load(str(trained / "all_vs_all"), config).evaluate()
    assert scores == _score_as_trained(trained, name, protocol)
    in_training = _saved_scores(trained / "all_vs_all")["last"] == {"epoch": 2, **scores}
    assert in_training == ((name, protocol) == ("large", "all_vs_all"))


@pytest.mark.long
def test_flags_select_list_and_protocol(trained):
    command = [sys.executable, "launch.py", "--mode=evaluate", f"--workdir={trained}/all_vs_all"]
    flags = ["--config.dataset.test_list=small", "--config.eval.protocol=gallery"]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    completed = subprocess.run(command + flags, cwd=_ROOT, env=env, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    assert "Unseen classes, a gallery of one image each, mean of 10" in " ".join(
        completed.stdout.split()
    )
    printed = [float(number) for number in re.findall(r"\d\.\d{4}", completed.stdout)]
    scores = _score_as_trained(trained, "small", "gallery")
    assert printed == pytest.approx(list(scores.values()), abs=6e-5)


@pytest.mark.long
def test_best_epoch_is_selected_by_the_protocol_of_the_run(trained):
    workdir = str(trained / "gallery")
    same_protocol = embedder.load(workdir, _tiny(trained, eval__select="best_test", **_DRAWING))
    best = _saved_scores(trained / "gallery")["best_test"]
    assert {"epoch": same_protocol.epoch, **same_protocol.evaluate()} == best
    other_protocol = embedder.load(workdir, _tiny(trained, eval__select="best_test"))
    assert other_protocol.epoch == same_protocol.epoch
    assert other_protocol.evaluate() != same_protocol.evaluate()
    with pytest.raises(ValueError, match=r"eval.protocol='all_vs_all' \(saved: 'gallery'\)"):
        train(_tiny(trained), workdir)


@pytest.mark.long
def test_scores_of_two_protocols_are_not_put_in_one_table(trained):
    workdirs = [str(trained / name) for name in ("all_vs_all", "gallery")]
    with pytest.raises(ValueError, match=r"one table, got .*protocol all_vs_all and gallery; give"):
        evaluate.compare(workdirs, None)
