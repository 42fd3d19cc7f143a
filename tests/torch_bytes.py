"""Hand-made files of torch.save: valid, legacy and hostile ones."""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

MAGIC = 0x1950A86A20F9469CFC6C


def push(value: Any) -> bytes:
    """Returns the pickle instructions that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def name(module: str, function: str) -> bytes:
    return b"c%s\n%s\n" % (module.encode(), function.encode())


def call(module: str, function: str, *arguments: bytes) -> bytes:
    return name(module, function) + b"(" + b"".join(arguments) + b"tR"


def storage(key: str, size: int, kind: str = "FloatStorage", view: Any = ()) -> bytes:
    """Returns a reference to a storage; view is (None or (key, offset, size),) in legacy files."""
    parts = [
        push("storage"),
        name("torch", kind),
        *map(push, (key, "cuda:0", size)),
        *map(push, view),
    ]
    return b"(" + b"".join(parts) + b"tQ"


def tensor(stored: bytes, offset: Any, shape: Any, strides: Any) -> bytes:
    return call("torch._utils", "_rebuild_tensor_v2", stored, *map(push, (offset, shape, strides)))


def pickled(tensors: Mapping[str, bytes]) -> bytes:
    """Returns the pickle of a dict whose values are given as instructions."""
    items = b"".join(push(key) + value for key, value in tensors.items())
    return b"\x80\x02}(" + items + b"u."


def zip_file(program: bytes, storages: Mapping[str, bytes] = {}, **options: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        archive.writestr("any name/data.pkl", program)
        for key, content in storages.items():
            archive.writestr(f"any name/{key}", content)
    return file.getvalue()


def legacy_file(program: bytes, storages: Sequence[tuple[str, int, bytes]] = ()) -> bytes:
    """Returns a file of the old format; storages are (key, size, content)."""
    head = [pickle.dumps(value, 2) for value in (MAGIC, 1001, {"little_endian": True})]
    keys = pickle.dumps([key for key, _, _ in storages], 2)
    contents = [struct.pack("<q", size) + content for _, size, content in storages]
    return b"".join([*head, program, keys, *contents])
