r"""A head on frozen features: bird crops (configs/small/cub_crops.py) at 96 x 96 pixels.

    python launch.py --config=configs/study/heads.py --config.dataset.root=/path/to/CUB \
        --config.model.pretrained=/path/to/resnet18.safetensors

The features of the images are made once and kept on disk, so that a run takes seconds. A division
every twelfth of the run, as for CUB in the paper (T = 10 of 120 epochs).
"""

from ml_collections import ConfigDict

from configs.small import cub_crops


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = cub_crops.get_config()
    config.dataset.validation_classes = 0.2
    config.dataset.cache = "disk"
    config.model.train = "embedding"
    config.division.every_epochs = 5
    config.sampling.epoch_steps = 62
    config.train.num_epochs = 60
    config.train.report = False
    config.eval.every_epochs = 5
    config.eval.at_start = False
    config.eval.nmi = "never"
    config.checkpoint.every_epochs = 60
    return config
