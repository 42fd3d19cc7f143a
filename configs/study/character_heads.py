r"""A head on frozen features of drawn characters: Omniglot at 64 x 64 pixels.

    python launch.py --config=configs/study/character_heads.py \
        --config.dataset.root=/path/to/omniglot \
        --config.model.pretrained=/path/to/resnet18.safetensors

As configs/study/heads.py, with 771 classes to train on. With a larger share of validation classes
fewer are left, while the 659 characters of the test stay the same.
"""

from ml_collections import ConfigDict

from configs.study import heads


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = heads.get_config()
    config.dataset.name = "omniglot"
    config.dataset.complete = True
    config.dataset.resize = 64
    config.dataset.crop = 64
    config.sampling.batch_size = 128
    config.eval.every_epochs = 30
    return config
