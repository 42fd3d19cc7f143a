r"""Your own images: a folder with one sub-folder per class.

    python launch.py --config=configs/folder.py --config.dataset.root=/path/to/images \
        --config.model.pretrained=/path/to/resnet50.safetensors

The last half of the classes, in sorted order, is held out to score retrieval
(dataset.test_classes). To choose for yourself, make folders train/ and test/ with class folders
in them, or train/, query/ and gallery/.

No published experiment, but starting points for 1,000 to 20,000 images, and ImageNet's weights.
The embedding starts as a rotation of the features, so at their scores if it is as wide as they are
(ResNet-50 has 2,048 features), and nearly so if it is not. The backbone learns at the papers' rate,
a tenth of the embedding's: at the embedding's it lost on classes that are unlike the trained ones.
docs/results.md, "Your own images", has what was measured with ResNet-18 on birds, groceries and
characters, and by which command. 20 passes were not searched.
Nothing is divided: it cost heads on frozen features, and did not help short fine-tuning. It helped
a network from random weights that was trained past its best (docs/results.md, "Does division
help?"). To divide, set division.max_clusters to 2, 4 or more: every five epochs there are twice as
many clusters. Compare by validation classes (docs/choosing.md).
Without published weights set model.batch_norm=train, optimizer.learning_rate near 1e-3 and
optimizer.embedding_multiplier=1.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = default.get_config()
    config.dataset.name = "folder"
    config.model.embedding_init = "orthogonal"
    config.division.max_clusters = 1
    config.division.every_epochs = 5
    config.division.freeze_backbone_epochs = 0
    config.sampling.images_per_class = 4
    config.optimizer.learning_rate = 1e-5
    config.optimizer.embedding_multiplier = 10.0
    config.train.num_epochs = 20
    return config
