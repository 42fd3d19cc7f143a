"""Market-1501 (Zheng et al., ICCV 2015): 751 people train, 750 others are searched by 6 cameras.

bounding_box_test holds 19,732 images: 13,115 of the people who are searched for, 2,798 distractors
(identity 0000), which stay in the gallery, and 3,819 junk (identity -1), which are left out.
"""

from dcjax.data.datasets import camera_folders
from dcjax.data.datasets.camera_folders import CameraFolders
from dcjax.data.datasets.image_set import Splits
from dcjax.data.datasets.request import Request

MARKET = CameraFolders(
    "market",
    folders={"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"},
    tops=("", "Market-1501-v15.09.15", "market1501", "Market-1501"),
    pattern=r"(-1|\d{4})_c(\d+)s\d+_",
    example="0002_c1s1_000451_03.jpg",
    # The gallery's identities: those of the queries, and 0000.
    counts={"train": (12936, 751), "query": (3368, 750), "gallery": (15913, 751)},
)


def load(request: Request, *, complete: bool) -> Splits:
    """Loads Market-1501, see `camera_folders.load`."""
    return camera_folders.load(MARKET, request, complete=complete)
