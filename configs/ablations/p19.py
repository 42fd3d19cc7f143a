"""P19 (Sanakoyeu et al., CVPR 2019): what its ablations start from.

    python launch.py --config=configs/ablations/p19.py:sop

K clusters from the first epoch, of which each trains its slice of the embedding; no masks that are
learned and no frozen backbone. On the papers' data sets with P19's numbers (80 epochs are those of
its ablations); any other experiment keeps its own K, embedding, batches and epochs.
"""

from ml_collections import ConfigDict

from configs import ablations

RUNS = "ablations_p19"  # not P21's: runs are named after what differs from the experiment

_NUM_CLUSTERS = {"cub": 4, "cars": 4, "sop": 8, "inshop": 8, "vid": 8}
_BATCH_SIZES = {"cub": 128, "cars": 128, "sop": 80, "inshop": 80, "vid": 128}


def get_config(data: str = "sop") -> ConfigDict:
    """Returns the settings of this experiment."""
    config = ablations.experiment(data)
    config.model.masks = "fixed"
    config.division.hierarchy = "direct"
    config.division.freeze_backbone_epochs = 0
    if data in _NUM_CLUSTERS:
        config.augment.strategy = "standard"
        config.model.embedding_dim = 128
        config.division.max_clusters = _NUM_CLUSTERS[data]
        config.division.every_epochs = 2
        config.sampling.sampler = "balanced"
        config.sampling.batch_size = _BATCH_SIZES[data]
        config.sampling.images_per_class = 4
        config.optimizer.learning_rate = 1e-5
        config.optimizer.weight_decay = 1e-4
        config.train.num_epochs = 80
        config.train.full_embedding_from_epoch = -1
    if data == "sop":
        config.eval.ks = (1, 10, 100, 1000)
    return config
