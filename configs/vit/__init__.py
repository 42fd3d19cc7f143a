"""A vision transformer with DINO's weights, by the recipe of HIER (Kim, Jeong & Kwak, CVPR 2023).

The values are those of scripts/DINO/hier_CUB.sh and its siblings, and of hier/train.py,
hier/utils.py and hier/losses.py that they run, in github.com/tjddus9597/HIER-CVPR23 at commit
5c0178f (train.py at 3986a74): ViT-S/16 with DINO's weights, class token, Proxy-Anchor with two
images of each of 90 classes, AdamW at a constant rate with the epsilon of half precision, proxies
at 10,000 times that rate, crops of 20 % of the image or more.

What differs from HIER:

* Its regulariser, hierarchical proxies in hyperbolic space, is not here: Proxy-Anchor is the whole
  loss, and embeddings lie on the sphere. So `config.paper`, recall@1 of HIER with D = 384 (arXiv
  2212.14258), is a scale and not a score that these settings are known to reach.
* The training set is divided, as in P21; `--config.division.max_clusters=1` is without. K, T and
  the start of full-embedding training are those of the same data set with ResNet-50.
* D = 384, of HIER's better scores; the scripts have 128.
* HIER holds the backbone for the first epochs, 1 or 5; here all rates rise over them.
* HIER clamps elements of the gradient to +-10, does not train the patch embedding, resizes
  bicubically, decays proxies too, and normalises features once more before an embedding that
  starts orthogonal. dcjax has none of these.
* 176 images in a batch in place of 180, so that 2, 4 and 8 devices can share it.

Not run at this size yet.
"""

from ml_collections import ConfigDict

from configs import default


def recipe(*, num_epochs: int, warmup_epochs: float, weight_decay: float) -> ConfigDict:
    """Returns the settings that all data sets share, with those of one."""
    config = default.get_config()
    config.augment.crop = "random_resized"
    config.augment.scale = (0.2, 1.0)
    config.augment.strategy = "standard"
    config.model.backbone = "vit_small"
    config.model.vit.patch_size = 16
    config.model.vit.layer_scale = False
    config.model.pixels = "imagenet"
    config.model.pooling = "class"
    config.model.dropout = 0.0
    config.model.embedding_dim = 384
    config.loss.name = "proxy_anchor"
    config.loss.proxy_anchor.margin = 0.1
    config.loss.proxy_anchor.alpha = 32.0
    config.division.freeze_backbone_epochs = 0
    config.sampling.sampler = "balanced"
    config.sampling.batch_size = 176
    config.sampling.images_per_class = 2
    config.optimizer.name = "adamw"
    config.optimizer.adamw.epsilon = 1e-4
    config.optimizer.decay = "decoupled"
    config.optimizer.weight_decay = weight_decay
    config.optimizer.learning_rate = 5e-6
    config.optimizer.loss_learning_rate = 5e-2
    config.optimizer.masks_multiplier = 100.0  # guess: P21's
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_epochs = warmup_epochs
    config.train.num_epochs = num_epochs
    return config
