"""A trained model: restores a checkpoint, embeds images, evaluates."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import numpy.typing as npt
from ml_collections import ConfigDict

from dcjax.core import naming, plugins
from dcjax.core.console import Console
from dcjax.core.errors import InputError
from dcjax.data import readers
from dcjax.data.datasets import ImageSet, Splits, duplicates
from dcjax.distributed import devices, processes
from dcjax.experiment import (
    agreement,
    checks,
    exported,
    inputs,
    same_run,
    schedule,
    versions,
)
from dcjax.experiment import search as searching
from dcjax.experiment.exported import ExportedEmbedder
from dcjax.experiment.network import Network
from dcjax.models import masked_embedder
from dcjax.retrieval import evaluation
from dcjax.runs import workdirs
from dcjax.runs.checkpoints import Checkpoints
from dcjax.runs.preemption import StopRequest
from dcjax.runs.progress import Progress

if TYPE_CHECKING:
    from dcjax.data import pictures


class Embedder:
    """Turns images into embeddings in which images of one class lie near each other.

    Attributes:
      config: of the run that trained it.
      epoch: epochs that it was trained.
      epoch_step: steps of the next epoch that it was trained besides.
      place: both in words, "after epoch 2" or "in epoch 3, after 23 steps".
      checkpoint: number of the checkpoint that it was restored from.
      data: `same_run.fingerprints` of the run's images, {} if they are not known.
      scores: of this checkpoint, {} if it was not evaluated, as in the middle of an epoch.
      validation_scores: its scores on the validation classes, {} also where there are none.
      folder: where embeddings of galleries are kept: `embeddings` in the workdir.
      nmi: that of the scores, if it was computed by the settings of `config`; else None.
    """

    def __init__(
        self,
        network: Network,
        variables: dict[str, Any],
        progress: Progress,
        checkpoint: int,
        *,
        folder: str,
        data: Mapping[str, Any] | None = None,
        scores: Mapping[str, float] | None = None,
        validation_scores: Mapping[str, float] | None = None,
        nmi: float | None = None,
    ) -> None:
        """Takes trained variables; `load` creates the embedder of a run.

        Args:
          network: of the run.
          variables: of the model.
          progress: how far it was trained.
          checkpoint: its number.
          folder: where embeddings of galleries are kept.
          data: `same_run.fingerprints` of the run's images, if they are known.
          scores: of this checkpoint, if it was evaluated.
          validation_scores: likewise, on the validation classes.
          nmi: that of the scores, if it was computed by the settings of the config.
        """
        self.config = network.config
        self.epoch = progress.epoch
        self.epoch_step = progress.epoch_step
        self.place = progress.describe()
        self.checkpoint = checkpoint
        self.folder = folder
        self._network = network
        self._variables = variables
        self.data = data or {}
        self.scores = scores or {}
        self.validation_scores = validation_scores or {}
        self.nmi = nmi

    def __call__(self, images: Iterable[Any]) -> np.ndarray:
        """Embeds pictures of any sizes by the test transform of the run.

        Each size of a batch is compiled once: `eval.batch_size`, and powers of two below it for
        what is left.

        Args:
          images: n pictures in order, as `pictures.CropReader.batches` takes them; read batch by
            batch. Of a run on features: these, an array of floats [n, F].

        Returns:
          float32 [n, D], rows L2-normalised.

        Raises:
          InputError: for pictures of another type or shape, or a file that cannot be read.
        """
        most = devices.round_up(self.config.eval.batch_size, self._network.mesh.size)
        parts = [self._embed(batch, most) for batch in self._batches(images, most)]
        empty = np.zeros((0, self.config.model.embedding_dim), np.float32)
        return np.concatenate(parts) if parts else empty

    @property
    def num_features(self) -> int:
        """F of the features that it takes in the place of images; 0: it takes images."""
        return self._network.num_features

    @functools.cached_property
    def _reader(self) -> "pictures.CropReader":
        from dcjax.data import pictures  # which imports TensorFlow: features do without it

        return pictures.CropReader(
            resize=self._network.augmentation.resize,
            size=self._network.augmentation.size,
            max_pixels=self.config.dataset.max_pixels,
            num_threads=self.config.dataset.num_threads or None,
        )

    def _batches(self, images: Any, size: int) -> Iterator[npt.NDArray[Any]]:
        """Returns the crops of pictures, or features in their place, in batches."""
        if not self.num_features:
            return self._reader.batches(images, size)
        features = self._parse_features(images)
        return (features[start : start + size] for start in range(0, len(features), size))

    def _parse_features(self, features: Any) -> npt.NDArray[np.float32]:
        required = f"Require finite features [n, {self.num_features}], as the run was trained on"
        try:
            array = np.asarray(features, np.float32)
        except (TypeError, ValueError):
            raise InputError(f"{required}, got what is no array of numbers.") from None
        if array.ndim != 2 or array.shape[1] != self.num_features:
            raise InputError(f"{required}, got an array {list(array.shape)}.")
        if not np.isfinite(array).all():
            raise InputError(f"{required}, got NaN or infinity.")
        return array

    def _embed(self, crops: npt.NDArray[Any], most: int) -> np.ndarray:
        embeddings = self._network.embed(
            readers.Crops(crops),
            self._variables,
            batch_size=readers.batch_size(len(crops), most),
        )
        return evaluation.fetch(embeddings, len(crops))

    def embed(self, images: ImageSet, advance: Callable[[int], None]) -> np.ndarray:
        """Embeds an image set in batches of `eval.batch_size`, as an evaluation does.

        Args:
          images: N of them.
          advance: called after each batch with the number of its images.

        Returns:
          float32 [N, D], rows L2-normalised.

        Raises:
          InputError: naming an image that cannot be read.
          DivergedError: if an embedding is not finite.
        """
        reader = _CountingReader(self._network.open(images), advance)
        embeddings = self._network.embed(reader, self._variables)
        return evaluation.fetch(embeddings, len(images))

    def embed_test(self, splits: Splits, advance: Callable[[int], None]) -> list[jax.Array]:
        """Embeds the query and, if there is one, the gallery, as an evaluation does.

        Args:
          splits: the test images.
          advance: called after each batch with the number of its images.

        Returns:
          Of each, the rows as `evaluation.embed` returns them.

        Raises:
          InputError: if a test image is there twice, or there is nothing to retrieve.
        """
        self._check_test(splits)
        readers = (_CountingReader(x, advance) for x in self._network.open_test(splits))
        return [self._network.embed(reader, self._variables) for reader in readers]

    @property
    def masks(self) -> np.ndarray:
        """The masks of the clusters [K_max, D], those of clusters that do not exist zeros."""
        _, masks, _ = masked_embedder.split_variables(self._variables)
        return np.asarray(jax.device_get(masks))

    def identity(self) -> dict[str, Any]:
        """Returns what its embeddings depend on: checkpoint, settings and weights, as JSON."""
        return {
            "checkpoint": self.checkpoint,
            "epoch": self.epoch,
            "settings": same_run.settings_fingerprint(self.config.to_dict()),
            "weights": agreement.array_checksum(jax.device_get(self._variables)),
        }

    def load_train(self) -> ImageSet:
        """Loads the training images of the run, which have to be those that it was trained on.

        Raises:
          InputError: if they are others, or some cannot be read.
          MissingFileError: if they are not there.
        """
        splits, _ = inputs.load_splits(self.config.dataset)
        trained = ("train", "validation")
        now = {name: x for name, x in same_run.fingerprints(splits).items() if name in trained}
        for difference in same_run.differences(now, self.data):
            raise InputError(f"Require the training images of the run, got other {difference}.")
        return splits.train

    def load_test(self) -> Splits:
        """Loads the test images of the run; prints how many are left out, and if they changed."""
        say = Console(quiet=not processes.is_first()).print_line
        return inputs.load_test(self.config.dataset, self.data, say)

    def evaluate(self, splits: Splits | None = None) -> dict[str, float]:
        """Scores the test classes of the run, or of these splits, without their training images.

        Raises:
          InputError: if a test image is there twice, or there is nothing to retrieve.
        """
        if splits is None:
            splits = self.load_test()  # which checks the files
            checks.check_query(self.config, splits)
        else:
            self._check_test(splits)
        readers = self._network.open_test(splits)
        # As after the last epoch, when NMI is computed by default.
        return self._network.score(readers, self._variables, is_last=True)

    def _check_test(self, splits: Splits) -> None:
        duplicates.check_files(splits.without_train())
        checks.check_query(self.config, splits)

    def export(self) -> bytes:
        """Returns the embedder as a file that JAX alone can run, see `exported.serialize`.

        Raises:
          InputError: of a run on features, which has no network of images.
        """
        if self.num_features:
            raise InputError(
                "--mode=export writes a network of images, and the run was trained on features; "
                "load it by dcjax.load, which takes features."
            )
        return exported.serialize(self._network, self._variables)

    def search(
        self,
        gallery: str | None = None,
        *,
        stop: StopRequest | None = None,
        console: Console | None = None,
    ) -> searching.Search:
        """Returns the search of a gallery, whose embeddings are kept in the workdir.

        They are made if they are not there, or if images or checkpoint have changed.

        Args:
          gallery: a folder, table or list, see `listing.load`; or a file of embeddings by this
            network, see `embedding_files`; None: the test images of the run.
          stop: allows to stop the embedding.
          console: where progress is shown; None: a new one.

        Raises:
          InputError: if the gallery is not as required.
          FileError: if something is missing or cannot be written.
        """
        images = searching.load(
            self,
            gallery,
            workdirs.on_disk(self.folder),
            stop or StopRequest(),
            console or Console(),
        )
        return searching.Search(images, self, self.masks, self.config.model.test_masks)

    def score_pixels(self, splits: Splits) -> dict[str, float]:
        """Scores the images' own pixels, a baseline."""
        return self._network.score_pixels(self._network.open_test(splits))


class _CountingReader:
    """A reader of centre crops that reports each batch; implements `readers.Reader`."""

    def __init__(self, reader: readers.Reader, advance: Callable[[int], None]) -> None:
        self.images = reader.images
        self.train_batches = reader.train_batches
        self._reader = reader
        self._advance = advance

    def eval_batches(self, rows: npt.NDArray[np.int32]) -> Iterator[Any]:
        left = len(self.images)
        for batch in self._reader.eval_batches(rows):
            yield batch
            self._advance(min(left, rows.shape[1]))
            left -= min(left, rows.shape[1])


def load(
    path: str, config: ConfigDict | None = None, *, trust_custom_code: bool = False
) -> Embedder | ExportedEmbedder:
    """Restores the model of a run, which may be somebody else's: no code in it is run.

    It changes no state of the process: environment, logs, signals, and settings of libraries stay.
    TensorFlow, which reads images, is imported with the first of them, without oneDNN, whose
    message it prints, unless the program has set TF_ENABLE_ONEDNN_OPTS or imported TensorFlow
    before. It sees all devices: a program that needs GPUs for JAX alone hides them with
    `tf.config.set_visible_devices([], "GPU")`.

    Args:
      path: the run's workdir, whose config says which checkpoint is meant (`eval.select`), or one
        checkpoint in it, workdir/checkpoints/NUMBER; or a file that --mode=export wrote.
      config: replaces the saved one; it may differ only in settings that do not change the model,
        such as dataset.root, dataset.test_list and eval.
      trust_custom_code: whether to import and call a custom backbone that the run names; not needed
        with a config that names the same backbone.

    Raises:
      MissingFileError: if there is no checkpoint.
      InputError: if `config` is that of another model, or the run needs code that is not trusted.
    """
    if os.path.isfile(naming.expand(path)):
        return exported.load(naming.expand(path))
    return restore(path, config, trust_custom_code=trust_custom_code or config is not None)


def restore(path: str, config: ConfigDict | None, *, trust_custom_code: bool) -> Embedder:
    """Restores the model of a run as `load` does; the config may be the saved one."""
    folder, chosen = workdirs.locate(path)
    checkpoints = Checkpoints(str(folder), read_only=True)
    meta = checkpoints.meta(checkpoints.number("last") if chosen is None else chosen)
    known = None if config is None else config.to_dict()
    saved = same_run.saved_settings(meta, str(folder), known)
    if config is None:
        config = ConfigDict(saved)
        config.dataset.download = False  # only the user may allow it
    else:
        if versions.FORMAT in config:  # it is the content of a config.json
            config = ConfigDict(versions.parse(config.to_dict(), "config"))
        same_run.check_same(config.to_dict(), saved, str(folder), evaluating=True)
    checks.check_evaluation(config)
    name = config.model.backbone
    plugins.check_consent(name, str(folder), trust_custom_code=trust_custom_code)
    if chosen is None:
        best_by = saved["eval"]["best_by"]
        checkpoints = Checkpoints(str(folder), read_only=True, best_by=best_by)
        chosen = _select(checkpoints, config.eval, saved, meta["progress"], str(folder))
    processes.check_same("checkpoint", chosen)  # what hosts see of a shared folder may be old
    data = meta.get("data") or {}
    num_features = data.get("query", {}).get("num_features", 0)
    network = Network(config, devices.create_mesh(), num_features=num_features)
    variables = checkpoints.restore_model(chosen, network.abstract_variables)
    meta = checkpoints.meta(chosen)
    progress = Progress(**meta["progress"])
    # A checkpoint that was not evaluated holds the scores of an earlier one.
    evaluates = schedule.Schedule(ConfigDict(saved)).evaluates_after(progress)
    is_scored = evaluates and not progress.epoch_step
    scores = progress.scores if is_scored else {}
    clusters_alike = all(config.eval[x] == saved["eval"][x] for x in ("nmi_runs", "kmeans"))
    return Embedder(
        network,
        variables,
        progress,
        chosen,
        folder=os.path.join(os.fspath(folder), "embeddings"),
        data=meta.get("data"),
        scores=scores,
        validation_scores=progress.validation_scores if is_scored else {},
        nmi=scores.get("nmi") if clusters_alike else None,
    )


def _select(
    checkpoints: Checkpoints,
    settings: ConfigDict,
    saved: dict[str, Any],
    last: dict[str, Any],
    workdir: str,
) -> int:
    """Returns the number of the checkpoint that `eval.select` means.

    Args:
      checkpoints: of the run.
      settings: the group `eval`.
      saved: all settings of the run.
      last: the progress at the last checkpoint.
      workdir: of the run, for messages.

    Raises:
      InputError: if the best one was not kept, or by another score than `eval.best_by`, or there
        are no validation classes to be best by.
    """
    select, best_by = settings.select, saved["eval"]["best_by"]
    is_validated = bool(last.get("chosen_validation_scores"))
    has_best = is_validated and saved["checkpoint"]["keep_best"]
    if select == "last" or (select == "auto" and not has_best):
        return checkpoints.number("last")
    if select == "best" and not is_validated:
        raise InputError(
            f"{workdir} has no scores of validation classes, by which eval.select=best chooses; "
            "take eval.select=last, or train with dataset.validation_classes."
        )
    if settings.best_by != best_by:
        raise InputError(
            f"{workdir} has kept the checkpoint of its best epoch by {best_by}, perhaps not that "
            f"by eval.best_by={settings.best_by}; take eval.best_by={best_by}, "
            "eval.select=last, or one checkpoint, --workdir=DIR/checkpoints/NUMBER."
        )
    best = last["best_epoch" if select == "best_test" else "chosen_epoch"]
    number = checkpoints.number("best_test" if select == "best_test" else "best")
    kept = checkpoints.meta(number)["progress"]["epoch"]
    if best != kept and select == "auto":
        return checkpoints.number("last")
    if best != kept:
        raise InputError(
            f"{workdir} was best after epoch {best}, whose checkpoint is not there (the best one "
            f"that is, after epoch {kept}); take eval.select=last, or one checkpoint, "
            "--workdir=DIR/checkpoints/NUMBER."
        )
    return number
