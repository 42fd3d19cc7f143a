r"""Your own images: a folder with one sub-folder per class.

    python launch.py --config=configs/folder.py --config.dataset.root=/path/to/images \
        --config.model.pretrained=/path/to/resnet50.safetensors

The last half of the classes, in sorted order, is held out to score retrieval
(dataset.test_classes). To choose for yourself, make folders train/ and test/ with class folders
in them, or train/, query/ and gallery/.

No published experiment: the values are starting points, near P21's recipe for Stanford Online
Products. Without published weights set model.batch_norm=train and a learning rate near 1e-3.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = default.get_config()
    config.dataset.name = "folder"
    config.division.max_clusters = 4
    config.division.every_epochs = 2
    config.sampling.images_per_class = 4
    config.train.num_epochs = 40
    return config
