r"""A head on frozen features of bird crops, as configs/study/heads.py, trained four times as long.

    python launch.py --config=configs/study/heads_long.py --config.dataset.root=/path/to/CUB \
        --config.model.pretrained=/path/to/resnet18.safetensors

With four clusters each subspace has as many steps as the whole embedding has there.
"""

from ml_collections import ConfigDict

from configs.study import heads


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = heads.get_config()
    config.division.every_epochs = 20
    config.train.num_epochs = 240
    config.eval.every_epochs = 20
    config.checkpoint.every_epochs = 240
    return config
