"""Layout, protocol and error messages of each dataset, on tiny trees and on the real lists."""

import numpy as np
import pytest
from scipy.io import savemat

from dcjax.core.errors import InputError
from dcjax.data import datasets
from dcjax.data.datasets import cars, cub, sop, vid
from dcjax.data.datasets.image_set import ImageSet, Splits, from_classes

CUB = {
    "images.txt": "1 007.Auk/a.jpg\n2 100.Gull/b.jpg\n3 101.Pelican/c.jpg\n4 101.Pelican/d.jpg\n",
    "image_class_labels.txt": "4 101\n1 7\n2 100\n3 101\n",
    "classes.txt": "7 007.Auk\n100 100.Gull\n101 101.Pelican\n",
    "images/007.Auk/a.jpg": None,
    "images/100.Gull/b.jpg": None,
    "images/101.Pelican/c.jpg": None,
    "images/101.Pelican/d.jpg": None,
}
SOP = {
    "Ebay_train.txt": "image_id class_id super_class_id path\n1 5 1 mug/a.JPG\n2 3 8 mug/b.JPG\n",
    "Ebay_test.txt": "image_id class_id super_class_id path\n3 11 1 sofa/c.JPG\n",
    "mug/a.JPG": None,
    "mug/b.JPG": None,
    "sofa/c.JPG": None,
}
INSHOP_LIST = """6
image_name item_id evaluation_status
img/WOMEN/Tees/9/a.jpg        id_00000009 train \nimg/MEN/Tees/7/b.jpg id_00000007 gallery
img/WOMEN/Skirts/4/c.jpg id_00000004 query \nimg/WOMEN/Skirts/4/d.jpg id_00000004 gallery
img/MEN/Denim/7/e.jpg id_00000007 query
img/WOMEN/Tees/2/f.jpg id_00000002 gallery
"""
INSHOP_FILES = (
    *("WOMEN/Tees/9/a", "MEN/Tees/7/b", "WOMEN/Skirts/4/c", "WOMEN/Skirts/4/d"),
    *("MEN/Denim/7/e", "WOMEN/Tees/2/f"),
)


PART = {"source": "auto", "complete": False, "download": False}


def names_of(images: ImageSet) -> list[str]:
    return [path.rsplit("/", 1)[1] for path in images.images]


@pytest.mark.parametrize("above", ["", "CUB_200_2011/"])
def test_cub_joins_lists_by_id_and_splits_after_class_100(write_tree, above):
    root = write_tree({above + name: content for name, content in CUB.items()})
    splits = datasets.load("cub", root=root, **PART)
    assert names_of(splits.train) == ["a.jpg", "b.jpg"]
    assert splits.train.class_names == ("007.Auk", "100.Gull")
    assert splits.train.labels.tolist() == [0, 1]
    assert names_of(splits.query) == ["c.jpg", "d.jpg"]
    assert splits.query.labels.tolist() == [0, 0]
    assert splits.gallery is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("001.Black_footed_Albatross", "Albatross"),
        ("041.Scissor-tailed-Flycatcher", "Flycatcher"),
        ("044.Frigatebird", "Frigatebird"),
    ],
)
def test_cub_super_class_is_the_last_word_of_the_class_name(write_tree, name, expected):
    assert cub.super_class(name) == expected
    tree = {f"images/{name}/a.jpg": None, "images/101.White_Pelican/b.jpg": None}
    splits = datasets.load("cub", root=write_tree(tree), **PART)
    assert splits.train.super_classes == (expected,)
    assert splits.query.super_classes == ("Pelican",)


def test_cars_takes_classes_up_to_98_and_ignores_the_lists_own_flag(write_tree, tmp_path):
    root = write_tree({f"car_ims/{i}.jpg": None for i in range(3)})
    fields = ["relative_im_path", "x1", "y1", "x2", "y2", "class", "test"]
    rows = [(f"car_ims/{i}.jpg", 0, 0, 1, 1, c, f) for i, (c, f) in enumerate([(98, 1), (99, 0)])]
    annotations = np.array([rows[0], rows[1]], dtype=[(field, object) for field in fields])
    named = [f"{'Audi' if i < 99 else 'Fiat'} {i} Sedan" for i in range(1, 197)]
    class_names = np.array(named, dtype=object)
    savemat(tmp_path / "cars_annos.mat", {"annotations": annotations, "class_names": class_names})
    splits = datasets.load("cars", root=root, **PART)
    assert names_of(splits.train) == ["0.jpg"]
    assert names_of(splits.query) == ["1.jpg"]
    assert splits.query.class_names == ("Fiat 99 Sedan",)
    assert (splits.train.super_classes, splits.query.super_classes) == (("Audi",), ("Fiat",))


def test_sop_reads_its_two_lists_and_condenses_labels(write_tree):
    splits = datasets.load("sop", root=write_tree(SOP), **PART)
    assert names_of(splits.train) == ["b.JPG", "a.JPG"]
    assert splits.train.labels.tolist() == [0, 1]
    assert splits.train.class_names == ("3", "5")
    assert splits.train.super_classes == ("mug", "bicycle")
    assert splits.query.class_names == ("11",)


@pytest.mark.parametrize("images_below", ["Img/", ""])
def test_inshop_query_and_gallery_share_one_labelling(write_tree, images_below):
    files = {f"{images_below}img/{name}.jpg": None for name in INSHOP_FILES}
    splits = datasets.load(
        "inshop", root=write_tree({"Eval/list_eval_partition.txt": INSHOP_LIST, **files}), **PART
    )
    assert splits.train.class_names == ("id_00000009",)
    assert splits.gallery is not None
    assert splits.query.class_names == splits.gallery.class_names
    assert splits.query.class_names == ("id_00000002", "id_00000004", "id_00000007")
    assert names_of(splits.query) == ["c.jpg", "e.jpg"]
    assert splits.query.labels.tolist() == [1, 2]
    assert names_of(splits.gallery) == ["b.jpg", "d.jpg", "f.jpg"]
    assert splits.gallery.labels.tolist() == [2, 1, 0]
    assert splits.train.super_classes == ("WOMEN/Tees",)
    above = ("WOMEN/Tees", "WOMEN/Skirts", "MEN/Denim")  # the first of the two categories of item 7
    assert splits.query.super_classes == splits.gallery.super_classes == above


def test_inshop_item_belongs_to_the_category_of_most_of_its_images(write_tree):
    rows = [("WOMEN/Tees", 1), ("WOMEN/Skirts", 1), ("WOMEN/Tees", 1), ("MEN/Denim", 1)]
    rows += [("MEN/Tees", 2), ("MEN/Denim", 2)]
    lines = [f"img/{above}/id/{i}.jpg id_{item} train\n" for i, (above, item) in enumerate(rows)]
    lines += [f"img/MEN/Tees/id/{part}.jpg id_3 {part}\n" for part in ("query", "gallery")]
    text = f"{len(lines)}\nheader\n{''.join(lines)}"
    splits = datasets.load("inshop", root=write_tree({"list_eval_partition.txt": text}), **PART)
    assert splits.train.super_classes == ("WOMEN/Tees", "MEN/Denim")


def test_inshop_refuses_a_truncated_list(write_tree):
    root = write_tree({"list_eval_partition.txt": INSHOP_LIST.replace("6\n", "52712\n", 1)})
    with pytest.raises(ValueError, match=r"got 52712 and 6 rows"):
        datasets.load("inshop", root=root, **PART)


def test_vid_reads_the_requested_test_list(write_tree):
    root = write_tree(
        {
            "train_test_split/train_list.txt": "0001 12\n0002 3\n",
            "train_test_split/test_list_800.txt": "0003 5\n",
            "train_test_split/test_list_1600.txt": "0003 5\n0004 6\n",
            **{f"image/000{i}.jpg": None for i in range(1, 5)},
        }
    )
    assert len(datasets.load("vid", root=root, test_list="small", **PART).query) == 1
    splits = datasets.load("vid", root=root, test_list="medium", **PART)
    assert splits.train.labels.tolist() == [1, 0]
    assert names_of(splits.query) == ["0003.jpg", "0004.jpg"]
    with pytest.raises(FileNotFoundError, match=r"list .*test_list_2400.txt is missing"):
        datasets.load("vid", root=root, test_list="large", **PART)
    with pytest.raises(ValueError, match=r"'huge'; known are small, medium, large"):
        datasets.load("vid", root=root, test_list="huge", **PART)


def test_grocery_searches_photographs_with_iconic_pictures(write_tree):
    rows = ["Name,ID,Coarse,Coarse ID,Iconic,Description"]
    items = [(0, "Gala", "Apple"), (41, "Oat", "Milk")]
    rows += [f"{name},{i},{coarse},0,/iconic/{i}.jpg,/x" for i, name, coarse in items]
    root = write_tree(
        {
            "dataset/classes.csv": "\n".join(rows),
            "dataset/train.txt": "train/a.jpg, 0, 0\n",
            "dataset/val.txt": "val/b.jpg, 41, 9\n",
            "dataset/test.txt": "test/c.jpg, 41, 9\ntest/d.jpg, 0, 0\n",
            **{f"dataset/{f}.jpg": None for f in ("train/a", "val/b", "test/c", "test/d")},
            **{f"dataset/iconic/{i}.jpg": None for i in (0, 41)},
        }
    )
    splits = datasets.load("grocery", root=root)
    assert names_of(splits.train) == ["a.jpg", "d.jpg"]
    assert splits.gallery is not None
    assert names_of(splits.query) == ["41.jpg"]
    assert names_of(splits.gallery) == ["b.jpg", "c.jpg"]
    assert splits.query.class_names == splits.gallery.class_names == ("Oat",)
    assert splits.query.super_classes == splits.gallery.super_classes == ("Milk",)
    assert splits.train.super_classes == ("Apple",)


def test_omniglot_unpacks_white_ink_and_splits_by_alphabet(tmp_path):
    ink = np.zeros((3, 105, 105), bool)
    ink[1, 2, 3] = True
    np.savez(
        tmp_path / "omniglot_105.npz",
        ink_bits=np.packbits(ink.reshape(3, -1), axis=1),
        label=np.array([1, 0, 1], np.int16),
        class_name=np.array(["Greek/1", "Korean/1"]),
        class_part=np.array([1, 0], np.uint8),
    )
    splits = datasets.load("omniglot", root=str(tmp_path))
    assert splits.train.class_names == ("Korean/1",)
    assert splits.train.images.shape == (2, 105, 105, 1)
    assert splits.query.class_names == ("Greek/1",)
    assert (splits.train.super_classes, splits.query.super_classes) == (("Korean",), ("Greek",))
    np.testing.assert_array_equal(splits.query.images[0, ..., 0], ink[1] * 255)


def test_digits_use_the_full_brightness_range_and_share_no_class():
    splits = datasets.load("digits", root="")
    assert (len(splits.train), len(splits.query)) == (901, 896)
    assert splits.train.images.shape == (901, 8, 8, 1)
    assert (splits.train.images.min(), splits.train.images.max()) == (0, 255)
    assert splits.train.class_names + splits.query.class_names == tuple("0123456789")


def test_folder_holds_out_the_last_classes(write_tree):
    root = write_tree({f"{c}/{i}.PNG": None for c in "dbac" for i in range(2)} | {"a/readme": ""})
    splits = datasets.load("folder", root=root, test_classes=0.25)
    assert splits.train.class_names == ("a", "b", "c")
    assert splits.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert splits.query.class_names == ("d",)
    assert datasets.load("folder", root=root, test_classes=0.01).query.num_classes == 1
    assert datasets.load("folder", root=root, test_classes=0.99).train.num_classes == 1


def test_folder_reads_given_splits_but_not_a_class_named_train(write_tree):
    root = write_tree({"train/a/1.png": None, "query/b/1.png": None, "gallery/c/2.png": None})
    splits = datasets.load("folder", root=root, test_classes=0.5)
    assert splits.gallery is not None
    assert splits.query.class_names == splits.gallery.class_names == ("b", "c")
    assert splits.gallery.labels.tolist() == [1]
    root = write_tree({f"vehicles/{c}/1.png": None for c in ("bus", "train")})
    splits = datasets.load("folder", root=root + "/vehicles", test_classes=0.5)
    assert splits.query.class_names == ("train",)


def test_folder_errors_name_the_problem(write_tree, tmp_path):
    root = write_tree({"a/1.png": None, "b/notes.txt": ""})
    with pytest.raises(ValueError, match=r"none in .*/b; add images"):
        datasets.load("folder", root=root, test_classes=0.5)
    with pytest.raises(ValueError, match=r"0 < dataset.test_classes < 1, got 1"):
        datasets.load("folder", root=root, test_classes=1.0)
    root = write_tree({"s/train/a/1.png": None, "s/query/b/1.png": None})
    with pytest.raises(FileNotFoundError, match=r"there is no .*/gallery"):
        datasets.load("folder", root=root + "/s", test_classes=0.5)


def test_unknown_names_and_options_list_the_known_ones():
    with pytest.raises(ValueError, match=r"'cub200'; known datasets are cars, cub, digits"):
        datasets.load("cub200", root="")
    with pytest.raises(ValueError, match=r"'test_list' .*'folder'; known options are test_classes"):
        datasets.load("folder", root="", test_list="small")
    with pytest.raises(ValueError, match=r"'size' .*'digits'; known options are none"):
        datasets.load("digits", root="", size=8)
    with pytest.raises(ValueError, match=r"'vid' lacks the options test_list"):
        datasets.load("vid", root="", **PART)
    assert datasets.known_options("folder") == ("test_classes",)


def test_missing_list_is_named(write_tree, tmp_path):
    root = write_tree(SOP)
    (tmp_path / "Ebay_test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"list .*Ebay_test.txt is missing"):
        datasets.load("sop", root=root, **PART)


def test_broken_lines_and_inconsistent_lists_are_named(write_tree):
    root = write_tree({**CUB, "images.txt": "1 007.Auk/a.jpg\n2\n"})
    with pytest.raises(ValueError, match=r"images.txt, line 2: require 2 columns, got 1 in '2'"):
        datasets.load("cub", root=root, **PART)
    root = write_tree({**CUB, "image_class_labels.txt": "1 7\n"})
    with pytest.raises(ValueError, match=r"must hold the same image ids, got 4 and 1"):
        datasets.load("cub", root=root, **PART)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("cub", {"image_class_labels.txt": "1 x\n"}, r"labels.txt, line 1: .* column 2, got 'x'"),
        ("sop", {"Ebay_train.txt": "h\n1 5 13 mug/a.JPG\n"}, r"must be 1 to 12, got 13 to 13"),
        ("inshop", {"Eval/list_eval_partition.txt": ""}, r"number of rows, got  and 0 rows"),
    ],
)
def test_invalid_lists_are_named(write_tree, name, changes, message):
    tree = {"cub": CUB, "sop": SOP, "inshop": {}}[name]
    with pytest.raises(ValueError, match=message):
        datasets.load(name, root=write_tree(tree | changes), **PART)


def test_list_that_a_library_cannot_read_is_named(write_tree, tmp_path):
    root = write_tree({"car_ims/1.jpg": None, "cars_annos.mat": ""})
    with pytest.raises(ValueError, match=r"car_ims cannot be read as data set 'cars'"):
        datasets.load("cars", root=root, **PART)


def test_split_without_images_is_an_error(write_tree):
    root = write_tree({**CUB, "image_class_labels.txt": "1 7\n2 7\n3 7\n4 7\n"})
    with pytest.raises(ValueError, match=r"got 0 in test"):
        datasets.load("cub", root=root, **PART)


def test_image_set_validates_its_fields_and_selects_rows():
    pixels = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    images = from_classes(pixels, ["b", "a", "b"])
    assert images.labels.tolist() == [1, 0, 1]
    chosen = images.select([2, 1])
    assert chosen.images.ravel().tolist() == [2, 1]
    assert chosen.labels.tolist() == [1, 0]
    assert images.select(images.labels == 1).images.ravel().tolist() == [0, 2]
    assert images.select(images.labels == 1).class_names == ("a", "b")
    assert len(images.select([])) == 0
    with pytest.raises(ValueError, match=r"got float32 of shape \(3,\)"):
        ImageSet(np.zeros(3, np.float32), np.zeros(3, np.int32), ("a",))
    with pytest.raises(ValueError, match=r"got int64"):
        ImageSet(pixels, np.zeros(3, np.int64), ("a",))
    with pytest.raises(ValueError, match=r"0\.\.0, one per class name, got 0\.\.1"):
        ImageSet(pixels, np.array([0, 1, 0], np.int32), ("a",))
    above = from_classes(pixels, ["b", "a", "c"], super_classes={"a": "z", "b": "y", "c": "z"})
    assert above.super_class_labels.tolist() == [0, 1, 1]  # y, z, z
    assert above.select([2, 0]).super_class_labels.tolist() == [1, 0]
    with pytest.raises(
        ValueError, match=r"the data set has none; .* a column super_class .*kmeans"
    ):
        _ = images.super_class_labels
    with pytest.raises(ValueError, match=r"same class_names"):
        Splits(images, images, from_classes(pixels, [0, 1, 2]))


def check_counts(counts, **classes):
    actual = {split: (len(ids), len(np.unique(ids))) for split, ids in classes.items()}
    assert actual == {split: counts[split] for split in classes}


def test_real_lists_have_the_papers_counts(real_lists):
    _, classes = cub.read_lists(real_lists / "cub200" / "images.txt")
    check_counts(cub.CUB.counts, train=classes[classes <= 100], query=classes[classes > 100])
    lines = (real_lists / "cub200" / "classes.txt").read_text().splitlines()
    kinds = [cub.super_class(line.split()[1]) for line in lines]
    assert (len(set(kinds[:100])), len(set(kinds[100:]))) == (48, 24)
    folder = real_lists / "cars196"
    paths, classes = cars.read_annotations(folder / "cars_annos.mat")
    assert paths[0] == "car_ims/000001.jpg"
    check_counts(cars.CARS.counts, train=classes[classes <= 98], query=classes[classes > 98])
    parts = ("cars_train_annos.mat", "cars_test_annos_withlabels.mat")
    again = np.concatenate([cars.read_annotations(folder / part)[1] for part in parts])
    np.testing.assert_array_equal(np.bincount(classes), np.bincount(again))
    names = cars.read_class_names(folder / "cars_annos.mat")
    assert names == cars.read_class_names(folder / "cars_meta.mat")
    makes = [{names[i].split()[0] for i in part} for part in (range(1, 99), range(99, 197))]
    assert [len(part) for part in makes] == [14, 35]
    assert (names[1], names[196]) == ("AM General Hummer SUV 2000", "smart fortwo Convertible 2012")
    for test_list, file in {"small": "800", "medium": "1600", "large": "2400"}.items():
        path = real_lists / "vehicleid" / f"test_list_{file}.from_json.txt"
        check_counts(vid.create_dataset(test_list).counts, query=vid.read_list(path)[1])
    assert len(sop.read_list(real_lists / "sop_like" / "Ebay_test.txt")[0]) == 9091


def test_real_image_sets_load(real_cub, real_grocery, real_omniglot):
    splits = datasets.load("cub", root=real_cub, **PART)
    assert (len(splits.train), splits.train.num_classes) == (4982, 85)
    assert (len(splits.query), splits.query.num_classes) == (2474, 42)
    splits = datasets.load("grocery", root=real_grocery)
    assert splits.gallery is not None
    assert (len(splits.train), len(splits.query), len(splits.gallery)) == (3051, 40, 2370)
    assert len(set(splits.train.super_classes or ())) == 21
    splits = datasets.load("omniglot", root=real_omniglot)
    assert (splits.train.num_classes, splits.query.num_classes) == (964, 659)
    assert len(set(splits.train.super_classes or ())) == 30
    # White ink covers little of the page: an inverted page would have a mean above 200.
    assert 5 < splits.query.images[:1000].mean() < 50


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY", b"a,b\n1,2\n"])
def test_damaged_files_of_datasets_are_named(write_tree, content):
    omniglot = write_tree({"omniglot_105.npz": content})
    with pytest.raises(InputError, match=r"Cannot read .*omniglot_105.npz.*get the data set again"):
        datasets.load("omniglot", root=omniglot)
    lists = dict.fromkeys(("train.txt", "val.txt", "test.txt"), "a.jpg, 0, 0\n")
    grocery = write_tree({"classes.csv": b"header\n" + content + b"\nx,y\n", **lists})
    with pytest.raises(InputError, match=r"Cannot read .*classes.csv.*get the data set again"):
        datasets.load("grocery", root=grocery)
