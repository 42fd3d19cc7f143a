"""A trained model: restores a checkpoint, embeds images, evaluates."""

import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dcjax import checks, devices, evaluation, experiment, inputs, processes, resuming, workdirs
from dcjax.checkpoints import Checkpoints
from dcjax.datasets import ImageSet, Splits
from dcjax.errors import InputError


class Embedder:
    """Turns images into embeddings in which images of one class lie near each other.

    Attributes:
      config: of the run that trained it.
      epoch: epochs that it was trained.
    """

    def __init__(self, config: ConfigDict, variables: dict[str, Any], epoch: int) -> None:
        """Takes trained variables; `load` makes an embedder of a run."""
        self.config = config
        self.epoch = epoch
        self._variables = variables

    def __call__(self, images: np.ndarray | Sequence[str]) -> np.ndarray:
        """Embeds images of any size by the test transform of the run.

        Args:
          images: uint8 [n, h, w, 3 or 1] in RGB, or n paths of image files.

        Returns:
          float32 [n, D], rows L2-normalised.

        Raises:
          InputError: for arrays of another type or shape, or a file that cannot be read.
        """
        if isinstance(images, str | os.PathLike):
            raise InputError(f"Give a list of paths or an array of images, got {images!r}.")
        array = np.asarray(images)
        if array.ndim == 1 and all(isinstance(path, str | os.PathLike) for path in images):
            array = array.astype(np.str_)
        if array.ndim and not len(array):
            return np.zeros((0, self.config.model.embedding_dim), np.float32)
        image_set = ImageSet(array, np.zeros(len(array), np.int32), ("",))
        # A few images need no full batch; powers of two, so that few sizes are compiled.
        needed = 2 ** math.ceil(math.log2(len(array)))
        devices_multiple = -(-needed // jax.device_count()) * jax.device_count()
        embeddings = self.embed(
            image_set,
            variables=self._variables,
            output="embedding",
            batch_size=min(devices_multiple, self.config.eval.batch_size),
        )
        return evaluation.whole(embeddings, len(image_set))

    @functools.cached_property
    def embed(self) -> experiment.EmbedImages:
        """The function from an image set to embeddings, compiled when it is first called."""
        model = experiment.create_model(self.config)
        read = functools.partial(inputs.create_reader, self.config)
        return experiment.create_embed(self.config, model, devices.create_mesh(), read)

    def evaluate(self, splits: Splits | None = None) -> dict[str, float]:
        """Scores the test classes of the run, or of these splits."""
        if splits is None:
            splits, _ = inputs.load_splits(self.config)
        checks.check_query(self.config, splits)
        last_epoch = self.config.train.num_epochs - 1  # whose NMI is wanted, even in training
        return experiment.score(self.config, splits, self.embed, self._variables, last_epoch)


def load(path: str, config: ConfigDict | None = None) -> Embedder:
    """Restores the model of a run.

    Args:
      path: the run's workdir, whose config says which checkpoint is meant (`eval.select`), or one
        checkpoint in it, workdir/checkpoints/STEP.
      config: in place of the saved one, from which it may differ only where the trained model
        does not, as in dataset.root, dataset.test_list and eval.

    Raises:
      MissingFileError: if there is no checkpoint.
      InputError: if `config` is that of another model.
    """
    folder = workdirs.absolute(path)
    chosen = None
    if folder.parent.name == "checkpoints" and folder.name.isdigit():
        folder, chosen = folder.parent.parent, int(folder.name)
    checkpoints = Checkpoints(str(folder), read_only=True)
    meta = checkpoints.meta(checkpoints.step("last") if chosen is None else chosen)
    saved = resuming.saved_settings(meta, str(folder), config)
    if config is None:
        config = ConfigDict(saved)
    else:
        resuming.check_same(config, saved, str(folder), evaluating=True)
    checks.check_evaluation(config, devices.create_mesh())
    if chosen is None:
        best_by = saved["eval"]["best_by"]
        checkpoints = Checkpoints(str(folder), read_only=True, best_by=best_by)
        chosen = checkpoints.step(config.eval.select)
        if config.eval.select == "best_test":
            _check_best(config, best_by, meta, checkpoints.meta(chosen), str(folder))
    processes.check_same("checkpoint", chosen)  # what hosts see of a shared folder may be old
    model = experiment.create_model(config)
    variables = checkpoints.restore_model(chosen, experiment.variable_shapes(config, model))
    return Embedder(config, variables, checkpoints.meta(chosen)["progress"]["epoch"])


def _check_best(
    config: ConfigDict, best_by: str, last: dict[str, Any], chosen: dict[str, Any], workdir: str
) -> None:
    """Checks that of the checkpoints kept the best one is that of the best epoch.

    Raises:
      InputError: if it was not kept, or kept by another score than is asked for.
    """
    if config.eval.best_by != best_by:
        raise InputError(
            f"{workdir} has kept the checkpoint of its best epoch by {best_by}, perhaps not that "
            f"by eval.best_by={config.eval.best_by}; take eval.best_by={best_by}, "
            "eval.select=last, or one checkpoint, --workdir=DIR/checkpoints/STEP."
        )
    best, found = last["progress"]["best_epoch"], chosen["progress"]["epoch"]
    if best != found:
        raise InputError(
            f"{workdir} was best after epoch {best}, whose checkpoint is not there (the best one "
            f"that is, after epoch {found}); take eval.select=last, or one checkpoint, "
            "--workdir=DIR/checkpoints/STEP."
        )
