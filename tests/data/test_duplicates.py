"""Files that occur in query and gallery, in training and test, or in two classes are refused."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dcjax.core import naming
from dcjax.data import datasets
from dcjax.data.datasets import ImageSet, Splits, duplicates
from dcjax.data.datasets.image_set import file_parts, from_classes

PART = {"source": "folder", "complete": False, "download": False}
_FOLDER = {
    **{f"train/{c}/{i}.png": None for c in "ab" for i in range(2)},
    **{f"query/{c}/{i}.png": None for c in "cd" for i in range(2)},
    **{f"gallery/{c}/{i}.png": None for c in "cd" for i in range(2)},
}


def _relink(link: Callable[[str, str], None], target: Path, place: Path) -> None:
    place.unlink(missing_ok=True)
    link(str(target), str(place))


def _symlink(target: str, place: str) -> None:
    os.symlink(os.path.relpath(target, os.path.dirname(place)), place)


@pytest.mark.parametrize("link", [os.link, os.symlink, _symlink])
@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("query/c/1.png", "gallery/c/0.png"),
        ("query/c/1.png", "gallery/d/other.png"),
        ("train/a/0.png", "gallery/c/0.png"),
        ("train/a/0.png", "query/c/new.png"),
        ("query/d/0.png", "query/d/2.png"),
        ("gallery/c/0.png", "gallery/c/2.png"),
        ("train/a/0.png", "train/b/2.png"),
    ],
)
def test_link_counts_as_the_file_it_points_to(write_tree, link, target, place) -> None:
    root = write_tree(_FOLDER)
    load = lambda: datasets.load("folder", root=root, test_classes=0.5)  # noqa: E731
    load()
    _relink(link, Path(root, target), Path(root, place))
    with pytest.raises(ValueError, match="got 1 images that are the file of another") as caught:
        load()
    assert f"{root}/{target}" in str(caught.value)
    assert f"{root}/{place}" in str(caught.value)


def test_copies_and_training_images_of_one_class_are_allowed(write_tree) -> None:
    root = write_tree(_FOLDER)
    shutil.copy(f"{root}/query/c/0.png", f"{root}/gallery/c/0.png")  # check_data names it
    os.link(f"{root}/train/a/0.png", f"{root}/train/a/again.png")
    datasets.load("folder", root=root, test_classes=0.5)


def test_folder_that_links_to_another_one_is_refused(write_tree) -> None:
    root = write_tree(_FOLDER)
    shutil.rmtree(f"{root}/gallery")
    os.symlink("query", f"{root}/gallery")
    with pytest.raises(ValueError, match=r"got 4 images .* as .*gallery/c/0.png"):
        datasets.load("folder", root=root, test_classes=0.5)


@pytest.mark.parametrize(
    ("again", "ends"),
    [
        ("q.png,c,gallery", "query, class c"),
        ("./sub/../q.png,c,gallery", "query, class c"),
        ("{root}/q.png,c,gallery", "query, class c"),
        ("t.png,c,gallery", "train, class a"),
        ("q.png,c,query", "query, class c"),
        ("g.png,c,gallery", "gallery, class c"),
        ("t.png,b,train", "train, class a"),
        ("t.png,a,train", ""),
    ],
)
def test_rows_of_a_table_are_compared_as_files(write_tree, again, ends) -> None:
    rows = ["path,label,split", "t.png,a,train", "u.png,b,train", "q.png,c,query"]
    rows += ["r.png,d,query", "g.png,c,gallery", "h.png,d,gallery"]
    root = write_tree({f"{x}.png": None for x in "tuqrgh"} | {"sub/x.png": None})
    table = Path(root, "table.csv")
    table.write_text("\n".join([*rows, again.format(root=root)]))
    load = lambda: datasets.load("manifest", root="", manifest=str(table))  # noqa: E731
    if ends:
        with pytest.raises(ValueError, match=rf"which is .*\({ends}\)\. Remove one"):
            load()
    else:
        assert len(load().train) == 3


@pytest.mark.parametrize("name", ["inshop", "sop", "vid", "grocery"])
def test_lists_of_published_datasets_are_compared_too(write_tree, tmp_path, name) -> None:
    lists = {
        "inshop": {
            "list_eval_partition.txt": "4\nh\nimg/W/T/a/1.jpg a train\nimg/W/T/b/2.jpg b query\n"
            "img/W/T/b/2.jpg b gallery\nimg/W/T/b/3.jpg b gallery\n",
            **{f"img/W/T/{x}.jpg": None for x in ("a/1", "b/2", "b/3")},
        },
        "sop": {
            "Ebay_train.txt": "h\n1 1 1 mug/a.JPG\n",
            "Ebay_test.txt": "h\n1 2 1 mug/b.JPG\n2 2 1 mug/a.JPG\n",
            **{f"mug/{x}.JPG": None for x in "ab"},
        },
        "vid": {
            "train_test_split/train_list.txt": "1 1\n",
            "train_test_split/test_list_800.txt": "2 2\n3 2\n2 2\n",
            **{f"image/{x}.jpg": None for x in "123"},
        },
        "grocery": {
            "classes.csv": "h\nGala,0,Apple,0,/i/0.jpg,x\nOat,41,Milk,9,/p/c.jpg,x\n",
            "train.txt": "p/a.jpg, 0, 0\n",
            "val.txt": "p/b.jpg, 41, 9\n",
            "test.txt": "p/c.jpg, 41, 9\n",
            **{f"{x}.jpg": None for x in ("i/0", "p/a", "p/b", "p/c")},
        },
    }
    options = {} if name == "grocery" else dict(PART)
    options |= {"test_list": "small"} if name == "vid" else {}
    with pytest.raises(ValueError, match="got 1 images that are the file of another one"):
        datasets.load(name, root=write_tree(lists[name]), **options)


def test_parts_of_files_are_identified_by_their_offsets(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(bytes(100))

    def images(*places: tuple[str, int]) -> ImageSet:
        paths = [f"{tmp_path}/{file}" for file, _ in places]
        parts = file_parts(paths, [offset for _, offset in places], [10] * len(places))
        return ImageSet(parts, np.zeros(len(places), np.int32), ("x",))

    train, query = images(("a", 0), ("b", 50)), images(("a", 10), ("b", 0))
    assert not duplicates.repeated_files(Splits(train, query))
    repeated = duplicates.repeated_files(Splits(train, query, images(("b", 0), ("b", 50))))
    assert repeated == [
        (("gallery", 0), ("query", 1)),
        (("gallery", 1), ("train", 1)),
    ]


def test_pixels_and_missing_files_never_count_as_repeated() -> None:
    pixels = from_classes(np.zeros((3, 4, 4, 1), np.uint8), [0, 0, 1])
    assert not duplicates.repeated_files(Splits(pixels, pixels, pixels))
    missing = from_classes(["/no/1.png", "/no/2.png"], [0, 1])
    assert not duplicates.repeated_files(Splits(missing, missing, missing))


def test_repeated_files_equal_those_of_a_plain_loop(tmp_path: Path) -> None:
    paths = [f"{tmp_path}/{i}" for i in range(300)]
    for path in paths:
        Path(path).touch()
    labels = np.random.default_rng(0).integers(0, 5, 600)
    order = np.random.default_rng(1).integers(0, 300, 600)
    chosen = np.array(paths)[order]
    images = [from_classes(chosen[i : i + 200], labels[i : i + 200]) for i in (0, 200, 400)]
    keys, first_places, expected = ("train", "query", "gallery"), {}, []
    for row in range(600):  # plain loop
        place = (keys[row // 200], row % 200)
        first = first_places.setdefault(chosen[row], (place, labels[row]))
        both_train = place[0] == first[0][0] == "train"
        if first[0] != place and not (both_train and labels[row] == first[1]):
            expected.append((place, first[0]))
    assert duplicates.repeated_files(Splits(*images)) == expected


def test_only_test_images_are_compared_without_training_images(write_tree) -> None:
    root = write_tree(_FOLDER)
    _relink(os.link, Path(root, "train/a/0.png"), Path(root, "query/c/0.png"))
    datasets.load("folder", root=root, test_classes=0.5, with_train=False)
    _relink(os.link, Path(root, "query/c/1.png"), Path(root, "gallery/c/0.png"))
    with pytest.raises(ValueError, match="got 1 images"):
        datasets.load("folder", root=root, test_classes=0.5, with_train=False)


@pytest.mark.parametrize(
    "other",
    [
        *("c0 ", " c0", "C0", "c\u200b0", "\uff430", "c0\t", "c\u00ad0", "c0\u200f", "\ufeffc0"),
        "c\u00a00",
    ],
)
def test_spellings_of_one_class_name_are_reported_as_similar(other: str) -> None:
    assert naming.simplify(other) == naming.simplify("c0")
    images = {name: from_classes(["x", "y"], [name, "z"]) for name in ("c0", other)}
    splits = Splits(images["c0"], _renamed(images[other], "other"))
    ((again, first),) = duplicates.similar_classes(splits)
    assert (again.split, first.split) == ("test", "train")
    assert ascii(other) in duplicates.describe_similar(splits, again, first)


def _renamed(images: ImageSet, second: str) -> ImageSet:
    names = tuple(second if name == "z" else name for name in images.class_names)
    return ImageSet(images.images, images.labels, names)


def test_unicode_forms_are_similar_and_different_words_are_not() -> None:
    same = [("caf\u00e9", "cafe\u0301"), ("STRASSE", "stra\u00dfe"), ("\u2603", "\u2603\ufe0f")]
    same += [("\u212b", "a\u030a"), ("\ufb01n", "FIN"), ("\u0130x", "i\u0307X")]
    for one, other in same:
        assert naming.simplify(one) == naming.simplify(other), (one, other)
    for one, other in [("cafe", "caf\u00e9"), ("1", "01"), ("a_b", "ab"), ("\udce9", "\udce8")]:
        assert naming.simplify(one) != naming.simplify(other), (one, other)


def test_classes_of_one_split_may_be_similar_too() -> None:
    train = from_classes(["1", "2", "3"], ["cat", "cat ", "dog"])
    query = from_classes(["4", "5"], ["Dog", "bird"])
    splits = Splits(train, query, query)
    descriptions = [
        duplicates.describe_similar(splits, *pair) for pair in duplicates.similar_classes(splits)
    ]
    assert descriptions == ["'cat' (train) and 'cat ' (train)", "'dog' (train) and 'Dog' (query)"]
