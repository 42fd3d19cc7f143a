"""Embeddings of images in files: made once, in parts that survive a stop."""

import contextlib
import dataclasses
import itertools
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

import dcjax
from dcjax.core import naming
from dcjax.core.console import Console
from dcjax.core.errors import FileError, InputError, file_errors
from dcjax.data.datasets import ImageSet, Splits, embedding_files, listing
from dcjax.distributed import devices
from dcjax.experiment import same_run
from dcjax.retrieval import embedding_writer
from dcjax.retrieval.embedding_parts import Part, Parts
from dcjax.retrieval.embedding_writer import Block
from dcjax.runs import locks
from dcjax.runs.preemption import Stopped, StopRequest

# Images of a part: a kill loses one part at most, and each costs half a second to begin.
_IMAGES_PER_PART = 16_384


class Run(Protocol):
    """The network of a run, an `embedder.Embedder`."""

    config: ConfigDict
    place: str
    checkpoint: int

    def embed(self, images: ImageSet, advance: Callable[[int], None]) -> np.ndarray:
        """Embeds an image set."""

    def identity(self) -> dict[str, Any]:
        """Returns what the embeddings depend on."""

    def load_test(self) -> Splits:
        """Loads the test images."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The images to embed.

    Attributes:
      sets: one after the other, with the same classes.
      has_labels: whether they have classes.
      splits: of each set, the names of its images' splits; None if there are none.
      are_checked: whether all can be read; else unreadable ones are to be left out.
    """

    sets: Sequence[ImageSet]
    has_labels: bool
    splits: Sequence[np.ndarray] | None
    are_checked: bool

    def __len__(self) -> int:
        """Returns the number of images."""
        return sum(map(len, self.sets))

    @property
    def has_cameras(self) -> bool:
        """Whether the cameras that took the images are known."""
        return all(images.cameras is not None for images in self.sets)


@dataclasses.dataclass(frozen=True)
class _Range:
    """The images of a part: the number of their set, and the first and the end in it."""

    set: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def load(run: Run, images: str | None, *, flag: str = "--images") -> Source:
    """Lists images; all can be read, or unreadable ones are to be left out.

    Args:
      run: which embeds them.
      images: a folder, table or list, see `listing.load`; None: the test images of the run.
      flag: that gave the images, for messages.

    Raises:
      InputError: if images cannot be read, or are not as required.
      FileError: if something is missing.
    """
    dataset = run.config.dataset
    if images is None:
        splits = run.load_test()
        names = None
        if splits.gallery is not None:
            sets = zip(("query", "gallery"), splits.test_sets, strict=True)
            names = [np.full(len(images), name) for name, images in sets]
        return Source(splits.test_sets, True, names, are_checked=True)
    if dataset.name == "features":
        raise InputError(
            f"The run was trained on features and embeds no images: leave out {flag} to embed its "
            "test features, or give others to dcjax.load."
        )
    listed = listing.load(images, flag=flag)
    are_checked = not dataset.skip_unreadable
    if are_checked:
        from dcjax.data import decoding  # which imports TensorFlow

        decoding.select_readable(
            listed.images, skip_unreadable=False, max_pixels=dataset.max_pixels
        )
    names = None if listed.splits is None else [listed.splits]
    return Source([listed.images], listed.has_labels, names, are_checked)


def write(run: Run, source: Source, prefix: Path, stop: StopRequest, console: Console) -> None:
    """Writes PREFIX.parquet and PREFIX.npy, if they are not there yet for this run and images.

    Args:
      run: which embeds the images.
      source: the images.
      prefix: of the paths of the files.
      stop: allows to stop while nothing is written.
      console: where progress is shown.

    Raises:
      InputError: if images cannot be read.
      FileError: if a file cannot be written, or somebody else writes it now.
      Stopped: if it is to stop; what is complete is kept.
    """
    console.print_line(f"images    {_summarize(source)}")
    console.print_line(f"network   checkpoint {run.checkpoint}, {run.place}")
    ranges = list(_ranges(run, source))
    identity = _identity(run, source, num_parts=len(ranges))
    if embedding_writer.read_metadata(prefix) == identity:
        console.print_line(
            f"finished  already: {prefix}.parquet has the embeddings of these images"
        )
        return
    folder = prefix.with_name(f"{prefix.name}.parts")
    with _lock(folder):
        parts = Parts(folder, identity, num_parts=len(ranges))
        if parts.are_of_another:
            console.print_line(
                "begin     anew: the parts that were there are of another checkpoint, other images "
                "or other settings"
            )
        if parts.num_complete:
            console.print_line(f"continue  after {parts.num_complete} of {len(ranges)} parts")
        _embed_parts(run, source, ranges, parts, stop, console)
        if not parts.num_images:
            raise InputError(f"Require an image that can be read, got none of {len(source)}.")
        if num_skipped := len(source) - parts.num_images:
            console.print_line(
                f"left out  {num_skipped:,} of {len(source):,} images, which cannot be read"
            )
        columns = {
            name: embedding_writer.text_type(itertools.chain(*values))
            for name, values in _columns(source).items()
        }
        embedding_writer.write(
            prefix,
            _blocks(source, ranges, parts, stop),
            num_rows=parts.num_images,
            dim=run.config.model.embedding_dim,
            columns=columns,
            classes=_class_names(source.sets[0]) if source.has_labels else [],
            metadata=identity,
        )
        parts.remove()
    for path in embedding_files.paths_of(prefix):
        console.print_line(f"wrote     {path}")


@contextlib.contextmanager
def show_progress(
    console: Console, *, total: int, done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Shows a bar while the block embeds images, with their number in a second.

    Yields:
      A function that advances the bar by a number of images.
    """
    start_time, num_images = time.monotonic(), 0
    with console.progress("embedding", total=total, done=done) as move:

        def advance(count: int) -> None:
            nonlocal num_images
            num_images += count
            move(f"{num_images / (time.monotonic() - start_time):.0f} images/s", count)

        yield advance


def stop_message(reason: str) -> str:
    """Returns the line for an embedding that was stopped."""
    return f"Stopped by {reason}; the same command continues with the parts that are complete."


def _embed_parts(
    run: Run,
    source: Source,
    ranges: Sequence[_Range],
    parts: Parts,
    stop: StopRequest,
    console: Console,
) -> None:
    """Embeds the parts that are not there yet."""
    done = sum(len(rows) for number, rows in enumerate(ranges) if number in parts)
    start_time, num_embedded = time.monotonic(), 0
    with show_progress(console, total=len(source), done=done) as advance:
        for number, part in enumerate(ranges):
            if number not in parts:
                images = source.sets[part.set].select(np.arange(part.start, part.stop))
                rows = _readable_rows(run, images, source)
                num_embedded += len(rows)
                chosen = images if len(rows) == len(images) else images.select(rows)
                dim = run.config.model.embedding_dim
                vectors = (
                    run.embed(chosen, advance) if len(rows) else np.zeros((0, dim), np.float32)
                )
                advance(len(images) - len(rows))
                stop.defer()
                parts.save(number, Part(rows, vectors))
                stop.allow()
    if num_embedded:
        seconds = time.monotonic() - start_time
        console.print_line(
            f"embedded  {num_embedded:,} images in {seconds:.0f} s, "
            f"{num_embedded / seconds:.0f} a second"
        )
    stop.defer()


def _readable_rows(run: Run, images: ImageSet, source: Source) -> np.ndarray:
    """Returns the rows of images that can be read."""
    rows = np.arange(len(images))
    if source.are_checked:
        return rows
    from dcjax.data import decoding  # which imports TensorFlow

    max_pixels = run.config.dataset.max_pixels
    return np.delete(rows, decoding.find_unreadable(images, thorough=True, max_pixels=max_pixels))


def _ranges(run: Run, source: Source) -> Iterator[_Range]:
    """Yields the images of each part: complete batches, so that parts change no batch."""
    batch_size = devices.round_up(run.config.eval.batch_size, jax.device_count())
    size = max(1, _IMAGES_PER_PART // batch_size) * batch_size
    for number, images in enumerate(source.sets):
        for start in range(0, len(images), size):
            yield _Range(number, start, min(start + size, len(images)))


def _identity(run: Run, source: Source, *, num_parts: int) -> dict[str, Any]:
    """Returns what the files are of: the network and the images, as JSON."""
    splits = [] if source.splits is None else np.concatenate(source.splits).tolist()
    images = [
        {
            **same_run.fingerprint(images),
            **({} if images.in_memory else _file_fingerprint(images)),
        }
        for images in source.sets
    ]
    return {
        "dcjax": dcjax.__version__,
        **run.identity(),
        "images": images,
        "splits": naming.checksum(splits),
        "has_labels": source.has_labels,
        "leaves_out_unreadable": not source.are_checked,
        "max_pixels": run.config.dataset.max_pixels,
        "num_parts": num_parts,
    }


def _file_fingerprint(images: ImageSet) -> dict[str, int]:
    """Returns checksums of the paths of images and of the times at which their files changed."""
    changed = np.ascontiguousarray(images.file_states["changed"])
    return {
        "paths": naming.checksum(map(images.name, range(len(images)))),
        "changed": zlib.crc32(changed.data),
    }


def _columns(source: Source) -> dict[str, list[Iterable[str]]]:
    """Returns all texts of each column."""
    columns: dict[str, list[Iterable[str]]] = {
        "path": [map(images.name, range(len(images))) for images in source.sets]
    }
    if source.has_labels:
        columns["label"] = [_class_names(images) for images in source.sets]
    if source.splits is not None:
        columns["split"] = [split.tolist() for split in source.splits]
    if source.has_cameras:
        columns["camera"] = [_cameras(images) for images in source.sets]
    return columns


def _blocks(
    source: Source, ranges: Sequence[_Range], parts: Parts, stop: StopRequest
) -> Iterator[Block]:
    """Yields the parts as rows of a file."""
    for number, place in enumerate(ranges):
        if stop.requested:
            raise Stopped
        images, part = source.sets[place.set], parts.load(number)
        rows = (place.start + part.rows).tolist()
        texts = {"path": list(map(images.name, rows))}
        if source.has_labels:
            names = _class_names(images)
            texts["label"] = [names[label] for label in images.labels[rows].tolist()]
        if source.splits is not None:
            texts["split"] = source.splits[place.set][rows].tolist()
        if source.has_cameras:
            texts["camera"] = _cameras(images.select(rows))
        yield Block(texts, part.vectors)


def _cameras(images: ImageSet) -> list[str]:
    return [] if images.cameras is None else images.cameras.tolist()


def _class_names(images: ImageSet) -> Sequence[str]:
    """Returns the names of the classes, with their numbers if two have the same name."""
    names = images.class_names
    if len(set(names)) == len(names):
        return names
    return [f"{number} {name}" for number, name in enumerate(names)]


def _summarize(source: Source) -> str:
    names = [""] * len(source.sets)
    if source.splits is not None and len(source.sets) > 1:
        names = [f"{split[0]} " for split in source.splits]
    parts = []
    for name, images in zip(names, source.sets, strict=True):
        classes = f" of {len(np.unique(images.labels)):,} classes" if source.has_labels else ""
        parts.append(f"{name}{len(images):,} images{classes}")
    return ", ".join(parts) + ("" if source.has_labels else ", without labels")


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Makes and locks the folder of the parts, against another embedding with the same output."""
    with file_errors(f"Cannot write {folder}", advice="give another --output"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = locks.hold(folder)
        except locks.HeldError as holder:
            raise FileError(
                f"An embedding is under way in {folder}, held by {holder}; wait until it ends, "
                "stop it, or give another --output."
            ) from None
    try:
        yield
    finally:
        locks.remove(folder, descriptor)
