"""Reads files of weights: safetensors, PyTorch's two formats, and NumPy's npz.

Files are not trusted: no code in them is run, nothing outside of them is read, and sizes that they
state are checked before memory is allocated.
"""

import io
import math
import pathlib
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from dcjax.core import regular_files
from dcjax.core.errors import InputError, file_errors
from dcjax.models.torch_pickle import Dict, Opaque, Tensor, Unpickler, is_size

Tensors = dict[str, np.ndarray]

_ZIP = b"PK\x03\x04"
_LEGACY = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # the number every such file starts with
_LEGACY_VERSION = 1001
_SHOWN, _LONGEST = 8, 120  # names in a line, and characters of each
# Keys under which training scripts save a state dict. Averaged weights, which are evaluated and
# published, come first; a teacher is the average of its student (Caron et al. 2021).
_NESTED = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
    *("state_dict", "model_state_dict", "model", "teacher", "student"),
)
Say = Callable[[str], None]


def read(path: str, say: Say | None = None) -> Tensors:
    """Reads all tensors of a file by name; the format is recognised by the first bytes.

    From a checkpoint with more than a state dict, the state dict is read: the first of
    state_dict_ema, model_ema, ema_state_dict, ema, state_dict, model_state_dict, model, teacher and
    student that is there; or the only one, whatever its name.

    Args:
      path: of the file.
      say: called with a line if there are several state dicts.

    Raises:
      InputError: naming the file, if it is damaged, of another format, or holds anything but
        tensors.
      FileError: if it cannot be read.
    """
    regular_files.require(path)
    with file_errors(f"Cannot read {path}"), open(path, "rb") as file:
        head = file.read(512)
    try:
        if head.startswith(_ZIP):
            return _read_zip(pathlib.Path(path).read_bytes(), say)
        if _LEGACY in head[:32]:
            return _read_legacy(pathlib.Path(path).read_bytes(), say)
        if head[8:9] == b"{":
            return safetensors.numpy.load_file(path)
        if head[257:262] == b"ustar":
            raise InputError(
                "it is a tar archive, as the first PyTorch wrote; load and save it with a "
                "newer PyTorch, or take another file of the same weights"
            )
        raise InputError(
            "it is none of safetensors, torch.save and numpy.savez, and starts with "
            f"{bytes(head[:16])!r}"
        )
    except Exception as error:  # what a damaged file raises is up to four libraries' parsers
        kind = "" if type(error) in (ValueError, InputError) else f"{type(error).__name__}: "
        raise InputError(f"Cannot read {path}: {kind}{str(error)[:300]}.") from None


def _read_zip(data: bytes, say: Say | None) -> Tensors:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise InputError("its members are compressed; save it with torch.save or numpy.savez")
        if sum(max(member.file_size, member.compress_size) for member in members) > len(data):
            raise InputError("its members overlap")
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) == 1:
            return _read_torch(archive, pickles[0].removesuffix("data.pkl"), say)
        return {
            name.removesuffix(".npy"): _read_npy(archive.read(name)) for name in archive.namelist()
        }


def _read_npy(data: bytes) -> np.ndarray:
    """Reads one array, after checking its size against its header."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    header = np.lib.format
    read_header = header.read_array_header_1_0 if version < (2, 0) else header.read_array_header_2_0
    shape, is_fortran, dtype = read_header(stream)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise InputError(f"an array of {dtype} {shape} is not what its bytes are")
    array = np.frombuffer(data, dtype, offset=stream.tell())
    return array.reshape(shape, order="F" if is_fortran else "C")


def _read_torch(archive: zipfile.ZipFile, folder: str, say: Say | None) -> Tensors:
    unpickler = Unpickler(io.BytesIO(archive.read(f"{folder}data.pkl")))
    tensors = _state_dict(unpickler.load(), say)
    storages = {
        key: archive.read(f"{folder}data/{key}")
        for key in {t.storage.key for t in tensors.values()}
    }
    names = archive.namelist()
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") == b"big":
        for key, raw in storages.items():
            words = np.frombuffer(raw, f"u{unpickler.storages[key].dtype.itemsize}")
            storages[key] = words.byteswap().tobytes()
    return {name: _array(tensor, storages) for name, tensor in tensors.items()}


def _read_legacy(data: bytes, say: Say | None) -> Tensors:
    """Reads the legacy format: three small pickles, the value, the keys, and their storages."""
    stream = io.BytesIO(data)
    _, version, _ = (Unpickler(stream).load() for _ in range(3))
    if version != _LEGACY_VERSION:
        raise InputError(f"require version {_LEGACY_VERSION} of the format")
    unpickler = Unpickler(stream)
    tensors = _state_dict(unpickler.load(), say)
    storages = {}
    for key in Unpickler(stream).load():
        if not isinstance(key, str):  # the hash of nested tuples may take unbounded time
            raise InputError(f"require keys of storages to be strings, got {type(key).__name__}")
        (size,) = struct.unpack("<q", stream.read(8))
        whole = unpickler.storages[key]
        if size != whole.size:
            raise InputError(f"storage {key[:80]!r} is not of the size that its tensors say")
        start, end = stream.tell(), stream.tell() + size * whole.dtype.itemsize
        storages[key] = memoryview(data)[start:end]
        stream.seek(end)
    return {name: _array(tensor, storages) for name, tensor in tensors.items()}


def _state_dict(value: Any, say: Say | None) -> dict[str, Tensor]:
    """Returns the state dict in the value of a file: tensors by name."""
    if isinstance(value, Opaque):
        raise InputError(f"it {_refusal(value)}")
    if not isinstance(value, Dict) or not value:
        raise InputError("it holds no state dict")
    dicts = {name: x for name, x in value.items() if isinstance(name, str) and isinstance(x, Dict)}
    inner = [name for name, x in dicts.items() if x.has_tensors]
    chosen = next((name for name in _NESTED if name in inner), None)
    if chosen is None and not value.has_tensors:
        if len(inner) > 1:
            raise InputError(
                f"it holds several state dicts, {join_names(inner)}, and none of the names "
                f"{', '.join(_NESTED)}; save one of them alone, as "
                "torch.save(model.state_dict(), PATH)"
            )
        chosen = next(iter(inner), None)
    if chosen is not None and len(inner) > 1 and say:
        left_out = [name for name in inner if name != chosen]
        say(f"weights   of {chosen}, not of {join_names(left_out)}")
    state_dict = value if chosen is None else dicts[chosen]
    for name, x in state_dict.items():
        if isinstance(name, Opaque):
            raise InputError(f"a key must be a string, got {join_names([name.name])}")
        if isinstance(x, Opaque):
            raise InputError(f"{join_names([name])} {_refusal(x)}")
    others = [name for name, x in state_dict.items() if not isinstance(x, Tensor)]
    if others:
        raise InputError(
            f"require names of tensors, at the top or in one of {', '.join(_NESTED)}, got "
            f"{join_names(others)}"
        )
    return state_dict


def _refusal(opaque: Opaque) -> str:
    return (
        f"names {opaque.name[:80]!r}, which no dict of tensors needs and which is not run; save "
        "the weights alone, as torch.save(model.state_dict(), PATH)"
    )


def join_names(names: Sequence[Any]) -> str:
    """Returns the first of some names, each cut short, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    shown = (str(name)[:_LONGEST] for name in names[:_SHOWN])
    # Unprintable characters may control a terminal.
    return ", ".join(name if name.isprintable() else ascii(name) for name in shown) + more


def _array(tensor: Tensor, storages: Mapping[str, bytes | memoryview]) -> np.ndarray:
    """Returns a view of the tensor's storage, after checking that all elements are in it."""
    part = tensor.storage
    sizes = (part.offset, part.size, tensor.offset, *tensor.shape, *tensor.strides)
    if not all(map(is_size, sizes)):
        raise InputError("require integers from 0 to 2**63 - 1 as sizes, offsets and strides")
    size = part.dtype.itemsize
    raw = storages[part.key][part.offset * size : (part.offset + part.size) * size]
    if len(raw) != part.size * size:
        raise InputError(f"storage {part.key[:80]!r} is cut short")
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, part.dtype)
    steps = zip(tensor.shape, tensor.strides, strict=True)
    if tensor.offset + sum((length - 1) * stride for length, stride in steps) >= part.size:
        raise InputError(f"a tensor lies outside of storage {part.key[:80]!r}")
    strides = [stride * size for stride in tensor.strides]
    return np.ndarray(tensor.shape, part.dtype, raw, tensor.offset * size, strides)
