"""Omniglot (Lake et al. 2015): 964 characters train, 659 of other alphabets are unseen.

From random weights, with the small ResNet at 28 x 28 pixels. Meant for two CPU cores.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = default.get_config()
    config.dataset.name = "omniglot"
    config.dataset.resize = 28
    config.dataset.crop = 28
    config.augment.scale = (0.7, 1.0)
    config.augment.flip = False
    config.model.backbone = "resnet_small"
    config.model.num_stages = 3
    config.model.width = 32
    config.model.batch_norm = "train"
    config.model.embedding_dim = 128
    config.division.max_clusters = 4
    config.division.every_epochs = 5
    config.division.freeze_backbone_epochs = 0
    config.sampling.batch_size = 128
    config.sampling.images_per_class = 4
    config.optimizer.learning_rate = 1e-3
    config.optimizer.masks_multiplier = 10.0
    config.train.num_epochs = 20
    config.eval.nmi = "never"
    config.eval.every_epochs = 5
    config.checkpoint.every_epochs = 5
    return config
