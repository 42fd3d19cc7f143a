r"""Stanford Online Products with DINO's ViT-S/16, see configs/vit/__init__.py.

    python launch.py --config=configs/vit/sop.py \
        --config.dataset.root=/path/to/Stanford_Online_Products \
        --config.model.pretrained=/path/to/dino_deitsmall16_pretrain.pth

HIER's recall@1: 85.7, with its regulariser and without division.
Not run at this size yet.

K, T and the start of full-embedding training are those of configs/sop.py.
"""

from ml_collections import ConfigDict

from configs import vit


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = vit.recipe(num_epochs=150, warmup_epochs=5, weight_decay=1e-4)
    config.dataset.name = "sop"
    config.division.max_clusters = 32
    config.division.every_epochs = 2
    config.optimizer.embedding_multiplier = 100.0
    config.train.full_embedding_from_epoch = 80
    config.eval.ks = (1, 10, 100)
    config.eval.nmi_runs = 1  # each takes long with 11,316 clusters
    config.paper = {"recall_at_1": 85.7}
    return config
