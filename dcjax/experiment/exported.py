"""An embedder in one file, which JAX alone can run."""

import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import export

from dcjax.core import regular_files
from dcjax.core.errors import InputError, file_errors
from dcjax.data import device_resize, readers
from dcjax.experiment import parts
from dcjax.experiment.network import Network

PLATFORMS = ("cpu", "cuda", "tpu")

# The function's name in the file says how pictures become crops.
_NAME = "embed_resize_{resize}_crop_{size}"
_NAMED = re.compile(r"embed_resize_(\d+)_crop_(\d+)")
_BATCH_SIZE = 128  # most pictures at a time


class ExportedEmbedder:
    """Turns images into embeddings by an exported file; called as `Embedder` is."""

    def __init__(self, exported: export.Exported, resize: int, size: int) -> None:
        """Takes the function of a file; `load` creates the embedder.

        Args:
          exported: the function from uint8 [n, h, w, 3] to float32 [n, D].
          resize: shorter side in pixels before the crop.
          size: side of the crop in pixels.
        """
        self.embedding_dim = exported.out_avals[0].shape[1]
        self._embed = jax.jit(exported.call)
        from dcjax.data import pictures  # which imports TensorFlow

        self._reader = pictures.CropReader(resize=resize, size=size)

    def __call__(self, images: Iterable[Any]) -> np.ndarray:
        """Embeds pictures of any sizes, cropped by the pipeline; see `Embedder`."""
        batches = self._reader.batches(images, _BATCH_SIZE)
        none = np.zeros((0, self.embedding_dim), np.float32)
        return np.concatenate([none, *map(self._embed_batch, batches)])

    def _embed_batch(self, crops: npt.NDArray[np.uint8]) -> np.ndarray:
        size = readers.batch_size(len(crops), _BATCH_SIZE)
        padded = np.pad(crops, [(0, size - len(crops)), (0, 0), (0, 0), (0, 0)])
        return np.asarray(self._embed(padded))[: len(crops)]


def serialize(network: Network, variables: dict[str, Any]) -> bytes:
    """Returns an exported embedder, with its variables, for all of `PLATFORMS`.

    The function takes uint8 [n, h, w, 3] in RGB, of any n, h and w, and returns float32 [n, D],
    rows L2-normalised.
    """
    augmentation = network.augmentation
    sizes = {"resize": augmentation.resize, "size": augmentation.size}
    # Each method is slow where the other one is fast; what they compute is the same.
    on_cpu, elsewhere = (_apply(network, method) for method in ("matmul", "xla"))

    def embed(images: jax.Array) -> jax.Array:
        crops = device_resize.center_crops(images, **sizes)
        # The variables are arguments, so that both branches share one copy of them.
        return jax.lax.platform_dependent(variables, crops, cpu=on_cpu, default=elsewhere)

    embed.__name__ = _NAME.format(**sizes)
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("n, h, w"), 3), jnp.uint8)
    variables = jax.tree.map(np.asarray, variables)
    return bytes(export.export(jax.jit(embed), platforms=PLATFORMS)(images).serialize())


def load(path: str) -> ExportedEmbedder:
    """Loads the embedder of an exported file.

    Raises:
      InputError: if it is none.
    """
    file = pathlib.Path(path)
    regular_files.require(file)
    with file_errors(f"Cannot read {path}"):
        content = file.read_bytes()
    try:
        exported = export.deserialize(bytearray(content))
    except Exception as error:  # whatever a file is that is no exported function
        raise InputError(
            f"{path} must be a file that --mode=export wrote, or a newer version of JAX reads it: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}."
        ) from error
    if not (named := _NAMED.fullmatch(exported.fun_name)):
        raise InputError(
            f"{path} must be a file that --mode=export wrote, got the function "
            f"{exported.fun_name!r}."
        )
    return ExportedEmbedder(exported, resize=int(named[1]), size=int(named[2]))


def _apply(network: Network, convolution: str) -> Callable[..., jax.Array]:
    # cuDNN's attention is for one platform only.
    model = parts.create_model(network.config, convolution=convolution, attention="xla")

    def apply(variables: dict[str, Any], crops: jax.Array) -> jax.Array:
        outputs: Any = model.apply(variables, crops)
        return outputs["embedding"].astype(jnp.float32)

    return apply
