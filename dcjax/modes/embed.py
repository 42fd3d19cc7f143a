"""Writes the embeddings of images to files."""

import os
from pathlib import Path

import jax
from ml_collections import ConfigDict

from dcjax.core import naming
from dcjax.core.console import Console
from dcjax.core.errors import SettingError
from dcjax.data.datasets import embedding_files
from dcjax.experiment import embedder, embedding
from dcjax.runs import checkpoints, workdirs
from dcjax.runs.preemption import Stopped, StopRequest


def embed(
    workdir: str,
    config: ConfigDict | None,
    *,
    images: str | None = None,
    output: str | None = None,
    trust_custom_code: bool = False,
) -> bool:
    """Writes PREFIX.parquet and PREFIX.npy with the embeddings of images by the network of a run.

    Args:
      workdir: of the run, or one checkpoint in it.
      config: replaces the saved one, see `embedder.load`.
      images: a folder, table or list, see `listing.load`; None: the test images of the run.
      output: PREFIX, by default WORKDIR/embeddings/NAME; a folder gives FOLDER/NAME. The name is
        that of the images, "test" for those of the run.
      trust_custom_code: whether to import a custom backbone that the run names.

    Returns:
      Whether the embedding is finished: it was not stopped.

    Raises:
      InputError: if images cannot be read, or the run or the images are not as required.
      FileError: if something is missing or cannot be written.
    """
    if jax.process_count() > 1:
        raise SettingError(
            f"--mode=embed runs in one process, with all of its devices, got {jax.process_count()} "
            "processes; start it on one host with --distributed=off."
        )
    console = Console()
    with StopRequest() as stop:
        try:
            stop.allow()
            checkpoints.require([workdir])
            prefix = _prefix(workdir, images, output)
            run = embedder.restore(workdir, config, trust_custom_code=trust_custom_code)
            embedding.write(run, embedding.load(run, images), prefix, stop, console)
        except Stopped:
            stop.defer()
            console.print_line(embedding.stop_message(stop.requested))
            return False
    return True


def _prefix(workdir: str, images: str | None, output: str | None) -> Path:
    """Returns the path that the names of the files start with."""
    name = "test" if images is None else Path(naming.expand(images)).absolute().stem
    if output is None:
        folder, _ = workdirs.locate(workdir)
        return workdirs.on_disk(os.fspath(folder)) / "embeddings" / name
    path = Path(naming.expand(output))
    if path.is_dir() or output.endswith("/"):
        return path / name
    return path.with_suffix("") if path.suffix in embedding_files.SUFFIXES else path
