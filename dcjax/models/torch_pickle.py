"""Reads the pickles in PyTorch's files without importing or calling anything that they name.

A pickle is a program that can name and call any function. As the documentation of `pickle` advises,
`find_class` is restricted: the few names that tensors need are mapped to functions of this module,
every other name to an `Opaque` value, which ignores calls and items. So options and optimizers that
training scripts save with the weights are harmless.
"""

import dataclasses
import io
import pickle
import pickletools
from collections.abc import Callable
from typing import IO, Any, ClassVar

import jax.numpy as jnp
import numpy as np

from dcjax.core.errors import InputError

# Bounds time and memory. A ResNet-101 and the state of AMSGrad take 61 thousand.
_MAX_INSTRUCTIONS = 1_000_000
# Bounds the time of one instruction.
_MAX_ARGUMENTS = 1000
# Instructions for plain dicts, which hash any key; for Python's registry of extensions, which
# bypasses find_class; and for text of protocol 0, which cannot express storages and whose memo
# hashes any integer.
_REFUSED = {
    *("DICT", "EXT1", "EXT2", "EXT4"),
    *("INT", "LONG", "FLOAT", "STRING", "UNICODE", "GET", "PUT", "PERSID", "INST"),
}


@dataclasses.dataclass(frozen=True)
class Storage:
    """A part of one of the file's arrays of numbers; offset and size in elements."""

    key: str
    dtype: np.dtype
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The arguments of a tensor, which are not checked; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Opaque:
    """An unknown function or class, or whatever it made; ignores arguments and items."""

    name: str

    def __call__(self, *_: Any) -> "Opaque":
        """Returns itself."""
        return self

    append = add = __setitem__ = __call__


class Dict(dict[Any, Any]):
    """A dict that replaces each key that is not a string by the `Opaque` name of its type.

    Hashing such keys may take unbounded time: exponential for nested tuples that share their items,
    quadratic for integers of the same hash.

    Attributes:
      has_tensors: whether a value is a tensor.
    """

    has_tensors = False

    def __setitem__(self, key: Any, value: Any) -> None:
        """Adds an item."""
        self.has_tensors = self.has_tensors or isinstance(value, Tensor)
        is_kept = type(key) in (str, Opaque)
        super().__setitem__(key if is_kept else Opaque(type(key).__name__), value)


class Unpickler(pickle._Unpickler):
    """Reads one pickle of a stream; `load` raises various exceptions if it is damaged.

    The base class is Python's own implementation, whose instructions can be replaced: those of
    `pickle.Unpickler` hash any item of a dict or set, and set attributes of functions.

    Attributes:
      storages: those that tensors refer to, by key, each as a whole.
    """

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, stream: IO[bytes]) -> None:
        """Reads the pickle at a stream's position, and moves the stream to its end."""
        # Python 2 wrote bytes as strings; latin1 has a character for each.
        super().__init__(io.BytesIO(_read_checked(stream)), encoding="latin1")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Returns the replacement of a name."""
        full_name = f"{module[:200]}.{name[:200]}"  # cut, as one long string may be named often
        return _KNOWN.get(full_name, Opaque(full_name))

    def persistent_load(self, pid: Any) -> Storage | Opaque:
        """Returns the storage ("storage", class, key, device, size[, None | (_, offset, size)])."""
        if isinstance(_require_short_tuple(pid)[1], Opaque):  # of a quantized tensor; or a module
            return pid[1]
        kind, dtype, key, _, size, *view = pid
        is_typed = kind == "storage" and isinstance(dtype, np.dtype)
        if not (is_typed and type(key) is str and is_size(size)):
            raise InputError("it holds other objects than tensors beside its pickle")
        whole = Storage(key, dtype, 0, size)
        if self.storages.setdefault(key, whole) != whole:
            raise InputError(f"it has two types or sizes of storage {key[:80]!r}")
        _, offset, size = view[0] if view and view[0] else (None, 0, size)
        return Storage(key, dtype, offset, size)

    def _load_frozenset(self) -> None:
        self.pop_mark()
        self.append(Opaque("frozenset"))

    def _load_reduce(self) -> None:
        arguments, function = _require_short_tuple(self.stack.pop()), self.stack.pop()
        is_opaque = len(arguments) > 0 and isinstance(arguments[0], Opaque)
        self.append(arguments[0] if is_opaque else function(*arguments))

    def _load_newobj_ex(self) -> None:
        self.stack.pop()  # keywords
        self._load_reduce()

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = pickle._Unpickler.dispatch | {
        pickle.EMPTY_DICT[0]: lambda self: self.append(Dict()),
        pickle.EMPTY_SET[0]: lambda self: self.append(Opaque("set")),
        pickle.FROZENSET[0]: _load_frozenset,
        pickle.REDUCE[0]: _load_reduce,
        pickle.NEWOBJ[0]: _load_reduce,
        pickle.NEWOBJ_EX[0]: _load_newobj_ex,
        pickle.BUILD[0]: lambda self: self.stack.pop(),  # flags of a parameter, versions of a dict
    }


def _read_checked(stream: IO[bytes]) -> bytes:
    """Returns the pickle at a stream's position after checking its instructions and lengths."""
    start = stream.tell()
    for count, (opcode, _, _) in enumerate(pickletools.genops(stream)):
        if count == _MAX_INSTRUCTIONS:
            raise InputError(f"its pickle has over {_MAX_INSTRUCTIONS} instructions")
        if opcode.name in _REFUSED:
            raise InputError(f"its pickle has the instruction {opcode.name}, which is not known")
    size = stream.tell() - start
    stream.seek(start)
    return stream.read(size)


def is_size(value: Any) -> bool:
    """Returns whether a value may be a size, an offset or a stride."""
    return type(value) is int and 0 <= value < 2**63


def _require_short_tuple(value: Any) -> tuple[Any, ...]:
    if type(value) is not tuple or len(value) > _MAX_ARGUMENTS:
        raise InputError(
            f"require a tuple of at most {_MAX_ARGUMENTS} values, got {type(value).__name__}"
        )
    return value


def _ordered_dict(pairs: Any = ()) -> Dict:
    result = Dict()
    for key, value in pairs:  # as Python 2 wrote them
        result[key] = value
    if pairs:
        pairs.clear()  # else a long list could be copied many times
    return result


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    return Tensor(storage, offset, _require_short_tuple(shape), _require_short_tuple(strides))


def _first(value: Any, *_: Any) -> Any:
    return value


_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}
_KNOWN: dict[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch.Size": _first,
    **{f"torch.{name}": np.dtype(dtype) for name, dtype in _DTYPES.items()},
    **{f"torch.cuda.{name}": np.dtype(dtype) for name, dtype in _DTYPES.items()},
}
