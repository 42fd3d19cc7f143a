r"""All weights trained: bird crops (configs/small/cub_crops.py) at 32 x 32 pixels, trained long.

    python launch.py --config=configs/study/birds.py --config.dataset.root=/path/to/CUB \
        --config.model.pretrained=/path/to/resnet18.safetensors

Small pictures and batches, so that a run takes minutes. A division every twelfth of the run, as for
CUB in the paper (T = 10 of 120 epochs).
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
    config.division.every_epochs = 4
    config.sampling.batch_size = 32
    config.optimizer.learning_rate = 3e-4
    config.optimizer.masks_multiplier = 10 / 3  # so masks learn at the paper's 1e-3
    config.train.num_epochs = 48
    config.eval.every_epochs = 6
    config.checkpoint.every_epochs = 48
    return config
