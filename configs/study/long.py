r"""A whole network trained until it overfits: bird crops (configs/small/cub_crops.py) at 32 x 32.

    python launch.py --config=configs/study/long.py --config.dataset.root=/path/to/CUB \
        --config.model.pretrained=/path/to/resnet18.safetensors

Three times the rate of the other bird crops, so that few epochs are long enough. A division every
tenth of the run.
"""

from ml_collections import ConfigDict

from configs.study import heads


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = heads.get_config()
    config.dataset.resize = 32
    config.dataset.crop = 32
    config.dataset.cache = "memory"
    config.augment.crop = "resize_then_random_resized"
    config.model.train = "all"
    config.division.every_epochs = 2
    config.optimizer.learning_rate = 3e-4
    config.train.num_epochs = 20
    config.eval.every_epochs = 1
    config.checkpoint.every_epochs = 20
    return config
