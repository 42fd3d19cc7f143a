"""Bounding-box crops of CUB200-2011: 127 of its 200 classes, 96 x 96 pixels, in CUB's layout.

Not the papers' protocol, so never beside their scores: classes 1-100 train, the others are
unseen, from an ImageNet-trained ResNet-18 cut after its third stage
(--config.model.pretrained). Meant for two CPU cores.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = default.get_config()
    config.dataset.name = "cub"
    config.dataset.complete = False
    config.dataset.resize = 96
    config.dataset.crop = 96
    config.augment.scale = (0.4, 1.0)
    config.model.backbone = "resnet18"
    config.model.num_stages = 3
    config.model.embedding_dim = 256
    config.division.max_clusters = 4
    config.division.every_epochs = 2
    config.division.freeze_backbone_epochs = 0
    config.sampling.batch_size = 64
    config.sampling.images_per_class = 4
    config.optimizer.learning_rate = 1e-4
    config.optimizer.masks_multiplier = 10.0  # so masks learn at the paper's 1e-3
    config.train.num_epochs = 6
    config.eval.every_epochs = 2
    config.checkpoint.every_epochs = 2
    return config
