r"""In-shop Clothes with DINO's ViT-S/16, see configs/vit/__init__.py.

    python launch.py --config=configs/vit/inshop.py --config.dataset.root=/path/to/in-shop \
        --config.model.pretrained=/path/to/dino_deitsmall16_pretrain.pth

HIER's recall@1: 92.5, with its regulariser and without division.
Not run at this size yet.

K and T are those of configs/inshop.py.
"""

from ml_collections import ConfigDict

from configs import vit


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = vit.recipe(num_epochs=150, warmup_epochs=5, weight_decay=1e-4)
    config.dataset.name = "inshop"
    config.division.max_clusters = 8
    config.division.every_epochs = 2
    config.optimizer.embedding_multiplier = 100.0
    config.eval.ks = (1, 10, 20, 30, 50)
    config.paper = {"recall_at_1": 92.5}
    return config
