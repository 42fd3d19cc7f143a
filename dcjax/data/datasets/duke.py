"""DukeMTMC-reID (Zheng et al., ICCV 2017): 702 people train, 702 others are searched by 8 cameras.

The gallery also has 408 people whom a single camera saw, and no query looks for. The data set was
withdrawn by its authors in 2019; this reads copies that exist.
"""

from dcjax.data.datasets import camera_folders
from dcjax.data.datasets.camera_folders import CameraFolders
from dcjax.data.datasets.image_set import Splits
from dcjax.data.datasets.request import Request

DUKE = CameraFolders(
    "duke",
    folders={"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"},
    tops=("", "DukeMTMC-reID", "dukemtmc-reid/DukeMTMC-reID"),
    pattern=r"(\d{4})_c(\d+)_f",
    example="0002_c1_f0044158.jpg",
    counts={"train": (16522, 702), "query": (2228, 702), "gallery": (17661, 1110)},
)


def load(request: Request, *, complete: bool) -> Splits:
    """Loads DukeMTMC-reID, see `camera_folders.load`."""
    return camera_folders.load(DUKE, request, complete=complete)
