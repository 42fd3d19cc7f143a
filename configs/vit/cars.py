r"""CARS196 with DINO's ViT-S/16, see configs/vit/__init__.py.

    python launch.py --config=configs/vit/cars.py --config.dataset.root=/path/to/cars196 \
        --config.model.pretrained=/path/to/dino_deitsmall16_pretrain.pth

HIER's recall@1: 91.3, with its regulariser and without division.
Not run at this size yet.

K and T are those of configs/cars.py.
"""

from ml_collections import ConfigDict

from configs import vit


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = vit.recipe(num_epochs=100, warmup_epochs=1, weight_decay=1e-2)
    config.dataset.name = "cars"
    config.division.max_clusters = 4
    config.division.every_epochs = 10
    config.eval.ks = (1, 2, 4, 8)
    config.paper = {"recall_at_1": 91.3}
    return config
