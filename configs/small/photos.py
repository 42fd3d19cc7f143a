r"""Your own photographs on a laptop, a folder with one sub-folder per class: see docs/tutorial.md.

    python launch.py --config=configs/small/photos.py --config.dataset.root=/path/to/photos \
        --config.model.pretrained=timm/resnet18.tv_in1k --config.dataset.download=true

A table in place of the folder: --config.dataset.name=manifest --config.dataset.manifest=TABLE.csv.
From an ImageNet-trained ResNet-18 cut after its third stage, at 96 pixels. No published experiment:
configs/folder.py is for a machine with a GPU.
"""

from ml_collections import ConfigDict

from configs import folder


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = folder.get_config()
    config.dataset.resize = 108
    config.dataset.crop = 96
    config.dataset.cache = "memory"
    config.augment.crop = "resize_then_random_resized"
    config.augment.scale = (0.4, 1.0)
    config.model.backbone = "resnet18"
    config.model.num_stages = 3
    config.model.embedding_dim = 256
    config.division.max_clusters = 2  # to see what division does
    config.division.every_epochs = 2
    config.sampling.batch_size = 64
    # Ten times folder.py's, for six epochs in place of twenty.
    config.optimizer.learning_rate = 1e-4
    config.optimizer.embedding_multiplier = 1.0
    config.train.num_epochs = 6
    config.eval.every_epochs = 2
    config.checkpoint.every_epochs = 2
    return config
