"""The experiments: every file can be built, adds no setting, and says what the papers say."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from dcjax import checks, datasets, devices, experiment, inputs
from dcjax.datasets import ImageSet, Splits

_FOLDER = Path(__file__).parents[1] / "configs"
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
        inner = isinstance(value, ConfigDict)
        keys |= _keys(value, f"{prefix}{key}.") if inner else {prefix + key}
    return keys


@pytest.mark.parametrize("name", _NAMES)
def test_has_the_settings_of_default_and_no_other(name):
    assert _keys(_config(name)) == _keys(_config("default"))


@pytest.mark.parametrize("name", _NAMES)
def test_can_be_built(name):
    config = _config(name)
    images = np.zeros((2000, 1, 1, 3), np.uint8)
    labels = np.repeat(np.arange(200, dtype=np.int32), 10)
    image_set = ImageSet(images, labels, tuple(map(str, range(200))))

    datasets.known_options(config.dataset.name)  # raises for an unknown data set
    config.model.pretrained = "weights.safetensors"  # frozen statistics need some
    checks.check_training(config, devices.create_mesh())
    checks.check_data(config, Splits(train=image_set, query=image_set))
    loss = experiment.create_loss(config, num_classes=200)
    model = experiment.create_model(config)
    inputs.create_augment(config)
    state = jax.eval_shape(
        lambda: experiment.create_state(
            config, model, loss, experiment.create_optimizer(config), None
        )
    )
    assert state.masks.shape == (config.division.max_clusters, config.model.embedding_dim)


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
def test_values_of_the_paper(
    name, max_clusters, every_epochs, full_embedding_from_epoch, num_epochs
):
    """P21 Table IX, and what its section 4.2 says for all data sets."""
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
    assert uniform or config.sampling.batch_size == 80


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
def test_recalls_of_the_papers_tables(name, ks):
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
def test_augmentations_of_the_papers_scores(name, strategy):
    """P21 Table V: the best of four, with which the other tables are made."""
    config = _config(name)
    assert config.augment.strategy == strategy
    words = strategy.replace("geom_color", "geom+color").replace("_", " ").title()
    docstring = " ".join(str(importlib.import_module(f"configs.{name}").__doc__).split())
    assert f"augmentation {words}, as here" in docstring
    assert config.augment.crop == "random_resized"
    assert config.augment.scale == (0.08, 1.0)


@pytest.mark.parametrize("name", ["cub", "cars", "inshop", "vid"])
def test_guesses_are_marked(name):
    source = (_FOLDER / f"{name}.py").read_text()
    for key in ("freeze_backbone_epochs", "orthogonality_weight", "weight_decay"):
        line = next(line for line in source.splitlines() if f".{key} = " in line)
        assert line.endswith("# guess: not in the paper or its code")


def test_values_of_the_released_recipe():
    """Those that the README of P21's code gives for Stanford Online Products."""
    config = _config("sop")
    assert config.sampling.images_per_class == 2
    assert config.division.freeze_backbone_epochs == 1
    assert config.model.orthogonality_weight == 0.01
    assert config.model.dropout == 0.01
    assert config.optimizer.masks_multiplier == 100
    assert config.optimizer.weight_decay == 1e-4
    assert config.optimizer.masks_decay_multiplier == 1
