"""Small folder trees in the original and re-packed layouts of the five benchmarks."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import benchmark_pictures
import numpy as np
from benchmark_pictures import Picture
from scipy.io import savemat
from tensorflow_datasets.image_classification import cars196

Files = dict[str, bytes]

_SUPER_CLASSES = (
    *("bicycle", "cabinet", "chair", "coffee_maker", "fan", "kettle"),
    *("lamp", "mug", "sofa", "stapler", "table", "toaster"),
)
_CLOTHES = ("WOMEN/Dresses", "WOMEN/Tees_Tanks", "MEN/Denim", "MEN/Jackets_Vests")
_VIEWS = ("1_front", "2_side", "3_back", "4_full", "7_additional")
_VEHICLES = {"small": 800, "medium": 1600, "large": 2400}
_BOX = "bbox_x1 bbox_y1 bbox_x2 bbox_y2"


def write(name: str, layout: str, root: str | Path, **sizes: int) -> list[Picture]:
    """Writes a benchmark into a folder.

    Args:
      name: cub, cars, sop, inshop or vid.
      layout: one of `layouts(name)`.
      root: the folder.
      **sizes: see `benchmark_pictures.create`.

    Returns:
      The pictures, which are the same in every layout.
    """
    pictures = benchmark_pictures.create(name, **sizes)
    for path, content in _LAYOUTS[name][layout](pictures).items():
        file = Path(root, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return pictures


def layouts(name: str) -> tuple[str, ...]:
    """Returns "original" and the names of the layouts that users re-packed the benchmark in."""
    return tuple(_LAYOUTS[name])


def _cub(pictures: list[Picture]) -> Files:
    images = _cub_images(pictures)
    rows = list(zip(range(1, len(images) + 1), images, pictures, strict=True))
    folders = {p.class_id: path.split("/")[1] for _, path, p in rows}
    boxes = [(i, 2.0, 3.0, p.size[0] - 4.0, p.size[1] - 5.0) for i, _, p in rows]
    files = images | {
        "images.txt": _text((i, path.removeprefix("images/")) for i, path, _ in rows),
        "image_class_labels.txt": _text((i, p.class_id) for i, _, p in rows),
        "classes.txt": _text(folders.items()),
        "train_test_split.txt": _text((i, int(_trains_a_classifier(p))) for i, _, p in rows),
        "bounding_boxes.txt": _text(boxes),
    }
    return {f"CUB_200_2011/{path}": content for path, content in files.items()}


def _cub_images(pictures: list[Picture]) -> Files:
    """Returns images/NNN.Name/Name_1234_56.jpg; the list is not sorted by name."""
    files = {}
    for number, p in zip(_shuffled(len(pictures)), pictures, strict=True):
        name = f"Bird_{p.class_id}"
        files[f"images/{p.class_id:03}.{name}/{name}_{number:04}_{p.number}.jpg"] = p.jpeg
    return files


def _cars(pictures: list[Picture]) -> Files:
    files = {f"car_ims/{i:06}.jpg": p.jpeg for i, p in enumerate(pictures, start=1)}
    rows = [
        (path, *_box(p), p.class_id, int(not _trains_a_classifier(p)))
        for path, p in zip(files, pictures, strict=True)
    ]
    annotations = _annotations(f"relative_im_path {_BOX} class test", rows)
    return files | {"cars_annos.mat": _mat(annotations=annotations, class_names=_car_names())}


def _cars_devkit(pictures: list[Picture]) -> Files:
    files = {"devkit/cars_meta.mat": _mat(class_names=_car_names())}
    labels, no_labels = f"{_BOX} class fname", f"{_BOX} fname"
    rows: dict[bool, list[tuple[Any, ...]]] = {True: [], False: []}
    for index in _shuffled(len(pictures)):
        p = pictures[index - 1]
        trains = _trains_a_classifier(p)
        name = f"{len(rows[trains]) + 1:05}.jpg"
        rows[trains].append((*_box(p), p.class_id, name))
        files[f"cars_{'train' if trains else 'test'}/{name}"] = p.jpeg
    unlabelled = [(*box, name) for *box, _, name in rows[False]]
    return files | {
        "devkit/cars_train_annos.mat": _mat(annotations=_annotations(labels, rows[True])),
        "devkit/cars_test_annos.mat": _mat(annotations=_annotations(no_labels, unlabelled)),
        "cars_test_annos_withlabels.mat": _mat(annotations=_annotations(labels, rows[False])),
    }


def _sop(pictures: list[Picture]) -> Files:
    images, lists = _sop_files(pictures)
    return {f"Stanford_Online_Products/{path}": x for path, x in (images | lists).items()}


def _sop_info_files(pictures: list[Picture]) -> Files:
    images, lists = _sop_files(pictures)
    return {f"images/{path}": x for path, x in images.items()} | {
        f"Info_Files/{path}": x for path, x in lists.items()
    }


def _sop_files(pictures: list[Picture]) -> tuple[Files, Files]:
    """Returns bicycle_final/*.JPG ..., and the three lists; each part has all super-classes."""
    images: Files = {}
    rows: dict[str, list[tuple[Any, ...]]] = {"train": [], "query": []}
    for image_id, p in enumerate(pictures, start=1):
        place = (p.class_id - 1) % 11318 / 11318
        super_class = int(place * len(_SUPER_CLASSES)) + 1
        item = 111085122871 + 7 * p.class_id
        path = f"{_SUPER_CLASSES[super_class - 1]}_final/{item}_{p.number}.JPG"
        images[path] = p.jpeg
        rows[p.part].append((image_id, p.class_id, super_class, path))
    header = ("image_id", "class_id", "super_class_id", "path")
    return images, {
        "Ebay_train.txt": _text([header, *rows["train"]]),
        "Ebay_test.txt": _text([header, *rows["query"]]),
        "Ebay_info.txt": _text([header, *rows["train"], *rows["query"]]),
    }


def _inshop(pictures: list[Picture]) -> Files:
    images, partition = _inshop_files(pictures)
    files = {f"Img/{path}": jpeg for path, jpeg in images.items()}
    return files | {"Eval/list_eval_partition.txt": partition}


def _inshop_flat(pictures: list[Picture]) -> Files:
    images, partition = _inshop_files(pictures)
    return images | {"list_eval_partition.txt": partition}


def _inshop_files(pictures: list[Picture]) -> tuple[Files, bytes]:
    """Returns img/WOMEN/Dresses/id_00000002/02_1_front.jpg ..., and the list in aligned columns."""
    images: Files = {}
    lines = [f"{len(pictures)}\n", "image_name item_id evaluation_status\n"]
    for p in pictures:
        colour, view = divmod(p.number, len(_VIEWS))
        item = f"id_{p.class_id:08}"
        folder = f"img/{_CLOTHES[p.class_id % len(_CLOTHES)]}/{item}"
        path = f"{folder}/{colour + 1:02}_{_VIEWS[view]}.jpg"
        images[path] = p.jpeg
        lines.append(f"{path:70} {item} {p.part:7} \n")
    return images, "".join(lines).encode()


def _vid(pictures: list[Picture]) -> Files:
    """Returns VehicleID files, with vehicles and image numbers in random order in the lists."""
    numbered = {f"{i:07}": p for i, p in zip(_shuffled(len(pictures)), pictures, strict=True)}
    vehicles = list(dict.fromkeys(p.class_id for p in pictures))
    order = [vehicles[i - 1] for i in _shuffled(len(vehicles))]
    rows = sorted(numbered.items(), key=lambda row: order.index(row[1].class_id))
    tests = {
        f"train_test_split/test_list_{number}.txt": _text(
            (image, p.class_id) for image, p in rows if name in p.test_lists
        )
        for name, number in _VEHICLES.items()
    }
    train = [(image, p.class_id) for image, p in rows if p.part == "train"]
    coloured, modelled = order[::2], order[1:]  # some vehicles have no attributes
    files = {f"image/{image}.jpg": p.jpeg for image, p in numbered.items()} | tests
    files |= {
        "train_test_split/train_list.txt": _text(train),
        "attribute/img2vid.txt": _text(
            (image, numbered[image].class_id) for image in sorted(numbered)
        ),
        "attribute/color_attr.txt": _text((vehicle, vehicle % 7) for vehicle in coloured),
        "attribute/model_attr.txt": _text((vehicle, vehicle % 250) for vehicle in modelled),
    }
    return {f"VehicleID_V1.0/{path}": content for path, content in files.items()}


_LAYOUTS = {
    "cub": {"original": _cub, "images": _cub_images},
    "cars": {"original": _cars, "devkit": _cars_devkit},
    "sop": {"original": _sop, "info_files": _sop_info_files},
    "inshop": {"original": _inshop, "flat": _inshop_flat},
    "vid": {"original": _vid},
}


def _trains_a_classifier(picture: Picture) -> bool:
    """Whether the split for classification, which halves each class, trains on the picture."""
    return picture.number % 2 == 0


def _shuffled(number: int) -> list[int]:
    """Returns the numbers 1 to `number` in a fixed random order."""
    return (1 + np.random.default_rng(number).permutation(number)).tolist()


def _text(rows: Iterable[Iterable[Any]]) -> bytes:
    return "".join(" ".join(map(str, row)) + "\n" for row in rows).encode()


def _mat(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    savemat(file, arrays)
    return file.getvalue()


def _annotations(fields: str, rows: list[tuple[Any, ...]]) -> np.ndarray:
    return np.array(rows, dtype=[(field, object) for field in fields.split()])


def _box(picture: Picture) -> tuple[int, int, int, int]:
    width, height = picture.size
    return 2, 3, width - 2, height - 1


def _car_names() -> np.ndarray:
    """Returns the names of all 196 classes in the order of the list."""
    return np.array(cars196._NAMES, dtype=object)
