r"""Stanford Online Products: P21 (Sanakoyeu et al., PAMI 2021), Table VI, "Margin + Ours (learn)".

    python launch.py --config=configs/sop.py \
        --config.dataset.root=/path/to/Stanford_Online_Products \
        --config.model.pretrained=/path/to/resnet50.safetensors

The paper's scores: recall@1 79.77, NMI 89.67, mARP (`marp_paper`) 79.56, with the augmentation
Standard, as here; its baseline (here --config.division.max_clusters=1) 77.11, 89.65, 76.98.
Not run at this size yet.

K, T, the start of full-embedding training and the epochs are those of Table IX (the README of
P21's code trains 180 epochs), the other values those of that README.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the settings of this experiment."""
    config = default.get_config()
    config.dataset.name = "sop"
    config.model.masks = "learned"
    config.division.max_clusters = 32
    config.division.every_epochs = 2
    config.division.freeze_backbone_epochs = 1
    config.sampling.sampler = "balanced"
    config.sampling.batch_size = 80
    config.sampling.images_per_class = 2
    config.train.num_epochs = 170
    config.train.full_embedding_from_epoch = 80
    config.eval.ks = (1, 10, 100)
    config.paper = {
        "recall_at_1": 79.77,
        "recall_at_10": 90.39,
        "recall_at_100": 95.20,
        "nmi": 89.67,
        "marp_paper": 79.56,
    }
    return config
