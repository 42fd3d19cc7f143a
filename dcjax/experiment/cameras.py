"""Cameras of the test images, by which the protocol cross_camera leaves images out."""

from collections.abc import Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict

from dcjax.core.errors import InputError
from dcjax.retrieval import metrics


def compared(cameras: Sequence[np.ndarray | None], settings: ConfigDict) -> list[np.ndarray] | None:
    """Returns the cameras of image sets if `eval.protocol` compares them, else None.

    Args:
      cameras: of each set, str [N]; None where they are not known.
      settings: the group `eval`.

    Raises:
      InputError: if they are compared and not known.
    """
    if settings.protocol != "cross_camera":
        return None
    known = [names for names in cameras if names is not None]
    if len(known) < len(cameras):
        raise InputError(
            "eval.protocol=cross_camera requires the camera of each image, got none; give a table "
            "with a column camera, or take eval.protocol=all_vs_all."
        )
    return known


def notes(
    labels: Sequence[np.ndarray], cameras: Sequence[np.ndarray | None], settings: ConfigDict
) -> Iterator[str]:
    """Yields lines about queries that are left out, and about cameras that are not compared.

    Args:
      labels: of the queries and, if there is one, the gallery.
      cameras: of each, as in `compared`.
      settings: the group `eval`.
    """
    if (known := compared(cameras, settings)) is None:
        if any(names is not None for names in cameras):
            yield (
                "cameras   are known and not compared: eval.protocol=cross_camera leaves out "
                "images of a query's class that its own camera took"
            )
        return
    num_left_out = np.sum(~metrics.is_answerable(labels[0], labels[-1], known))
    if num_left_out:
        yield (
            f"cameras   {num_left_out:,} of {len(labels[0]):,} queries are in no score: no other "
            "camera took an image of their class"
        )
