"""VeRi-776 (Liu et al., ECCV 2016): 576 vehicles train, 200 others are searched by 20 cameras.

Its lists, name_train.txt and others, name the files of the folders and are not read.
"""

from dcjax.data.datasets import camera_folders
from dcjax.data.datasets.camera_folders import CameraFolders
from dcjax.data.datasets.image_set import Splits
from dcjax.data.datasets.request import Request

VERI = CameraFolders(
    "veri",
    folders={"train": "image_train", "query": "image_query", "gallery": "image_test"},
    tops=("", "VeRi", "veri", "VeRi_with_plate"),
    pattern=r"(\d{4})_c(\d{3})_",
    example="0001_c001_00016450_0.jpg",
    counts={"train": (37778, 576), "query": (1678, 200), "gallery": (11579, 200)},
)


def load(request: Request, *, complete: bool) -> Splits:
    """Loads VeRi-776, see `camera_folders.load`."""
    return camera_folders.load(VERI, request, complete=complete)
