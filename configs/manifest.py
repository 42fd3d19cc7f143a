r"""Your own images, listed in a table: columns path, label, split and, if wanted, super_class.

    python launch.py --config=configs/manifest.py --config.dataset.manifest=/path/to/table.csv \
        --config.model.pretrained=/path/to/resnet50.safetensors

CSV, TSV or Parquet. A row's split is train or test, or train, query or gallery; classes to test
are not in train. Paths start from the table's folder, or from dataset.root if that is given.

No published experiment: the values are those of configs/folder.py.
"""

from ml_collections import ConfigDict

from configs import folder


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = folder.get_config()
    config.dataset.name = "manifest"
    return config
