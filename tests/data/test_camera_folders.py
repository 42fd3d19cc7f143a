"""Market-1501, DukeMTMC-reID and VeRi-776 as their archives have them; tables with cameras."""

from pathlib import Path

import numpy as np
import pytest

from dcjax.core.errors import InputError
from dcjax.data import datasets
from dcjax.data.datasets.image_set import ImageSet, Splits, from_classes

MARKET = (
    *("bounding_box_train/0002_c1s1_000451_03.jpg", "bounding_box_train/0007_c3s3_077419_03.jpg"),
    *("query/0001_c1s1_001051_00.jpg", "query/0003_c4s6_015641_00.jpg"),
    *("bounding_box_test/-1_c1s1_000401_03.jpg", "bounding_box_test/0000_c1s1_000151_01.jpg"),
    *("bounding_box_test/0001_c2s1_001976_01.jpg", "bounding_box_test/0003_c4s6_015716_04.jpg"),
)
DUKE = (
    *("bounding_box_train/0001_c2_f0046182.jpg", "bounding_box_train/0002_c1_f0044158.jpg"),
    *("query/0005_c2_f0046985.jpg", "bounding_box_test/0005_c5_f0051341.jpg"),
    "bounding_box_test/7139_c8_f0153459.jpg",
)
VERI = (
    *("image_train/0001_c001_00016450_0.jpg", "image_train/0003_c013_00084620_0.jpg"),
    *("image_query/0002_c002_00030600_0.jpg", "image_test/0002_c002_00030600_0.jpg"),
    "image_test/0002_c018_00030610_1.jpg",
)
_FILES = {"market": MARKET, "duke": DUKE, "veri": VERI}
_TOPS = {"market": "Market-1501-v15.09.15/", "duke": "DukeMTMC-reID/", "veri": "VeRi/"}
_OTHERS = {"readme.txt": "", "name_train.txt": "0001_c001_00016450_0.jpg\n"}


def _tree(name: str, top: str = "") -> dict[str, str | None]:
    """Returns the files of a small copy: images, and what else lies among them."""
    (_, folder, _) = dict.fromkeys(path.split("/")[0] for path in _FILES[name])
    images = {top + path: None for path in _FILES[name]}
    return (
        images
        | {top + path: text for path, text in _OTHERS.items()}
        | {f"{top}{folder}/Thumbs.db": ""}
    )


def _summary(images: ImageSet) -> list[tuple[str, str, str]]:
    names = [path.rsplit("/", 1)[1] for path in images.images.tolist()]
    labels = [images.class_names[label] for label in images.labels]
    assert images.cameras is not None
    return list(zip(names, labels, images.cameras.tolist(), strict=True))


@pytest.mark.parametrize("name", _FILES)
@pytest.mark.parametrize("is_below", [True, False])
def test_identities_and_cameras_are_those_of_the_names(write_tree, name, is_below):
    root = write_tree(_tree(name, _TOPS[name] if is_below else ""))
    splits = datasets.load(name, root=root, complete=False)
    assert splits.gallery is not None
    found = [_summary(images) for images in (splits.train, splits.query, splits.gallery)]
    expected = {
        "market": [
            [(MARKET[0][19:], "0002", "1"), (MARKET[1][19:], "0007", "3")],
            [(MARKET[2][6:], "0001", "1"), (MARKET[3][6:], "0003", "4")],
            [
                (MARKET[5][18:], "0000", "1"),
                (MARKET[6][18:], "0001", "2"),
                (MARKET[7][18:], "0003", "4"),
            ],
        ],
        "duke": [
            [(DUKE[0][19:], "0001", "2"), (DUKE[1][19:], "0002", "1")],
            [(DUKE[2][6:], "0005", "2")],
            [(DUKE[3][18:], "0005", "5"), (DUKE[4][18:], "7139", "8")],
        ],
        "veri": [
            [(VERI[0][12:], "0001", "001"), (VERI[1][12:], "0003", "013")],
            [(VERI[2][12:], "0002", "002")],
            [(VERI[3][11:], "0002", "002"), (VERI[4][11:], "0002", "018")],
        ],
    }
    assert found == expected[name]
    assert splits.query.class_names == splits.gallery.class_names


def test_a_part_of_a_set_is_refused_by_its_published_numbers(write_tree):
    expected = {
        "market": r"bounding_box_train: market has 12,936 images of 751 .*, found 2 of 2",
        "duke": r"bounding_box_train: duke has 16,522 images of 702 .*, found 2 of 2",
        "veri": r"image_train: veri has 37,778 images of 576 .*, found 2 of 2",
    }
    for name, message in expected.items():
        root = write_tree(_tree(name, _TOPS[name]))
        with pytest.raises(InputError, match=message):
            datasets.load(name, root=root, complete=True)


def test_an_evaluation_needs_no_training_images(write_tree):
    files = {path: text for path, text in _tree("market").items() if "train/" not in path}
    splits = datasets.load("market", root=write_tree(files), complete=False, with_train=False)
    assert len(splits.train) == 0
    assert len(splits.query) == 2


def test_names_and_folders_that_are_not_as_required_are_named(write_tree, tmp_path):
    root = write_tree(_tree("market") | {"query/portrait.jpg": None})
    with pytest.raises(InputError, match=r"query: .* as 0002_c1s1_000451_03.jpg, got portrait.jpg"):
        datasets.load("market", root=root, complete=False)
    with pytest.raises(FileNotFoundError, match=r"'veri': .* there is no .*image_query"):
        datasets.load("veri", root=root, complete=False)
    (tmp_path / "query" / "portrait.jpg").rename(tmp_path / "query" / "0002_c2s1_001976_01.jpg")
    with pytest.raises(InputError, match=r"1 are in train too, the first is '0002'"):
        datasets.load("market", root=root, complete=False)


def test_an_image_set_keeps_the_cameras_of_the_rows_that_are_selected():
    pixels = np.zeros((3, 1, 1, 1), np.uint8)
    images = from_classes(pixels, ["b", "a", "b"], cameras=np.array(["x", "y", "z"]))
    assert images.select([2, 0]).cameras.tolist() == ["z", "x"]
    with pytest.raises(InputError, match=r"one camera per image, 3, got 2"):
        from_classes(pixels, ["b", "a", "b"], cameras=np.array(["x", "y"]))
    with pytest.raises(InputError, match="both have cameras or neither"):
        Splits(images, images, from_classes(pixels, ["b", "a", "b"]))


def _load(tmp_path: Path, *rows: str) -> Splits:
    table = tmp_path / "t.csv"
    table.write_text("path,label,split,camera\n" + "\n".join(rows))
    return datasets.load("manifest", root="", manifest=str(table))


def test_a_table_has_cameras_and_its_junk_is_left_out(tmp_path):
    splits = _load(
        tmp_path,
        *("a.jpg,1,train,north", "b.jpg,2,query,north", "c.jpg,2,gallery,south gate"),
        *("d.jpg,-1,gallery,north", "e.jpg,3,gallery,north"),
    )
    assert splits.gallery is not None
    assert _summary(splits.query) == [("b.jpg", "2", "north")]
    assert _summary(splits.gallery) == [("c.jpg", "2", "south gate"), ("e.jpg", "3", "north")]
    assert splits.query.class_names == ("2", "3")


def test_a_camera_column_with_holes_is_refused_with_its_line(tmp_path):
    with pytest.raises(InputError, match=r"t.csv, line 3, image 2: require a camera, got ''"):
        _load(tmp_path, "a.jpg,1,train,north", "b.jpg,2,test,", "c.jpg,2,test,south")
