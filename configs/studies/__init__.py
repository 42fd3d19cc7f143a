"""When does division help, and by how much? What docs/results.md says was measured by these files.

    python launch.py --sweep --config=configs/studies/division.py:birds_head --seeds=0,1,2 \
        --config.dataset.root=/path/to/CUB --config.model.pretrained=/path/to/resnet18.safetensors

All rows take equally many steps, are compared at the last one, and were chosen by validation
classes. What stands behind the colon is one of `SETS`. Another width, batch or loss is a flag:
--config.model.embedding_dim=64.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs.small import cub_crops, omniglot
from dcjax.core.errors import SettingError

RUNS = "studies"
SCORES = ("recall_at_1", "map_at_r")


def experiment(data: str) -> ConfigDict:
    """Returns the settings of one of `SETS`.

    Raises:
      SettingError: if there is no such one, naming those that there are.
    """
    if data not in SETS:
        raise SettingError(f"Unknown set {data!r} of a study; known are {', '.join(SETS)}.")
    config = SETS[data]()
    config.eval.nmi = "never"
    config.eval.at_start = False
    config.train.report = False
    config.division.every_epochs = 2
    config.sampling.rounds = "mean"
    return config


def _birds() -> ConfigDict:
    """Bird crops at 48 pixels, ResNet-18 to its third stage, for 60 epochs of 62 steps."""
    config = cub_crops.get_config()
    config.dataset.resize = 48
    config.dataset.crop = 48
    config.dataset.cache = "memory"
    config.augment.crop = "resize_then_random_resized"
    config.dataset.validation_classes = 0.2
    config.train.num_epochs = 60
    config.train.num_steps = 60 * 62
    config.eval.every_epochs = 5
    config.checkpoint.every_epochs = 15
    return config


def _birds_head() -> ConfigDict:
    """The same at 96 pixels: an embedding on features that stay as they are, for 100 epochs."""
    config = cub_crops.get_config()
    config.model.train = "embedding"
    config.dataset.cache = "disk"
    config.dataset.validation_classes = 0.2
    config.train.num_epochs = 100
    config.train.num_steps = 100 * 62
    config.eval.every_epochs = 20
    config.checkpoint.every_epochs = 100
    return config


def _characters(validation_classes: float, num_steps: int) -> ConfigDict:
    """Omniglot without so large a share of the training classes, from random weights."""
    config = omniglot.get_config()
    config.dataset.cache = "memory"
    config.augment.crop = "resize_then_random_resized"
    config.dataset.validation_classes = validation_classes
    config.train.num_steps = num_steps
    return config


SETS: dict[str, Callable[[], ConfigDict]] = {"birds": _birds, "birds_head": _birds_head}
