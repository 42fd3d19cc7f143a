"""Search of a gallery by a picture, in the whole embedding or in the subspace of a cluster."""

import collections
import dataclasses
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dcjax.analysis import subspaces
from dcjax.core import naming
from dcjax.core.console import Console
from dcjax.core.errors import InputError, nearest
from dcjax.core.ranges import require_whole
from dcjax.data.datasets import ImageSet, embedding_files
from dcjax.data.datasets.embedding_files import Embeddings
from dcjax.experiment import embedding
from dcjax.retrieval.neighbors import Gallery
from dcjax.runs.preemption import StopRequest

# Embeddings in subspaces that are kept for the next search, in bytes; one is kept in any case.
_MAX_KEPT = 2**30


class Neighbor(NamedTuple):
    """An image of a gallery, and how near it is.

    Attributes:
      number: of the image in the gallery, from 0.
      distance: Euclidean, from 0 to 2.
      class_name: of its class, "" if the gallery has no classes.
      name: its path, "image 7" or "row 7" if it has none.
    """

    number: int
    distance: float
    class_name: str
    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """The images of a gallery.

    Attributes:
      title: what they are: "test images", or a path.
      vectors: float32 [G, D], of length 1.
      labels: the number of each one's class, [G].
      classes: their names; none without labels.
      names: of the images, G of them.
      pictures: the images themselves, G of them; None if it is not known where they are.
    """

    title: str
    vectors: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    names: Sequence[str]
    pictures: ImageSet | None


class Search:
    """Finds the images of a gallery that lie nearest to a picture.

    Attributes:
      images: of the gallery.
      clusters: numbers of the clusters that have a subspace; none if there is only one.
    """

    def __init__(
        self,
        images: Images,
        embed: Callable[[Any], np.ndarray],
        cluster_masks: np.ndarray,
        combination: str,
    ) -> None:
        """Places the embeddings on a device; `load` reads a gallery.

        Args:
          images: of the gallery.
          embed: returns the embeddings of a list of pictures, [n, D].
          cluster_masks: [K_max, D]; rows of clusters that do not exist are 0.
          combination: how they are combined, see `masks.combine`.
        """
        self.images = images
        self._embed = embed
        self._masks = cluster_masks
        self._combination = combination
        self._whole = Gallery(images.vectors, images.labels)
        self._subspaces: collections.OrderedDict[int, Gallery] = collections.OrderedDict()
        exist = np.flatnonzero((cluster_masks > 0).any(axis=1))
        is_divided = len(np.unique(np.maximum(cluster_masks[exist], 0), axis=0)) > 1
        self.clusters = tuple(exist.tolist()) if is_divided else ()

    def __call__(
        self, picture: Any, k: int = 10, *, cluster: int | None = None, class_name: str = ""
    ) -> list[Neighbor]:
        """Returns the images nearest to a picture, the nearest first.

        Args:
          picture: a path, a PIL image, or an array, as an embedder takes them.
          k: how many; fewer are found if the gallery, or the class, has fewer.
          cluster: whose subspace is searched, one of `clusters`; None: the whole embedding.
          class_name: the class that is searched; "": all.

        Raises:
          InputError: if an argument is not as required, or a file cannot be read.
        """
        require_whole("k", k, 1)
        self._require_cluster(cluster)
        return self._find(self._embed([picture]), k, cluster, class_name, -1)

    def like(
        self, number: int, k: int = 10, *, cluster: int | None = None, class_name: str = ""
    ) -> list[Neighbor]:
        """Returns the images nearest to one of the gallery, without itself; as `__call__`."""
        require_whole("k", k, 1)
        require_whole("number", number, 0, len(self.images.names) - 1)
        self._require_cluster(cluster)
        query = self.images.vectors[number : number + 1]
        return self._find(query, k, cluster, class_name, number)

    def _find(
        self, query: np.ndarray, k: int, cluster: int | None, class_name: str, self_row: int
    ) -> list[Neighbor]:
        allowed = self.images.labels == self._label(class_name) if class_name else None
        if cluster is not None:
            query = self._project(query, cluster)
        rows, distances = self._gallery(cluster).nearest(
            query, k, self_rows=np.array([self_row]), allowed=allowed
        )
        found = rows[0] >= 0
        return [
            Neighbor(row, distance, self.class_of(row), self.images.names[row])
            for row, distance in zip(
                rows[0][found].tolist(), distances[0][found].tolist(), strict=True
            )
        ]

    def class_of(self, number: int) -> str:
        """Returns the name of an image's class, "" if there are no classes."""
        classes = self.images.classes
        return classes[self.images.labels[number]] if classes else ""

    def _label(self, class_name: str) -> int:
        classes = self.images.classes
        if class_name not in classes:
            known = nearest(class_name, classes) if classes else "; it has no classes"
            raise InputError(f"The gallery has no class {class_name!r}{known}.")
        return classes.index(class_name)

    def _require_cluster(self, cluster: int | None) -> None:
        if cluster is not None and cluster not in self.clusters:
            known = ", ".join(map(str, self.clusters)) or "none, as the run has one cluster"
            raise InputError(f"Require a cluster with a subspace ({known}), got {cluster!r}.")

    def _gallery(self, cluster: int | None) -> Gallery:
        """Returns the embeddings in a subspace; those that were searched last are kept."""
        if cluster is None:
            return self._whole
        if cluster not in self._subspaces:
            num_kept = max(1, _MAX_KEPT // self.images.vectors.nbytes)
            while len(self._subspaces) >= num_kept:
                self._subspaces.popitem(last=False)
            projected = self._project(self.images.vectors, cluster)
            self._subspaces[cluster] = Gallery(projected, self.images.labels)
        self._subspaces.move_to_end(cluster)
        return self._subspaces[cluster]

    def _project(self, vectors: np.ndarray, cluster: int) -> np.ndarray:
        """Returns embeddings in the subspace of a cluster."""
        return subspaces.project(vectors, self._masks, cluster, self._combination)


def load(
    run: embedding.Run, gallery: str | None, folder: Path, stop: StopRequest, console: Console
) -> Images:
    """Loads the embeddings of a gallery, which are made if they are not there yet.

    Args:
      run: which embeds the images.
      gallery: a folder, table or list, see `listing.load`; or a file of embeddings by this
        network; None: the test images of the run, the gallery among them where there is one.
      folder: of the embeddings, where those of the gallery are kept.
      stop: allows to stop while nothing is written.
      console: where progress is shown.

    Raises:
      InputError: if the gallery is not as required.
      FileError: if something is missing or cannot be written.
      Stopped: if it is to stop.
    """
    if gallery is not None:
        place = Path(naming.expand(gallery))
        if place.is_file() and embedding_files.holds_vectors(place):
            return _load_file(run, place)
    source = embedding.load(run, gallery, flag="--gallery")
    prefix = folder / "test"
    if gallery is not None:
        # Folders of one name may lie in different places.
        number = zlib.crc32(naming.encode(str(place.absolute())))
        prefix = folder / f"{place.absolute().stem[:100]}-{number:08x}"
    embedding.write(run, source, prefix, stop, console)
    embedded = embedding_files.read(embedding_files.paths_of(prefix)[0], to_search=True)
    if gallery is None and len(source.sets) > 1:
        embedded = embedded.select(np.asarray(embedded.splits) == "gallery")
        return _join("gallery images", embedded, source.sets[1])
    if len(source.sets) > 1:
        raise InputError(f"Require one set of images in --gallery, got {len(source.sets)}.")
    return _join("test images" if gallery is None else gallery, embedded, source.sets[0])


def _join(title: str, embedded: Embeddings, images: ImageSet) -> Images:
    """Returns embeddings with their images, of which those that cannot be read were left out."""
    names = [] if embedded.paths is None else embedded.paths.tolist()
    if len(names) < len(images):
        rows = {images.name(row): row for row in range(len(images))}
        images = images.select([rows[name] for name in names])
    pictures = None if images.num_features else images
    return Images(title, embedded.vectors, embedded.labels, embedded.classes, names, pictures)


def _load_file(run: embedding.Run, path: Path) -> Images:
    embedded = embedding_files.read(path, to_search=True)
    dim = run.config.model.embedding_dim
    if embedded.vectors.shape[1] != dim:
        raise InputError(
            f"{path}: require vectors of {dim} numbers, as the network of the run gives, got "
            f"{embedded.vectors.shape[1]}; give a file of this run's embeddings."
        )
    weights = embedded.metadata.get("weights")
    if weights is not None and weights != run.identity()["weights"]:
        raise InputError(
            f"{path} has the embeddings of another network, after epoch "
            f"{embedded.metadata.get('epoch')}; embed the images with this one, "
            "--mode=embed, or give the images."
        )
    if not embedded.are_unit_vectors:
        embedded = embedding_files.read(path, normalize=True, to_search=True)
    if embedded.paths is None:
        names = [f"row {row}" for row in range(len(embedded.vectors))]
        pictures = None
    else:
        names = embedded.paths.tolist()
        files = [os.path.join(path.parent, naming.as_file_name(name)) for name in names]
        labels = np.zeros(len(files), np.int32)
        pictures = ImageSet(np.array(files, np.str_), labels, ("",))
    return Images(str(path), embedded.vectors, embedded.labels, embedded.classes, names, pictures)
