r"""CUB200-2011 with DINO's ViT-S/16, see configs/vit/__init__.py.

    python launch.py --config=configs/vit/cub.py --config.dataset.root=/path/to/CUB_200_2011 \
        --config.model.pretrained=/path/to/dino_deitsmall16_pretrain.pth

HIER's recall@1: 81.1, with its regulariser and without division.
Not run at this size yet.

K and T are those of configs/cub.py.
"""

from ml_collections import ConfigDict

from configs import vit


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = vit.recipe(num_epochs=100, warmup_epochs=1, weight_decay=1e-2)
    config.dataset.name = "cub"
    config.division.max_clusters = 4
    config.division.every_epochs = 10
    config.eval.ks = (1, 2, 4, 8)
    config.paper = {"recall_at_1": 81.1}
    return config
