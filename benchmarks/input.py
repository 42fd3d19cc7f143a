"""Images per second that are ready to train on: 224 x 224, random resized crop, flip.

From JPEG files of 500 x 375 pixels, as of CUB200-2011: our pipeline, a plain one of tf.data, and a
plain Pillow loader in threads. Then our caches, with crops that are cut from the resized image as
it is, and with crops that are resized again: in memory, on disk, and on whatever device JAX finds.
Every batch is made and looked at; nothing is trained.

Takes five minutes on two cores.
"""

import argparse
import concurrent.futures
import functools
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from compare import Job, compare

SIZE, RESIZE, SCALE, RATIO = 224, 256, (0.08, 1.0), (3 / 4, 4 / 3)
BATCH = 80


def write_images(folder: pathlib.Path, number: int) -> None:
    """Writes JPEG files with the spectrum of photographs, amplitude 1 / frequency."""
    from dcjax.data.quiet_tensorflow import tf

    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(375)[:, None], np.fft.rfftfreq(500))
    frequency[0, 0] = np.inf
    for i in range(number):
        grey, *colors = np.fft.irfft2(
            np.fft.rfft2(generator.normal(size=(4, 375, 500))) / frequency, s=(375, 500)
        )
        image = np.stack([grey + color / 4 for color in colors], axis=-1)
        pixels = np.clip(128 + 50 * image / image.std(), 0, 255).astype(np.uint8)
        pixels = pixels.swapaxes(0, 1) if i % 4 == 0 else pixels
        contents = tf.io.encode_jpeg(np.ascontiguousarray(pixels), quality=92).numpy()
        (folder / f"{i:05d}.jpg").write_bytes(contents)


def paths(folder: pathlib.Path, number: int) -> list[str]:
    """Returns so many paths, files coming again where there are fewer."""
    files = sorted(map(str, folder.glob("*.jpg")))
    return [files[i % len(files)] for i in range(number)]


def stream(
    folder: pathlib.Path,
    number: int,
    crop: str,
    resized: Any = None,
    num_threads: int | None = None,
) -> tuple[Any, Any]:
    """Returns our pipeline, from files or from resized images, and the steps of an epoch."""
    from dcjax.data import crops, pipeline
    from dcjax.data.datasets.image_set import from_classes
    from dcjax.division import sampling

    augmentation = crops.Augmentation(
        crop, SIZE, RESIZE, SCALE, RATIO, flip=True, strategy="standard"
    )
    images = from_classes(paths(folder, number), np.zeros(number))
    rows = np.random.default_rng(0).permutation(number).astype(np.int32).reshape(-1, 1, BATCH)
    steps = sampling.Block(rows, np.zeros(rows.shape[:2], np.int32))
    reader = pipeline.Stream(images, augmentation, seed=0, num_threads=num_threads, resized=resized)
    return reader, steps


def look_at_all(batches: Iterator[Any]) -> dict[str, float]:
    """Makes all batches and returns the mean of some pixels: of all, it would take longer."""
    means = [np.asarray(batch)[..., ::16, ::16, :].mean() for batch in batches]
    return {"mean": float(np.mean(means))}


def ours(folder: pathlib.Path, number: int, num_threads: int | None = None) -> Job:
    """Prepares epochs of our pipeline."""
    reader, steps = stream(folder, number, "random_resized", num_threads=num_threads)
    return lambda: look_at_all(x["image"] for x in reader.train_batches([steps], epoch=0))


def host_cached(folder: pathlib.Path, number: int, crop: str, on_disk: bool) -> Job:
    """Prepares epochs of our cache in memory or on disk."""
    from dcjax.data import host_cache

    reader, steps = stream(folder, number, crop)
    (source,) = host_cache.create([reader], str(folder / "cache") if on_disk else None)
    reader, steps = stream(folder, number, crop, source)
    return lambda: look_at_all(x["image"] for x in reader.train_batches([steps], epoch=0))


def device_cached(folder: pathlib.Path, number: int, crop: str) -> Job:
    """Prepares epochs of our device cache; images are not brought back to the host."""
    from dcjax.data import device_cache
    from dcjax.distributed import devices

    reader, steps = stream(folder, number, crop)
    mesh = devices.create_mesh()
    (cache,) = device_cache.create([reader], mesh)

    def job() -> None:
        batches = cache.train_batches([steps], epoch=0)
        for batch in devices.prefetch(batches, devices.batch_shardings(mesh)):
            batch["image"].block_until_ready()

    return job


def filled(folder: pathlib.Path, number: int, where: str) -> Job:
    """Prepares to fill a cache: memory, disk or device."""
    import jax

    from dcjax.data import device_cache, host_cache
    from dcjax.distributed import devices

    reader, _ = stream(folder, number, "resize_then_random")
    mesh = devices.create_mesh()

    def job() -> None:
        if where == "device":
            jax.block_until_ready(device_cache.create([reader], mesh)[0].lines)
        else:
            new = tempfile.mkdtemp(dir=folder) if where == "disk" else None
            (source,) = host_cache.create([reader], new)
            if where == "memory":  # which is filled as images are read
                for _ in stream(folder, number, "resize_then_random", source)[0].resized_images():
                    pass

    return job


def plain(folder: pathlib.Path, number: int, antialias: bool) -> Job:
    """Prepares epochs of a pipeline as a user of tf.data would write it."""
    from dcjax.data.quiet_tensorflow import tf

    def load(path: Any, seed: Any) -> Any:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        start, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros([0, 0, 4]),
            seed=seed,
            area_range=SCALE,
            aspect_ratio_range=RATIO,
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.image.resize(tf.slice(image, start, size), [SIZE, SIZE], antialias=antialias)
        image = tf.image.stateless_random_flip_left_right(image, seed + 1)
        return tf.cast(tf.round(image), tf.uint8)

    seeds = np.random.default_rng(0).integers(0, 2**31 - 1, (number, 2)).astype(np.int32)
    dataset = tf.data.Dataset.from_tensor_slices((paths(folder, number), seeds))
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE)
    return lambda: look_at_all(dataset.as_numpy_iterator())


def pillow(folder: pathlib.Path, number: int) -> Job:
    """Prepares epochs of Pillow in as many threads as Python finds right."""
    from PIL import Image

    def load(path: str, seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        with Image.open(path) as file:
            image = file.convert("RGB")
        width, height = image.size
        for _ in range(10):
            area = width * height * generator.uniform(*SCALE)
            aspect = np.exp(generator.uniform(*np.log(RATIO)))
            wide, high = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if wide <= width and high <= height:
                break
        else:
            wide = high = min(width, height)
        left, top = generator.integers(width - wide + 1), generator.integers(height - high + 1)
        box = (left, top, left + wide, top + high)
        pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box))
        return pixels[:, ::-1] if generator.random() < 0.5 else pixels

    files = paths(folder, number)
    pool = concurrent.futures.ThreadPoolExecutor()

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, number, BATCH):
            seeds = range(start, start + BATCH)
            yield np.stack(list(pool.map(load, files[start : start + BATCH], seeds)))

    return lambda: look_at_all(batches())


def main() -> None:
    """Writes the files and runs the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1280, help="in an epoch")
    parser.add_argument("--files", type=int, default=320, help="different ones among them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="5,864 files, as CUB200-2011 has")
    args = parser.parse_args()
    if args.full:
        args.images, args.files = 73 * BATCH, 5864
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_images(folder, args.files)
        size = np.mean([file.stat().st_size for file in folder.iterdir()]) / 1024
        contestants = {
            "dcjax, pipeline": functools.partial(ours, folder, args.images),
            "dcjax, pipeline, one image at once": functools.partial(ours, folder, args.images, 1),
            "plain tf.data": functools.partial(plain, folder, args.images, antialias=True),
            "plain tf.data, no antialias": functools.partial(
                plain, folder, args.images, antialias=False
            ),
        }
        contestants["Pillow, threads"] = functools.partial(pillow, folder, args.images)
        options = {"rounds": args.rounds, "work": args.images, "unit": "images"}
        title = f"JPEG files of 500 x 375 pixels, {size:.0f} KiB, to batches of {SIZE} x {SIZE}"
        compare(title, contestants, **options)
        for crop in ("resize_then_random", "resize_then_random_resized"):
            contestants = {
                "dcjax, memory": functools.partial(host_cached, folder, args.images, crop, False),
                "dcjax, disk": functools.partial(host_cached, folder, args.images, crop, True),
                "dcjax, device": functools.partial(device_cached, folder, args.images, crop),
            }
            compare(f"From caches at {RESIZE} pixels, {crop}", contestants, **options)
        contestants = {
            f"dcjax, {where}": functools.partial(filled, folder, args.images, where)
            for where in ("memory", "disk", "device")
        }
        compare("Filling the caches", contestants, **options)


if __name__ == "__main__":
    main()
