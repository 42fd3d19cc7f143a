"""The mesh: which part of a step each device and process has."""

import functools
import re
from typing import Any

import jax
import numpy as np
import pytest

from configs import digits
from dcjax.data import crops, datasets, pipeline
from dcjax.distributed import devices
from dcjax.division import sampling
from dcjax.experiment import build, checks


@pytest.mark.parametrize(
    ("parallel", "reason"),
    [
        (3, r"devices.cluster_parallel must divide the number of devices \(8, 8 a process\), "),
        (4, r"sampling.clusters_per_step must be a multiple of the number of batches side by s"),
        (1, r"sampling.batch_size must be a multiple of the number of devices of a batch \(8\), "),
    ],
)
def test_batch_sizes_that_do_not_divide_are_refused_with_alternatives(
    parallel: int, reason: str
) -> None:
    config = digits.get_config()
    config.sampling.batch_size = 60
    config.sampling.images_per_class = 4
    config.devices.cluster_parallel = parallel
    with pytest.raises(ValueError, match=reason + r".*got \d+; .*\d would do\."):
        checks.check_training(config)


def _shares(num_processes: int, parallel: int, shape: tuple[int, int]) -> list[devices.Share]:
    """Returns the shares of processes with 8 devices in total."""
    everyone = jax.devices()
    mesh = devices.create_mesh(everyone, cluster_parallel=parallel)
    each = len(everyone) // num_processes
    return [
        devices.share_of_batch(mesh, *shape, local=everyone[start : start + each])
        for start in range(0, len(everyone), each)
    ]


@pytest.mark.parametrize(("num_processes", "parallel"), [(2, 1), (2, 8), (4, 2), (8, 2)])
def test_any_number_of_processes_reads_the_same_batches(num_processes: int, parallel: int) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 12, 10, 3), np.uint8)
    images = datasets.ImageSet(pixels, np.arange(64, dtype=np.int32) % 4, tuple("abcd"))
    augmentation = crops.Augmentation(
        "random_resized",
        size=6,
        resize=8,
        scale=(0.2, 1.0),
        ratio=(0.75, 1.33),
        flip=True,
        strategy="standard",
    )
    block = sampling.Block(
        rng.integers(0, 64, (3, 8, 16)).astype(np.int32),
        np.tile(np.arange(8, dtype=np.int32), (3, 1)),
    )

    def read(share: devices.Share) -> list[dict[str, Any]]:
        stream = pipeline.Stream(images, augmentation, seed=1, num_threads=2, share=share)
        return list(stream.train_batches([block.skip(1)], epoch=2))

    expected = read(devices.WHOLE)
    parts = [(share, read(share)) for share in _shares(num_processes, parallel, (8, 16))]
    for step, batch in enumerate(expected):
        for share, batches in parts:
            local = batches[step]
            np.testing.assert_array_equal(local["image"], batch["image"][share])
            np.testing.assert_array_equal(local["label"], batch["label"][share])
            np.testing.assert_array_equal(local["cluster"], batch["cluster"][share.clusters])
    assert sum(batches[0]["label"].size for _, batches in parts) == 8 * 16


@functools.cache
def _compiled(clusters_per_step: int, parallel: int, chunk_size: int = 0) -> str:
    config = digits.get_config()
    config.model.chunk_size = chunk_size
    config.model.batch_norm = "frozen" if chunk_size else "train"
    config.division.max_clusters = 1
    config.model.num_stages, config.model.width = 1, 16
    config.devices.cluster_parallel = parallel
    mesh = devices.create_mesh(cluster_parallel=parallel)
    experiment = build.Experiment(config, mesh, datasets.load("digits", root=""))
    batch = {
        "image": jax.ShapeDtypeStruct((clusters_per_step, 32, 8, 8, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((clusters_per_step, 32), np.int32),
        "cluster": jax.ShapeDtypeStruct((clusters_per_step,), np.int32),
    }
    controls = experiment.schedule.controls(0)
    lowered = experiment.train_step.lower(
        experiment.abstract_state, batch, controls, jax.random.key(0)
    )
    return lowered.compile().as_text()


@pytest.mark.parametrize(("clusters_per_step", "parallel"), [(4, 2), (8, 8)])
def test_each_device_convolves_only_its_own_images(clusters_per_step: int, parallel: int) -> None:
    text = _compiled(clusters_per_step, parallel)
    convolutions = re.findall(r"= f32\[(\d+),8,8,16\]\S* convolution\(", text)
    assert {int(n) for n in convolutions} == {clusters_per_step * 32 // 8}
    assert not re.search(r"u8\[\S* all-gather", text)


@pytest.mark.parametrize(("clusters_per_step", "parallel"), [(4, 2), (2, 1)])
def test_each_device_has_an_equal_share_of_each_chunk(
    clusters_per_step: int, parallel: int
) -> None:
    text = _compiled(clusters_per_step, parallel, chunk_size=32)
    convolutions = re.findall(r"= f32\[(\d+),8,8,16\]\S* convolution\(", text)
    assert {int(n) for n in convolutions} == {32 // 8}
    assert not re.search(r"u8\[\S* (all-gather|all-to-all|collective-permute)", text)


def test_loss_with_one_cluster_per_device_needs_no_communication() -> None:
    moved = re.findall(
        r" (all-gather|all-to-all|collective-permute|reduce-scatter)\(", _compiled(8, 8)
    )
    assert not moved
    assert re.search(
        r" all-gather\(", _compiled(1, 1)
    )  # one batch over all devices needs communication
