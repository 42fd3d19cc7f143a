"""The images of one experiment and their readers, made from its config."""

from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from dcjax import crops, datasets, decoding, device_cache, devices, host_cache, pipeline
from dcjax.errors import file_errors

ReadImages = Callable[[datasets.ImageSet], pipeline.Reader]


def load_index(config: ConfigDict) -> datasets.Splits:
    """Loads the image sets as their lists say, without a look at the images."""
    options = {name: config.dataset[name] for name in datasets.known_options(config.dataset.name)}
    return datasets.load(config.dataset.name, root=config.dataset.root, **options)


def load_splits(config: ConfigDict) -> tuple[datasets.Splits, int]:
    """Loads the image sets and counts the images left out because they cannot be read."""
    splits = load_index(config)
    sets = {"train": splits.train, "query": splits.query, "gallery": splits.gallery}
    read = {
        name: decoding.readable(images, skip_unreadable=config.dataset.skip_unreadable)
        for name, images in sets.items()
        if images is not None
    }
    kept = datasets.Splits(**{name: images for name, (images, _) in read.items()})
    return kept, sum(count for _, count in read.values())


def create_augment(config: ConfigDict) -> crops.Augmentation:
    """Builds the training augmentation."""
    return crops.Augmentation(
        config.augment.crop,
        size=config.dataset.crop,
        resize=config.dataset.resize,
        scale=tuple(config.augment.scale),
        ratio=tuple(config.augment.ratio),
        flip=config.augment.flip,
        strategy=config.augment.strategy,
    )


def create_reader(
    config: ConfigDict,
    images: datasets.ImageSet,
    resized: pipeline.Source | None = None,
    *,
    share: devices.Share = devices.WHOLE,
) -> pipeline.Stream:
    """Builds the reader of a set, from files unless its resized images are at hand."""
    return pipeline.Stream(
        images,
        create_augment(config),
        seed=config.seed,
        num_threads=config.dataset.num_threads or None,
        resized=resized,
        share=share,
    )


def create_readers(
    config: ConfigDict, splits: datasets.Splits, mesh: jax.sharding.Mesh
) -> ReadImages:
    """Builds the readers of all sets of a training run, which are read again and again.

    Of training batches each process reads what its own devices of the mesh hold.
    """
    sets = [x for x in (splits.train, splits.query, splits.gallery) if x is not None]
    sampled = config.sampling
    share = devices.share_of_batch(mesh, sampled.clusters_per_step, sampled.batch_size)
    streams = [create_reader(config, images, share=share) for images in sets]
    readers: dict[datasets.ImageSet, pipeline.Reader] = dict(zip(sets, streams, strict=True))
    if config.dataset.cache == "device":
        readers |= zip(sets, device_cache.create(streams, mesh), strict=True)
    elif config.dataset.cache != "none":
        folder = config.dataset.cache_dir if config.dataset.cache == "disk" else None
        with file_errors(f"Cannot keep dataset.cache=disk in dataset.cache_dir={folder!r}"):
            decoded = host_cache.create(streams, folder)
        sources = map(host_cache.source, decoded)
        readers |= {
            images: create_reader(config, images, resized, share=share)
            for images, resized in zip(sets, sources, strict=True)
        }
    return readers.__getitem__
