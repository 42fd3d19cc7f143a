"""Every setting, with its meaning and unit.

The values are those of P21 (Sanakoyeu et al., PAMI 2021) where it or its code gives one for all
data sets; each other file in this folder is one experiment and holds what differs.

Where a setting is an option of a part, such as a loss or a sampler, its value stands in the
signature of the function that is named here, and its meaning and source in that docstring. To see
the values of all settings:

    python -c "from configs import default; print(default.get_config())"
"""

from ml_collections import ConfigDict

from dcjax.core import options
from dcjax.data.crops import Augmentation
from dcjax.data.headers import MAX_PIXELS


def _defaults(place: str, *names: str) -> ConfigDict:
    """Returns options of a part with the defaults of its signature: those named, or all.

    Args:
      place: of the function, "package.module:function" within dcjax.
      names: of options.
    """
    return ConfigDict(options.read(place, *names))


def get_config() -> ConfigDict:
    """Returns the settings that every experiment starts from."""
    config = ConfigDict()
    config.seed = 0  # of everything random: weights, division, batches, pixels

    config.dataset = dataset = ConfigDict()
    # cars, cub, digits, duke, features, folder, grocery, inshop, manifest, market, omniglot, sop,
    # veri or vid
    dataset.name = "folder"
    dataset.root = ""  # folder with the data; for tfds: its data folder, "" its default
    # Of cars, cub, inshop, sop and vid: folder (the extracted archive), tfds (what
    # tensorflow-datasets prepared, or can prepare from archives in downloads/manual), auto: either.
    dataset.source = "auto"
    dataset.complete = True  # require the published numbers of images; False: a part will do
    # Fetch what is missing: images, and weights by a hub name; else say where to get it.
    dataset.download = False
    dataset.manifest = ""  # manifest: table of the images, .csv, .tsv or .parquet
    # features: file of vectors with labels in the place of images, .parquet, or .npy beside a .csv
    dataset.features = ""
    # folder, and features without a column split: share of the classes held out, the last in order
    dataset.test_classes = 0.5
    dataset.test_list = "large"  # vid: small, medium or large
    # Training classes that are held out to choose by (eval.best_by, train.stop_after): a share,
    # which ones by their names alone; or a list of names. Neither: none, or those that a table has
    # (split=validation).
    dataset.validation_classes = 0.0
    dataset.validation_list = ()
    # What is held out: class; super_class, whose classes stay together, as the unit of share or
    # names; none: nothing, and classes that the data set has for validation are trained on.
    dataset.validation_unit = "class"
    dataset.validation_fold = 0  # which of the disjoint parts of that share, from 0
    augmentation = options.of(Augmentation)
    dataset.resize = augmentation["resize"]  # pixels: shorter side before a crop
    dataset.crop = augmentation["size"]  # pixels: side of what the network sees
    # Where the images are kept at dataset.resize, decoded: none (files are read again in every
    # epoch), memory, disk (a file in cache_dir, made once), device (the memory of each device; for
    # the strategy standard). All but none are for crops that begin with the resize.
    dataset.cache = "none"
    dataset.cache_dir = ""  # "": dcjax/images in the user's cache folder
    # Of model.train=embedding: augmented crops of each training image whose features are made once;
    # a batch takes one of them at random. 0: the test crop. Features are kept in the memory of the
    # host, or with dataset.cache=disk in files in cache_dir ("": dcjax/features).
    dataset.feature_views = 0
    dataset.skip_unreadable = False  # drop and count images that cannot be read, not stop
    # Height times width of an image beyond which it cannot be read, by its header, before it takes
    # memory: 3 bytes a pixel decoded, 12 while it is resized. 0: no limit but TensorFlow's.
    dataset.max_pixels = MAX_PIXELS
    dataset.num_threads = 0  # that decode and augment; 0: as many as tf.data finds best

    config.augment = augment = ConfigDict()
    # standard, geom, geom_color or color_heavy (P21, Table V)
    augment.strategy = augmentation["strategy"]
    # random_resized; resize_then_random, as the papers say; or resize_then_random_resized, which
    # cuts random_resized crops from the image at dataset.resize.
    augment.crop = augmentation["crop"]
    augment.scale = augmentation["scale"]  # of a crop that is resized: share of the image's area
    augment.ratio = augmentation["ratio"]  # of a crop that is resized: width / height
    augment.flip = augmentation["flip"]  # left to right, with probability 0.5

    config.model = model = _defaults(
        "models.masked_embedder:create",
        "num_stages",  # of a ResNet: stages kept; the rest is cut off
        "width",  # of a ResNet: channels of the first stage; 64 is the published one
        "batch_norm",  # of a ResNet: frozen running statistics, or train (from random weights)
        "convolution",  # of a ResNet: xla, matmul (same numbers, fast on a CPU), auto: by device
        # Mean and deviation of pixels that the weights were trained with: imagenet, half (0.5), or
        # auto: imagenet, but a ViT without LayerScale needs one of the others.
        "pixels",
        # Type of the backbone's activations: float32, or bfloat16, in half the bits. Parameters,
        # losses, K-means and scores are float32 in any case.
        "precision",
        "rematerialize",  # compute each block again for the gradient: less memory, more time
        # Images of a step, over all devices, that go through the backbone at a time: for batches
        # whose activations do not fit the memory. The gradient is the same, with a second
        # forward pass. A divisor of C * B (sampling.clusters_per_step times sampling.batch_size)
        # and a multiple of the number of devices; 0: all at once.
        "chunk_size",
        "pooling",  # average or max; of a ViT also class (its token) or class_and_average
        "dropout",  # share of pooled features dropped in training
        # How the linear embedding begins: torch (random, as PyTorch's), or orthogonal, at the
        # scores of the pooled features where it is at least as wide as these.
        "embedding_init",
    )
    # resnet18, 34, 50, 101, or resnet_small for 8 to 64 pixels; vit_small, vit_base, vit_large; or
    # package.module:function, one of your own, for which there are no published weights.
    model.backbone = "resnet50"
    # Of a ViT, as its weights have it. The defaults are DINOv2's; DINO's and augreg's have
    # patch_size 16 and no layer_scale.
    model.vit = _defaults(
        "models.vit:create",
        "patch_size",  # pixels; it must divide dataset.crop
        "registers",  # tokens beside class and patches; 4 in DINOv2 with registers
        "layer_scale",  # a factor per feature after each branch
        "mlp",  # gelu or swiglu
        "attention",  # xla, cudnn (flash attention, for bfloat16 on a GPU), auto: by device
    )
    model.custom = ConfigDict()  # options of a backbone of your own
    # A file (safetensors, torch.save or numpy.savez) in the names of torchvision, timm, DINO,
    # DINOv2 or Hugging Face; or a repository on the Hugging Face hub, as timm/resnet50.tv_in1k or
    # facebook/dinov2-small; "": random weights.
    model.pretrained = ""
    # What is trained: all; embedding (the backbone stays as it is, and its features are made once);
    # or last_blocks of the backbone and the embedding.
    model.train = "all"
    # How many: of a ResNet, residual blocks (of ResNet-50, 3 are the last stage); of a ViT, blocks
    # with the final norm.
    model.last_blocks = 1
    model.embedding_dim = 512  # D
    model.masks = "learned"  # learned, fixed (0/1 blocks) or none (no subspaces)
    # How masks are combined: sum (P21 eq. 8), sum_l1, none.
    model.test_masks = options.read("division.masks:combine")["kind"]
    model.orthogonality_weight = 0.01  # lambda of P21 eq. 7, for learned masks

    config.loss = loss = ConfigDict()
    # arcface, circle, contrastive, cosface, margin, multi_similarity, n_pairs, normalized_softmax,
    # proxy_anchor, proxy_nca, recall_at_k, smooth_ap, soft_triple, soft_triplet,
    # sub_center_arcface, supervised_contrastive or triplet; or package.module:function, one of
    # your own
    loss.name = "margin"
    # Numbers of coordinates, such as (64, 128, 256): the first 64 of the embedding, and so on, are
    # trained to be embeddings too; the loss is the mean of theirs and that of all coordinates.
    loss.matryoshka = ()
    # Images of past steps that a batch is compared with besides itself, by losses that compare
    # images with each other; 0: none. A division empties the memory.
    loss.memory_size = 0
    loss.memory_from_epoch = 1  # counted from 0: embeddings move too fast at first
    loss.custom = ConfigDict()  # options of a loss of your own
    # Options of each loss: the keyword arguments of its function. A miner is given by its name.
    loss.margin = _defaults("losses.pairwise:margin")  # Wu et al. 2017
    loss.triplet = _defaults("losses.triplets:triplet")  # Schroff et al. 2015
    loss.soft_triplet = _defaults("losses.triplets:soft_triplet")  # Hermans et al. 2017
    loss.n_pairs = _defaults("losses.contrasts:n_pairs")  # Sohn 2016, as P21's code has it
    loss.contrastive = _defaults("losses.pairwise:contrastive")  # Hadsell et al. 2006
    loss.multi_similarity = _defaults("losses.pairwise:multi_similarity")  # Wang et al. 2019
    loss.circle = _defaults("losses.pairwise:circle")  # Sun et al. 2020
    # Khosla et al. 2020
    loss.supervised_contrastive = _defaults("losses.contrasts:supervised_contrastive")
    loss.smooth_ap = _defaults("losses.ranks:smooth_ap")  # Brown et al. 2020
    loss.recall_at_k = _defaults("losses.ranks:recall_at_k")  # Patel et al. 2022
    # Proxies are trained at optimizer.loss_learning_rate.
    loss.proxy_nca = _defaults("losses.proxies:proxy_nca")  # Movshovitz-Attias et al. 2017
    loss.proxy_anchor = _defaults("losses.proxies:proxy_anchor")  # Kim et al. 2020
    # Wang et al. 2017 (NormFace), Zhai & Wu 2019
    loss.normalized_softmax = _defaults("losses.proxies:normalized_softmax")
    loss.cosface = _defaults("losses.proxies:cosface")  # Wang et al. 2018
    loss.arcface = _defaults("losses.proxies:arcface")  # Deng et al. 2019
    loss.sub_center_arcface = _defaults("losses.sub_centers:sub_center_arcface")  # Deng et al. 2020
    loss.soft_triple = _defaults("losses.soft_triple:soft_triple")  # Qian et al. 2019

    # Options of miners, which loss.NAME.miner names: all, distance_weighted, easy_positive, hard,
    # multi_similarity, nearest or semi_hard; or package.module:function, one of your own. They are
    # the keyword arguments of the functions in dcjax/losses/mining.py.
    config.mining = mining = ConfigDict()
    mining.custom = ConfigDict()  # options of a miner of your own
    for miner in ("distance_weighted", "easy_positive", "multi_similarity", "nearest", "semi_hard"):
        mining.update(_defaults(f"losses.mining:{miner}"))  # with equal defaults of shared options

    config.division = division = _defaults(
        "division.division:divide",
        "matching",  # score of two clusters in the assignment: iou or overlap
        # Draws of kmeans or random until every cluster has two classes of two images.
        "num_trials",
        # Of a K-means of all images: random images, or the centers of the previous clusters.
        "start",
    )
    division.update(_defaults("division.host_kmeans:kmeans", "num_iterations"))  # at most
    # K_max: a power of two, or any number with hierarchy direct; 1: the baseline, not divided.
    division.max_clusters = 4
    division.every_epochs = 2  # T
    division.hierarchy = "progressive"  # K doubles every T epochs; direct: K_max from the start
    # kmeans; or P21's ablations: random (at each division), labels (whole super-classes).
    division.grouping = "kmeans"
    division.features = "backbone"  # what K-means clusters: pooled backbone features, or embedding
    # Where K-means runs: host; or devices, all of which share the images, for more of them than a
    # host clusters in time: the same but for the last digits.
    division.kmeans = "host"
    division.freeze_backbone_epochs = 1  # of each period, the first too; not with max_clusters 1

    config.sampling = _defaults(
        "division.sampling:plan_epoch",
        "sampler",  # uniform over images, or balanced over classes
        "batch_size",  # B, images of one cluster
        "images_per_class",  # m, balanced only
        "small_class",  # fewer than m images: fill with other classes, or repeat
        "cluster_order",  # shuffled, round_robin or uniform
        "rounds",  # batches of each cluster in an epoch: max, min or mean of N_k / B
        # Steps of every epoch in place of rounds, so that all that is counted in epochs is counted
        # in so many steps, whatever K is; 0: as rounds says.
        "epoch_steps",
        "clusters_per_step",  # C, cluster batches that one step learns from
    )

    # Of C cluster batches, so many lie side by side on the devices, which it must divide: 1 shards
    # each batch over all of them; with C and this the number of devices, each has its own batch.
    config.devices = ConfigDict()
    config.devices.cluster_parallel = 1

    config.optimizer = optimizer = _defaults(
        "training.optimizers:create",
        "name",  # adam, adamw, lion or sgd
        # Of weights: coupled, added to the gradient before the optimizer; or decoupled, added to
        # its update. adamw and lion require decoupled.
        "decay",
        "clip_norm",  # largest norm of the gradient of backbone and embedding together; 0: any
    )
    optimizer.adam = _defaults("training.optimizers:adam")  # Kingma & Ba 2015
    optimizer.adamw = _defaults("training.optimizers:adamw")  # Loshchilov & Hutter 2019
    optimizer.lion = _defaults("training.optimizers:lion")  # Chen et al. 2023
    optimizer.sgd = _defaults("training.optimizers:sgd")
    optimizer.learning_rate = 1e-5  # of backbone and embedding; in both papers' code
    optimizer.embedding_multiplier = 1.0  # times learning_rate
    optimizer.masks_multiplier = 100.0  # times learning_rate
    optimizer.loss_learning_rate = 1e-3  # of the loss's own parameters
    # Of a ViT: the rate of a block is that of the next one times this, of the last one the
    # backbone's times this; 1: all have the same.
    optimizer.layer_decay = 1.0
    optimizer.weight_decay = 1e-4  # of backbone and embedding
    optimizer.masks_decay_multiplier = 1.0  # times weight_decay
    optimizer.update(  # how all learning rates change from step to step
        _defaults(
            "training.rates:create",
            "schedule",  # after the warm-up: constant; cosine, to the end of the run; or step
            "warmup_epochs",  # of a linear rise from 0; 0.5 is half an epoch
            "final_share",  # of the rates at the end of a cosine
            # Of step: the numbers of epochs, as (60, 90), after which rates are multiplied by ...
            "step_epochs",
            "step_factor",  # ... this
        )
    )

    config.train = train = ConfigDict()
    train.num_epochs = 120
    # End after exactly so many steps instead, in the midst of an epoch if need be; the schedule of
    # the rates over num_epochs is then stretched or compressed to them. 0: after num_epochs.
    train.num_steps = 0
    train.until_epoch = 0  # end after so many epochs of the schedule of num_epochs; 0: after all
    # End after so many evaluations in which eval.best_by has gained nothing on the validation
    # classes; 0: never.
    train.stop_after = 0
    # Then train anew, in the folder refit/ of the run, on the validation classes too, until the
    # epoch that was best by them.
    train.refit = False
    train.full_embedding_from_epoch = -1  # train the combined embedding from here on; -1: never
    # Decay of an exponential moving average of the network over the steps, such as 0.999, which is
    # evaluated, saved and loaded in place of the network; 0: none.
    train.ema_decay = 0.0
    train.log_every_steps = 20  # steps whose mean is one point of a curve
    train.report = True  # after the last epoch, write what --mode=report writes

    config.eval = evaluation = ConfigDict()
    evaluation.every_epochs = 1  # 0: only at the end
    evaluation.at_start = True  # score the untrained network first
    evaluation.batch_size = 128  # images embedded at a time; in training, a multiple of the devices
    # all_vs_all: each test image searches all others, or queries search the data set's gallery if
    # it has one; cross_camera: as that, but images of a query's class and camera are left out for
    # it; gallery, where there is none: one random image a class, searched by all others.
    evaluation.protocol = "all_vs_all"
    evaluation.gallery_draws = 10  # protocol gallery: draws whose scores are averaged
    evaluation.ks = (1, 2, 4, 8)  # of recall at k
    # Numbers of first coordinates, such as (64, 128): recall_at_1 is scored for these parts of the
    # embedding too, as recall_at_1@64; (): for those of loss.matryoshka.
    evaluation.dims = ()
    # Also score the ranking of a gallery by k-reciprocal neighbours (Zhong et al. 2017).
    evaluation.rerank = False
    evaluation.reranking = _defaults(
        "retrieval.reranking:score_queries",
        "k1",  # nearest images that may be reciprocal neighbours
        "k2",  # nearest images whose encodings are averaged
        "original_weight",  # lambda, of the distance that there was before
    )
    # False match rates, as (1e-3, 1e-4), at which the false non-match rate is scored, with the
    # distance that is the threshold; (): none.
    evaluation.fmr = ()
    evaluation.nmi = "last"  # cluster the test embeddings: never, last or always (slow)
    evaluation.nmi_runs = 10  # K-means runs whose NMI is averaged
    evaluation.kmeans = "host"  # where these run, as division.kmeans: host or devices
    evaluation.pixels = False  # also score raw pixels, for tiny images
    evaluation.best_by = "recall_at_1"  # score by which an epoch is best
    # Checkpoint to evaluate and load: last; best, by the validation classes; best_test, chosen by
    # the test classes that it is scored on; auto: best where there are validation classes, or last.
    evaluation.select = "auto"

    # Percent that a paper gives for this experiment, by name of the score: what a report shows
    # beside the run's own.
    config.paper = ConfigDict()

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every_epochs = 1
    checkpoint.keep_latest = 2
    checkpoint.keep_best = 1  # by eval.best_by, of the validation and of the test classes
    # A checkpoint that cannot be written, as on a full disk: stop, with the one before kept, or
    # go_on and try again at the next; the last one always has to be written.
    checkpoint.on_failure = "stop"
    return config.lock()
