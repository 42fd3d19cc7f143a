"""The names of ResNets in files: torchvision's, which timm uses too, and Hugging Face's."""

import re
from collections.abc import Collection

from dcjax.models import weight_names
from dcjax.models.weight_names import AROUND, Kind, Leaf

# Hugging Face counts stages and convolutions from 0.
_TORCHVISION = re.compile(AROUND + r"(?P<rest>(?:conv1|bn1|layer\d+|fc)\..*)")
_CLASSIFIER = re.compile(AROUND + r"classifier\.1\.(?P<rest>.*)")
_STEM = re.compile(
    AROUND + r"(?:resnet\.)?embedder\.embedder\."
    r"(?P<kind>convolution|normalization)\.(?P<rest>.*)"
)
_BLOCK = re.compile(
    AROUND + r"(?:resnet\.)?encoder\.stages\.(?P<stage>\d+)\.layers\.(?P<block>\d+)\."
    r"(?:layer\.(?P<number>\d+)|shortcut)\.(?P<kind>convolution|normalization)\.(?P<rest>.*)"
)


def _split(name: str) -> tuple[str, str]:
    if match := _STEM.fullmatch(name):
        layer = {"convolution": "conv1", "normalization": "bn1"}[match["kind"]]
    elif match := _BLOCK.fullmatch(name):
        number = match["number"]
        part = {"convolution": "conv", "normalization": "bn"}[match["kind"]]
        part += str(int(number or 0) + 1)
        if number is None:
            part = {"conv1": "downsample.0", "bn1": "downsample.1"}[part]
        layer = f"layer{int(match['stage']) + 1}.{match['block']}.{part}"
    elif match := _CLASSIFIER.fullmatch(name):
        layer = "fc"
    elif match := _TORCHVISION.fullmatch(name):
        return match["around"], match["rest"]
    else:
        return "", name
    return match["around"], f"{layer}.{match['rest']}"


def _leaf_name(leaf: Leaf) -> str:
    """Returns layer1.0.conv1.weight for (params, layer1_0, conv1, kernel)."""
    modules = [re.sub(r"^(layer\d|downsample)_", r"\1.", module) for module in leaf[1:-1]]
    return ".".join([*modules, weight_names.last_name(leaf)])


def _is_ignored(name: str, wanted: Collection[str]) -> bool:
    """Returns whether it is of the classifier, a counter, or of a stage that is cut off."""
    if name.startswith("fc.") or weight_names.is_counter(name):
        return True
    stages = {name.split(".")[0] for name in wanted}
    return re.match(r"layer\d\.", name) is not None and name.split(".")[0] not in stages


KIND = Kind(
    first="conv1.weight",
    split=_split,
    leaf_name=_leaf_name,
    is_ignored=_is_ignored,
    describe=lambda _: "a ResNet",
)
