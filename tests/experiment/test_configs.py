"""The experiments: each can be built, adds no setting, and has the settings of the papers."""

import importlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import ablations
from dcjax.data import datasets
from dcjax.data.datasets import ImageSet, Splits
from dcjax.experiment import build, checks, parts, same_run

_FOLDER = Path(__file__).parents[2] / "configs"
_TABLES = sorted(path.stem for path in (_FOLDER / "ablations").glob("p*_*_*.py"))
_NAMES = sorted(
    ".".join(path.relative_to(_FOLDER).with_suffix("").parts)
    for path in _FOLDER.rglob("*.py")
    if path.stem != "__init__"
)


def _config(name: str) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config()


def _keys(config: ConfigDict, prefix: str = "") -> set[str]:
    keys = set()
    for key, value in config.items():
        if prefix + key == "paper":  # whose names are the experiment's
            continue
        inner = isinstance(value, ConfigDict)
        keys |= _keys(value, f"{prefix}{key}.") if inner else {prefix + key}
    return keys


def test_every_experiment_has_the_settings_of_default_and_no_other():
    known = _keys(_config("default"))
    assert not [name for name in _NAMES if _keys(_config(name)) != known]


@pytest.mark.parametrize("name", _NAMES)
def test_every_experiment_can_be_built(name):
    config = _config(name)
    has_backbone = config.model.backbone != "none"
    images = np.zeros((2000, 1, 1, 3), np.uint8) if has_backbone else np.ones((2000, 4), np.float32)
    labels = np.repeat(np.arange(200, dtype=np.int32), 10)
    image_set = ImageSet(images, labels, tuple(map(str, range(200))))

    datasets.known_options(config.dataset.name)  # raises for an unknown data set
    if has_backbone:
        config.model.pretrained = "weights.safetensors"  # frozen statistics need pretrained weights
    mesh = checks.check_training(config)
    splits = Splits(train=image_set, query=image_set)
    checks.check_data(config, splits)
    parts.create_augmentation(config.augment, config.dataset)
    state = build.Experiment(config, mesh, splits).abstract_state
    assert state.masks.shape == (config.division.max_clusters, config.model.embedding_dim)


def test_only_own_images_begin_as_a_rotation_of_the_features():
    started = {name: parts.create_model(_config(name)).embedding_init for name in _NAMES}
    rotated = {name for name, init in started.items() if init == "orthogonal"}
    assert rotated == {"folder", "manifest", "small.photos"}
    assert set(started.values()) == {"orthogonal", "torch"}


@pytest.mark.parametrize(
    ("name", "max_clusters", "every_epochs", "full_embedding_from_epoch", "num_epochs"),
    [
        ("cub", 4, 10, -1, 120),
        ("cars", 4, 10, -1, 120),
        ("inshop", 8, 2, -1, 400),
        ("sop", 32, 2, 80, 170),
        ("vid", 16, 2, 80, 170),
    ],
)
def test_settings_are_those_of_the_paper(
    name, max_clusters, every_epochs, full_embedding_from_epoch, num_epochs
):
    """P21 Table IX and, for all datasets, section 4.2; batches of 128 are P19's, section 4.2."""
    config = _config(name)
    assert config.division.max_clusters == max_clusters
    assert config.division.every_epochs == every_epochs
    assert config.train.full_embedding_from_epoch == full_embedding_from_epoch
    assert config.train.num_epochs == num_epochs
    assert config.dataset.name == name
    assert config.division.hierarchy == "progressive"
    assert config.model.masks == "learned"
    assert config.model.backbone == "resnet50"
    assert config.model.embedding_dim == 512
    assert config.loss.margin.margin == 0.2
    assert config.loss.margin.beta == 1.2
    assert config.optimizer.learning_rate == 1e-5
    uniform = name in ("cub", "cars")
    assert config.sampling.sampler == ("uniform" if uniform else "balanced")
    assert config.sampling.batch_size == (128 if uniform else 80)
    assert config.eval.nmi_runs == 10


@pytest.mark.parametrize(
    ("name", "ks"),
    [
        ("cub", (1, 2, 4, 8)),
        ("cars", (1, 2, 4, 8)),
        ("inshop", (1, 10, 20, 30, 50)),
        ("sop", (1, 10, 100)),
        ("vid", (1, 5)),
    ],
)
def test_ks_are_those_of_the_papers_tables(name, ks):
    assert _config(name).eval.ks == ks


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("cub", "geom_color"),
        ("cars", "color_heavy"),
        ("inshop", "geom"),
        ("sop", "standard"),
        ("vid", "standard"),
    ],
)
def test_augmentations_are_those_of_the_papers_best_scores(name, strategy):
    """P21 Table V: the best of four, with which the other tables are made."""
    config = _config(name)
    assert config.augment.strategy == strategy
    words = strategy.replace("geom_color", "geom+color").replace("_", " ").title()
    docstring = " ".join(str(importlib.import_module(f"configs.{name}").__doc__).split())
    assert f"augmentation {words}, as here" in docstring
    assert config.augment.crop == "random_resized"
    assert config.augment.scale == (0.08, 1.0)


@pytest.mark.parametrize("name", ["cub", "cars", "inshop", "vid"])
def test_settings_without_a_source_of_their_own_are_marked(name):
    lines = (_FOLDER / f"{name}.py").read_text().splitlines()
    marks = dict.fromkeys(
        ("freeze_backbone_epochs", "orthogonality_weight", "weight_decay"),
        "# guess: not in the paper or its code",
    )
    marks["masks_multiplier"] = "# inferred: P21 has one for all sets"
    if name in ("cub", "cars"):
        marks["batch_size"] = "# weakly known: see above"
    else:
        marks["images_per_class"] = "# inferred: as for Stanford Online Products"
    for key, mark in marks.items():
        assert next(line for line in lines if f".{key} = " in line).endswith(mark), key


def test_sop_has_the_settings_of_the_released_recipe():
    """Those that the README of P21's code gives for Stanford Online Products."""
    config = _config("sop")
    assert config.sampling.images_per_class == 2
    assert config.division.freeze_backbone_epochs == 1
    assert config.model.orthogonality_weight == 0.01
    assert config.model.dropout == 0.01
    assert config.optimizer.masks_multiplier == 100
    assert config.optimizer.weight_decay == 1e-4
    assert config.optimizer.masks_decay_multiplier == 1


def _rows(table: str, data: str) -> list[dict[str, Any]]:
    return importlib.import_module(f"configs.ablations.{table}").sweep(data)


@pytest.mark.parametrize("table", _TABLES)
def test_every_row_of_an_ablation_fits_the_settings(table):
    module, known = importlib.import_module(f"configs.ablations.{table}"), _keys(_config("default"))
    small = (
        "digits",
        "small.omniglot",
        "small.omniglot_proxies",
        "study.birds",
        "study.characters",
    )
    for data in ablations.experiments():
        if table == "p21_table_5" and data in small:
            with pytest.raises(ValueError, match="photographs of 64 pixels or more"):
                module.get_config(data)
            continue
        assert _keys(module.get_config(data)) == known, data
        for row in module.sweep(data):
            assert set(row["settings"]) <= known, (data, row)
            module.get_config(data).update_from_flattened_dict(row["settings"])  # TypeError


@pytest.mark.parametrize(
    ("table", "data", "names"),
    [
        (
            "p21_table_1",
            "cub",
            "Margin; Progressive + random splits; Progressive + GT grouping; Not progressive; "
            "Ours (fix)",
        ),
        ("p21_table_2", "inshop", "Margin; No subspaces; Ours (fix); Ours (learn)"),
        ("p21_table_3", "sop", "T = 1; T = 2; T = 5; T = 10; T = 20"),
        ("p21_table_3", "digits", "T = 1; T = 2; T = 3"),
        ("p21_table_4", "sop", "K = 1; K = 2; K = 4; K = 8; K = 16; K = 32; K = 64"),
        ("p21_table_4", "small.grocery", "K = 1; K = 2; K = 4; K = 8"),
        (
            "p19_table_6",
            "sop",
            "Baseline; K-means, no embedding split; Random partition; GT grouping; K-means and "
            "embedding split",
        ),
        ("p19_figure_1", "sop", "K = 1; K = 2; K = 3; K = 4; K = 8; K = 16"),
    ],
)
def test_ablation_rows_are_those_of_the_papers_tables(table, data, names):
    assert [row["name"] for row in _rows(table, data)] == names.split("; ")


def test_loss_and_augmentation_tables_have_a_row_for_each():
    losses, augmentations = _rows("p21_table_6", "cub"), _rows("p21_table_5", "cub")
    assert len(losses) == 4 * 4
    assert {row["settings"]["loss.name"] for row in losses} == {
        *("triplet", "soft_triplet", "n_pairs", "margin")
    }
    assert len(augmentations) == 2 * 4
    assert {row["settings"]["augment.strategy"] for row in augmentations} == {
        *("standard", "geom", "geom_color", "color_heavy")
    }


@pytest.mark.parametrize(
    ("table", "counts"),
    [
        ("p21_table_1", {"cub": 5, "cars": 5, "sop": 5}),
        ("p21_table_2", {"cub": 4, "cars": 4, "sop": 4, "inshop": 4}),
        ("p21_table_3", {"sop": 5}),
        ("p21_table_4", {"sop": 7}),
        ("p21_table_5", {"cub": 8, "cars": 8, "sop": 8, "inshop": 8}),
        ("p21_table_6", {"cub": 16, "cars": 16, "sop": 16, "inshop": 4, "vid": 4}),
        ("p19_table_6", {"sop": 5}),
        ("p19_figure_1", {}),
    ],
)
def test_published_scores_are_given_for_their_own_datasets(table, counts):
    for data in ablations.experiments():
        with_figures = [row for row in _rows(table, data) if row["paper"]]
        assert len(with_figures) == counts.get(data, 0)
        assert all(50 < row["paper"]["recall_at_1"] < 96 for row in with_figures)


@pytest.mark.parametrize("data", ["cub", "cars", "sop", "inshop"])
def test_equal_runs_have_equal_published_scores_in_every_table(data):
    """Shows typing errors in one of the tables."""

    def figures(table: str) -> dict[str, dict[str, float]]:
        config = importlib.import_module(f"configs.ablations.{table}").get_config(data)
        base = same_run.flatten(config.to_dict())
        return {
            str(sorted((base | row["settings"]).items())): row["paper"]
            for row in _rows(table, data)
            if row["paper"]
        }

    tables = {table: figures(table) for table in _TABLES}
    for (one, runs), (other, others) in itertools.combinations(tables.items(), 2):
        for run in runs.keys() & others.keys():
            for score in runs[run].keys() & others[run].keys():
                assert runs[run][score] == others[run][score], (one, other, run)


def test_ablations_of_p19_start_from_its_settings():
    """P19 4.1 and 4.4: slices from the start, no frozen backbone, 80 epochs."""
    config = importlib.import_module("configs.ablations.p19").get_config("sop")
    assert (config.model.embedding_dim, config.division.max_clusters) == (128, 8)
    assert (config.model.masks, config.division.hierarchy) == ("fixed", "direct")
    assert (config.division.every_epochs, config.division.freeze_backbone_epochs) == (2, 0)
    assert (config.train.num_epochs, config.train.full_embedding_from_epoch) == (80, -1)
    assert (config.sampling.batch_size, config.sampling.images_per_class) == (80, 4)
