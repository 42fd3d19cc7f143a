"""Where is everything? A map of the gallery, and distances within and between classes."""

import numpy as np
from ml_collections import ConfigDict

from dcjax.analysis import maps
from dcjax.core.console import Console
from dcjax.experiment.report import draws
from dcjax.experiment.report.draws import Part
from dcjax.experiment.report.pictures import Pictures
from dcjax.experiment.report.retrieval import Retrieval
from dcjax.pages import content

_NUM_IMAGES = 2000  # of which t-SNE makes a map in half a minute
_NUM_PAIRS = 5000
_SIZE = 64  # pixels


def collect(found: Retrieval, config: ConfigDict, console: Console) -> content.Map:
    """Returns the map of a run's test images: of the gallery, where there is one."""
    images, embeddings = found.gallery, found.gallery_embeddings
    rows = maps.sample_classes(images.labels, _NUM_IMAGES, draws.generator(Part.MAP))
    within, between = maps.sample_pairs(images.labels, _NUM_PAIRS, draws.generator(Part.PAIRS))
    projections = [content.Projection("PCA", maps.pca(embeddings[rows]))]
    notes = []
    if len(rows) < len(images):
        num_classes = len(np.unique(images.labels[rows]))
        notes.append(
            f"A sample of {len(rows):,} of {len(images):,} images, of {num_classes:,} classes "
            "drawn at random: t-SNE of more would take too long."
        )
    points = maps.tsne(embeddings[rows])
    if points is None:
        notes.append("There are too few images for t-SNE.")
    else:
        projections.append(content.Projection("t-SNE", points))
    with console.progress("map", total=len(rows), done=0) as move:
        pictures = Pictures(
            images, config.dataset, size=_SIZE, advance=lambda count: move("images", steps=count)
        )
        shown = pictures.get(rows)
    return content.Map(
        projections=projections,
        images=shown,
        num_images=len(images),
        notes=notes,
        distances_within=maps.distances(embeddings, within),
        distances_between=maps.distances(embeddings, between),
    )
