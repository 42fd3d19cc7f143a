r"""Your own features: vectors of any network, with labels, in the place of images.

    python launch.py --config=configs/features.py --config.dataset.features=/path/to/file.parquet

The file is a table .parquet with the columns vector, label and, if wanted, split and path; or an
array .npy with these columns, but for vector, in a .csv of the same name. Without a column split,
the last half of the classes, in sorted order, is held out to score retrieval.

No published experiment: the values are starting points. Rates are those of a linear map that is
trained alone, so higher than in the other files of this folder.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = default.get_config()
    config.dataset.name = "features"
    config.model.backbone = "none"
    config.division.max_clusters = 4
    config.division.every_epochs = 2
    config.division.freeze_backbone_epochs = 0
    config.sampling.images_per_class = 4
    config.optimizer.learning_rate = 1e-4
    config.optimizer.masks_multiplier = 10.0
    config.train.num_epochs = 40
    return config
