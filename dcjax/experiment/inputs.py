"""The images of one experiment and their readers, made from its config."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from dcjax.data import crops, datasets, decoding, device_cache, host_cache, pipeline
from dcjax.distributed import devices
from dcjax.experiment import same_run

ReadImages = Callable[[datasets.ImageSet], pipeline.Reader]


def load_index(config: ConfigDict) -> datasets.Splits:
    """Loads the image sets as their lists say, without a look at the images."""
    return datasets.load_index(**_data_set(config))


def load_splits(
    config: ConfigDict,
    *,
    with_train: bool = True,
    saved_test: Mapping[str, int] | None = None,
) -> tuple[datasets.Splits, int]:
    """Loads the image sets and counts the images left out because they cannot be read.

    Args:
      config: the experiment.
      with_train: see `datasets.load_index`.
      saved_test: see `datasets.load_index`.
    """
    splits = datasets.load(**_data_set(config), with_train=with_train, saved_test=saved_test)
    sets = {"train": splits.train, "query": splits.query, "gallery": splits.gallery}
    read = {
        name: decoding.readable(
            images,
            skip_unreadable=config.dataset.skip_unreadable,
            max_pixels=config.dataset.max_pixels,
        )
        for name, images in sets.items()
        if images is not None
    }
    kept = datasets.Splits(**{name: images for name, (images, _) in read.items()})
    return kept, sum(count for _, count in read.values())


def load_test(
    config: ConfigDict, saved: Mapping[str, Any], say: Callable[[str], None]
) -> datasets.Splits:
    """Loads the image sets that an evaluation reads, and says what is not as in training.

    Args:
      config: the experiment.
      saved: `same_run.fingerprints` of the run, {} if they are not known.
      say: gets a line if unreadable images are left out, and one for each set that has changed.

    Raises:
      InputError: if they are not there or cannot be read.
    """
    splits, num_skipped = load_splits(config, with_train=False, saved_test=saved.get("query"))
    if num_skipped:
        total = num_skipped + sum(len(x) for x in (splits.query, splits.gallery) if x)
        say(f"left out  {num_skipped} of {total} test images, which cannot be read")
    for difference in same_run.differences(same_run.fingerprints(splits), saved):
        say(f"data      not as in training: other {difference}")
    return splits


def _data_set(config: ConfigDict) -> dict[str, Any]:
    dataset = config.dataset
    options = {name: dataset[name] for name in datasets.known_options(dataset.name)}
    return {"name": dataset.name, "root": dataset.root, **options}


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
        max_pixels=config.dataset.max_pixels,
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
        sources = map(host_cache.source, host_cache.create(streams, folder))
        readers |= {
            images: create_reader(config, images, resized, share=share)
            for images, resized in zip(sets, sources, strict=True)
        }
    return readers.__getitem__
