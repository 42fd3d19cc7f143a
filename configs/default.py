"""Every setting, once, with its meaning and unit.

The values are those of P21 (Sanakoyeu et al., PAMI 2021) where it or its code gives one for all
data sets; each other file in this folder is one experiment and holds what differs.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the settings that every experiment starts from."""
    config = ConfigDict()
    config.seed = 0  # of everything random: weights, division, batches, pixels

    config.dataset = dataset = ConfigDict()
    # cars, cub, digits, folder, grocery, inshop, manifest, omniglot, sop or vid
    dataset.name = "folder"
    dataset.root = ""  # folder with the data; for tfds: its data folder, "" its default
    # Of cars, cub, inshop, sop and vid: folder (the extracted archive), tfds (what
    # tensorflow-datasets prepared, or can prepare from archives in downloads/manual), auto: either.
    dataset.source = "auto"
    dataset.complete = True  # require the published numbers of images; False: a part will do
    # Fetch what is missing: images, and weights by a hub name; else say where to get it.
    dataset.download = False
    dataset.manifest = ""  # manifest: table of the images, .csv, .tsv or .parquet
    dataset.test_classes = 0.5  # folder: share of the classes held out, the last in sorted order
    dataset.test_list = "large"  # vid: small, medium or large
    dataset.resize = 256  # pixels: shorter side before a crop
    dataset.crop = 224  # pixels: side of what the network sees
    # Where the images are kept at dataset.resize, decoded: none (files are read again in every
    # epoch), memory, disk (a file in cache_dir, made once), device (the memory of each device; for
    # the strategy standard). All but none are for crops that begin with the resize.
    dataset.cache = "none"
    dataset.cache_dir = ""  # "": dcjax/images in the user's cache folder
    dataset.skip_unreadable = False  # drop and count images that cannot be read, not stop
    # Height times width of an image beyond which it cannot be read, by its header, before it takes
    # memory: 3 bytes a pixel decoded, 12 while it is resized. 0: no limit but TensorFlow's.
    dataset.max_pixels = 100_000_000
    dataset.num_threads = 0  # that decode and augment; 0: as many as tf.data finds best

    config.augment = augment = ConfigDict()
    augment.strategy = "standard"  # standard, geom, geom_color or color_heavy (P21, Table V)
    # random_resized; resize_then_random, as the papers say; or resize_then_random_resized, which
    # cuts random_resized crops from the image at dataset.resize.
    augment.crop = "random_resized"
    augment.scale = (0.08, 1.0)  # of a crop that is resized: share of the image's area
    augment.ratio = (3 / 4, 4 / 3)  # of a crop that is resized: width / height
    augment.flip = True  # left to right, with probability 0.5

    config.model = model = ConfigDict()
    # resnet18, 34, 50, 101, or resnet_small for 8 to 64 pixels; or package.module:function, one of
    # your own, to which the settings of ResNets do not apply: stages, width, batch_norm, weights.
    model.backbone = "resnet50"
    model.own = ConfigDict()  # options of a backbone of your own
    model.num_stages = 4  # stages kept; the rest is cut off
    model.width = 64  # channels of the first stage; 64 is the published ResNet
    # A file (safetensors, torch.save or numpy.savez) in torchvision's, timm's or Hugging Face's
    # names; or a repository on the Hugging Face hub, timm/resnet50.tv_in1k; "": random weights.
    model.pretrained = ""
    model.batch_norm = "frozen"  # frozen running statistics, or train (from random weights)
    model.convolution = "auto"  # xla, matmul (same numbers, fast on a CPU), auto: by device
    # Type of the backbone's activations: float32, or bfloat16, in half the bits. Parameters,
    # losses, K-means and scores are float32 in any case.
    model.precision = "float32"
    model.pooling = "average"  # average or max
    model.dropout = 0.01  # share of pooled features dropped in training
    model.embedding_dim = 512  # D
    model.masks = "learned"  # learned, fixed (0/1 blocks) or none (no subspaces)
    model.test_masks = "sum"  # how masks are joined: sum (P21 eq. 8), sum_l1, none
    model.orthogonality_weight = 0.01  # lambda of P21 eq. 7, for learned masks

    config.loss = loss = ConfigDict()
    # arcface, contrastive, cosface, margin, multi_similarity, n_pairs, normalized_softmax,
    # proxy_anchor, proxy_nca, recall_at_k, smooth_ap, soft_triple, soft_triplet,
    # supervised_contrastive or triplet; or package.module:function, one of your own
    loss.name = "margin"
    # Images of past steps that a batch is compared with besides itself, by losses that compare
    # images with each other; 0: none. A division empties the memory.
    loss.memory_size = 0
    loss.memory_from_epoch = 1  # counted from 0: embeddings move too fast at first
    loss.own = ConfigDict()  # options of a loss of your own
    loss.margin = ConfigDict()  # Wu et al. 2017
    loss.margin.miner = "distance_weighted"
    loss.margin.margin = 0.2  # alpha: half-width of the band around beta
    loss.margin.beta = 1.2  # boundary between positive and negative distances
    loss.margin.nu = 0.0  # weight of beta's regulariser
    loss.margin.learn_beta = "none"  # none, shared or per_class
    loss.triplet = ConfigDict()  # Schroff et al. 2015
    loss.triplet.miner = "semi_hard"
    loss.triplet.margin = 0.2
    loss.triplet.squared = False  # distances squared, as in P19 and FaceNet
    loss.triplet.average = "all"  # over all triplets picked, or over those with a nonzero term
    loss.soft_triplet = ConfigDict()  # Hermans et al. 2017
    loss.soft_triplet.miner = "semi_hard"
    loss.n_pairs = ConfigDict()  # Sohn 2016, as P21's code has it
    loss.n_pairs.alpha = 1.0  # scale of the similarities, its start if it is learned
    loss.n_pairs.learn_alpha = True
    loss.contrastive = ConfigDict()  # Hadsell et al. 2006
    loss.contrastive.miner = "all"
    loss.contrastive.positive_margin = 0.0  # nearer positives have no loss
    loss.contrastive.negative_margin = 1.0  # farther negatives have no loss
    loss.contrastive.squared = False  # true: the exponent as published
    loss.multi_similarity = ConfigDict()  # Wang et al. 2019
    loss.multi_similarity.miner = "multi_similarity"
    loss.multi_similarity.alpha = 2.0  # sharpness among positives
    loss.multi_similarity.beta = 50.0  # sharpness among negatives
    loss.multi_similarity.base = 0.5  # lambda
    loss.supervised_contrastive = ConfigDict()  # Khosla et al. 2020
    loss.supervised_contrastive.temperature = 0.1
    loss.smooth_ap = ConfigDict()  # Brown et al. 2020
    loss.smooth_ap.temperature = 0.01
    loss.recall_at_k = ConfigDict()  # Patel et al. 2022
    loss.recall_at_k.ks = (1, 2, 4, 8, 16)
    loss.recall_at_k.rank_temperature = 1.0
    loss.recall_at_k.temperature = 0.01
    # Proxies are trained at optimizer.loss_learning_rate.
    loss.proxy_nca = ConfigDict()  # Movshovitz-Attias et al. 2017
    loss.proxy_nca.scale = 1.0  # of squared distances
    loss.proxy_nca.denominator = "others"  # the proxies of other classes, as published, or all
    loss.proxy_anchor = ConfigDict()  # Kim et al. 2020
    loss.proxy_anchor.margin = 0.1  # delta
    loss.proxy_anchor.alpha = 32.0  # scale of the similarities
    loss.normalized_softmax = ConfigDict()  # Wang et al. 2017 (NormFace), Zhai & Wu 2019
    loss.normalized_softmax.temperature = 0.05
    loss.cosface = ConfigDict()  # Wang et al. 2018
    loss.cosface.margin = 0.35  # of the cosine
    loss.cosface.scale = 64.0
    loss.arcface = ConfigDict()  # Deng et al. 2019
    loss.arcface.margin = 0.5  # radians
    loss.arcface.scale = 64.0
    loss.soft_triple = ConfigDict()  # Qian et al. 2019
    loss.soft_triple.centers = 10  # of each class
    loss.soft_triple.la = 20.0  # lambda, scale of the similarities
    loss.soft_triple.gamma = 0.1  # temperature of the soft-max over the centers of a class
    loss.soft_triple.tau = 0.2  # weight of the distances between the centers of a class
    loss.soft_triple.margin = 0.01  # delta

    # What miners take, which loss.NAME.miner names: all, distance_weighted, easy_positive, hard,
    # multi_similarity, nearest or semi_hard; or package.module:function, one of your own.
    config.mining = mining = ConfigDict()
    mining.own = ConfigDict()  # options of a miner of your own
    mining.dims = "full"  # dimension in distance weighting: full D, or active in the mask
    mining.cutoff = 0.5  # distance_weighted: nearer ones weigh as this; nearest: are left out
    mining.upper_cutoff = 1.4  # farther negatives have no margin loss and next to no weight
    mining.easy_negatives = "semi_hard"  # what easy_positive takes: semi_hard or hard ones
    # Semi-hard, without a negative beyond the positive: the farthest, as in P21's code, or none, as
    # in FaceNet.
    mining.fallback = "farthest"
    mining.epsilon = 0.1  # multi_similarity: how much less hard than the hardest still counts

    config.division = division = ConfigDict()
    # K_max: a power of two, or any number with hierarchy direct; 1: the baseline, not divided.
    division.max_clusters = 4
    division.every_epochs = 2  # T
    division.hierarchy = "progressive"  # K doubles every T epochs; direct: K_max from the start
    # kmeans; or P21's ablations: random (drawn anew each time), labels (whole super-classes).
    division.grouping = "kmeans"
    division.features = "backbone"  # what K-means clusters: pooled backbone features, or embedding
    division.matching = "iou"  # score of two clusters in the assignment: iou or overlap
    # Draws of kmeans or random until every cluster has two classes of two images.
    division.num_trials = 30
    division.num_iterations = 100  # of K-means
    # Where K-means runs: host; or devices, all of which share the images, for more of them than a
    # host clusters in time: the same but for the last digits.
    division.kmeans = "host"
    division.freeze_backbone_epochs = 1  # of each period, the first too; not with max_clusters 1

    config.sampling = sampling = ConfigDict()
    sampling.sampler = "balanced"  # uniform over images, or balanced over classes
    sampling.batch_size = 80  # B, images of one cluster
    sampling.images_per_class = 2  # m, balanced only
    sampling.small_class = "other"  # fewer than m images: fill with other classes, or repeat
    sampling.cluster_order = "shuffled"  # shuffled, round_robin or uniform
    sampling.rounds = "max"  # batches of each cluster in an epoch: max, min or mean of N_k / B
    sampling.clusters_per_step = 1  # C, cluster batches that one step learns from

    # Of C cluster batches, so many lie side by side on the devices, which it must divide: 1 spreads
    # each batch over all of them; with C and this the number of devices, each has its own batch.
    config.devices = ConfigDict()
    config.devices.cluster_parallel = 1

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 1e-5  # of backbone and embedding, constant
    optimizer.embedding_multiplier = 1.0  # times learning_rate
    optimizer.masks_multiplier = 100.0  # times learning_rate
    optimizer.loss_learning_rate = 1e-3  # of the loss's own parameters
    optimizer.weight_decay = 1e-4  # of backbone and embedding
    optimizer.masks_decay_multiplier = 1.0  # times weight_decay
    optimizer.decay = "coupled"  # coupled: added to the gradient before Adam; or decoupled

    config.train = train = ConfigDict()
    train.num_epochs = 120
    train.full_embedding_from_epoch = -1  # train the joined embedding from here on; -1: never
    train.log_every_steps = 20  # steps whose mean is one point of a curve

    config.eval = evaluation = ConfigDict()
    evaluation.every_epochs = 1  # 0: only at the end
    evaluation.at_start = True  # score the untrained network first
    evaluation.batch_size = 128  # images embedded at a time; in training, a multiple of the devices
    # all_vs_all: each test image searches all others, or queries search the data set's gallery if
    # it has one; gallery, where it has none: one random image a class, searched by all others.
    evaluation.protocol = "all_vs_all"
    evaluation.gallery_draws = 10  # protocol gallery: draws whose scores are averaged
    evaluation.ks = (1, 2, 4, 8)  # of recall at k
    evaluation.nmi = "last"  # cluster the test embeddings: never, last or always (slow)
    evaluation.nmi_runs = 10  # K-means runs whose NMI is averaged
    evaluation.kmeans = "host"  # where these run, as division.kmeans: host or devices
    evaluation.pixels = False  # also score raw pixels, for tiny images
    evaluation.best_by = "recall_at_1"  # score by which an epoch is best
    evaluation.select = "last"  # checkpoint to evaluate and load: last, or best_test

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every_epochs = 1
    checkpoint.keep_latest = 2
    checkpoint.keep_best = 1  # by eval.best_by
    # A checkpoint that cannot be written, as on a full disk: stop, with the one before kept, or
    # go_on and try again at the next; the last one always has to be written.
    checkpoint.on_failure = "stop"
    return config.lock()
