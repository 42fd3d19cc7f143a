r"""Grocery Store (Klasson et al. 2019), shorter side 80 pixels: iconic pictures search photographs.

    python launch.py --config=configs/small/grocery.py --config.dataset.root=/path/to/grocery \
        --config.model.pretrained=/path/to/resnet18.safetensors

Photographs of classes 0-40 train. Of each of the 40 unseen classes one iconic picture is a query,
and the photographs taken in shops are the gallery. With 40 queries, one query is 0.025 of
recall@1: look at MAP@R. From an ImageNet-trained ResNet-18 cut after its third stage. Meant for
two CPU cores; no published experiment.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = default.get_config()
    config.dataset.name = "grocery"
    config.dataset.resize = 80
    config.dataset.crop = 80
    config.augment.scale = (0.4, 1.0)
    config.model.backbone = "resnet18"
    config.model.num_stages = 3
    config.model.embedding_dim = 256
    config.division.max_clusters = 2
    config.division.every_epochs = 2
    config.division.freeze_backbone_epochs = 0
    config.sampling.batch_size = 64
    config.sampling.images_per_class = 4
    config.optimizer.learning_rate = 1e-4
    config.optimizer.masks_multiplier = 10.0  # so masks learn at the paper's 1e-3
    config.train.num_epochs = 6
    config.eval.every_epochs = 2
    config.eval.best_by = "map_at_r"
    config.checkpoint.every_epochs = 2
    return config
