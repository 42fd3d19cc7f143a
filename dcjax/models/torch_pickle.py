"""The pickles in PyTorch's files, carried out as far as tensors need, on plain values.

A pickle is a program that may name any function of Python and call it. Here nothing is called or
imported: names stay names, and the few that make up a dict of tensors are known. What others would
make, as the options and the optimiser that training scripts save beside the weights, becomes an
`Unknown`, whose content is passed over.
"""

import dataclasses
import pickletools
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

from dcjax.core.errors import InputError

# By the name of the storage's class.
_DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "ComplexFloatStorage": np.dtype(np.complex64),
    "ComplexDoubleStorage": np.dtype(np.complex128),
}
_STORAGES = {f"{module}.{name}" for module in ("torch", "torch.cuda") for name in _DTYPES}
_TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
_PARAMETERS = {
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
}
_KNOWN = {"collections.OrderedDict", "torch.Size"} | _STORAGES | _TENSORS | _PARAMETERS

_IGNORED = {"PROTO", "FRAME"}
# Instructions whose argument is the value.
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"} | {
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("BINSTRING", "SHORT_BINSTRING"),  # as Python 2 wrote them
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Instructions that make an object of a class and arguments: values that they take.
_NEW_OBJECTS = {"NEWOBJ": 2, "NEWOBJ_EX": 3}

# Bounds time and memory; a ResNet-101 beside all that AMSGrad remembers takes 61 thousand.
_MAX_INSTRUCTIONS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Storage:
    """A part of a storage of the file; offset and size in elements."""

    key: str
    dtype: np.dtype
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a storage, as the file claims it; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Unknown:
    """What a function or class that is not known would have made, or that function itself.

    Attributes:
      name: of the function or class.
    """

    name: str


@dataclasses.dataclass(frozen=True)
class _Name:
    """The name of a function or class that is known."""

    name: str


class Machine:
    """Carries out one pickle.

    Attributes:
      storages: those named so far, by key, each as a whole.
    """

    def __init__(self) -> None:
        """Starts with nothing known."""
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []  # heights of the stack
        self._memo: dict[int, Any] = {}

    def run(self, stream: IO[bytes]) -> Any:
        """Returns the value of the pickle at the stream's place, leaving the stream behind it.

        Raises:
          InputError: if it has an instruction that PyTorch's files do without, or misuses a known
            name.
          IndexError, KeyError, TypeError: if it is damaged.
        """
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count == _MAX_INSTRUCTIONS:
                raise InputError(f"its pickle has over {_MAX_INSTRUCTIONS} instructions")
            self._step(opcode.name, argument)
        return self._stack.pop()

    def _step(self, instruction: str, argument: Any) -> None:
        stack = self._stack
        if instruction in _VALUES:
            stack.append(argument)
        elif instruction in _CONSTANTS:
            stack.append(_CONSTANTS[instruction])
        elif instruction in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif instruction == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif instruction in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif instruction == "MARK":
            self._marks.append(len(stack))
        elif instruction in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[instruction])))
        elif instruction == "TUPLE":
            stack.append(tuple(self._pop_to_mark()))
        elif instruction == "EMPTY_LIST":
            stack.append([])
        elif instruction == "EMPTY_DICT":
            stack.append({})
        elif instruction in ("EMPTY_SET", "FROZENSET"):
            if instruction == "FROZENSET":
                self._pop_to_mark()
            stack.append(Unknown("set"))
        elif instruction in ("APPEND", "APPENDS", "ADDITEMS"):
            items = self._pop(1) if instruction == "APPEND" else self._pop_to_mark()
            if not isinstance(stack[-1], Unknown):
                _require(stack[-1], list).extend(items)
        elif instruction in ("SETITEM", "SETITEMS"):
            items = self._pop_to_mark() if instruction == "SETITEMS" else self._pop(2)
            keys, values = items[::2], items[1::2]
            if not isinstance(stack[-1], Unknown):
                _require(stack[-1], dict).update(_pairs(zip(keys, values, strict=True)))
        elif instruction in ("GLOBAL", "STACK_GLOBAL"):
            name = argument.replace(" ", ".") if argument else ".".join(self._pop(2))
            stack.append(_Name(name) if name in _KNOWN else Unknown(name))
        elif instruction == "REDUCE":
            stack.append(_call(*self._pop(2)))
        elif instruction in _NEW_OBJECTS or instruction == "OBJ":
            count = _NEW_OBJECTS.get(instruction)
            made_of, *_ = self._pop(count) if count else self._pop_to_mark()
            if not isinstance(made_of, Unknown):
                raise InputError(f"its pickle has the instruction {instruction} of a known name")
            stack.append(made_of)
        elif instruction == "BUILD":
            self._pop(1)  # of a dict or a parameter: versions and flags
        elif instruction == "DUP":
            stack.append(stack[-1])
        elif instruction == "POP_MARK" or (
            instruction == "POP" and self._marks[-1:] == [len(stack)]
        ):
            self._pop_to_mark()
        elif instruction == "POP":
            self._pop(1)
        elif instruction == "BINPERSID":
            stack.append(self._storage(*self._pop(1)))
        elif instruction not in _IGNORED | {"STOP"}:
            raise InputError(f"its pickle has the instruction {instruction}, which is not known")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise IndexError("its pickle takes more than it has put")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _storage(self, identity: Any) -> Storage | Unknown:
        """Returns ("storage", class, key, device, size[, None or (key, offset, size)])."""
        kind, storage_class, *rest = _require(identity, tuple)
        if isinstance(storage_class, Unknown):  # as of quantised tensors; or a module
            return storage_class
        name = _require(storage_class, _Name).name
        if kind != "storage" or name not in _STORAGES:
            raise InputError("it holds other objects than tensors beside its pickle")
        key, _, size, *view = rest
        dtype = _DTYPES[name.rsplit(".", 1)[1]]
        whole = Storage(_require(key, str), dtype, 0, _count(size))
        if self.storages.setdefault(key, whole) != whole:
            raise InputError(f"it has two types or sizes of storage {key[:80]!r}")
        if not view or view[0] is None:
            return whole
        _, offset, size = _require(view[0], tuple)
        if _count(offset) + _count(size) > whole.size:
            raise InputError(f"a part of storage {key[:80]!r} lies outside of it")
        return dataclasses.replace(whole, offset=offset, size=size)


def _call(function: Any, arguments: Any) -> Any:
    """Returns what a function would make of arguments; unknown, if one of both is."""
    if isinstance(function, Unknown):
        return function
    name, arguments = _require(function, _Name).name, _require(arguments, tuple)
    if arguments and isinstance(arguments[0], Unknown):
        return arguments[0]
    return _build(name, arguments)


def _build(name: str, arguments: tuple[Any, ...]) -> Any:
    """Returns what the function of this name stands for."""
    if name == "collections.OrderedDict":
        return _pairs(arguments[0]) if arguments else {}
    if name == "torch.Size":
        return tuple(map(_count, arguments[0]))
    if name in _PARAMETERS:
        return _require(arguments[0], Tensor)
    if name in _TENSORS:
        storage, offset, shape, strides, *_ = arguments
        shape, strides = (tuple(map(_count, _require(sizes, tuple))) for sizes in (shape, strides))
        return Tensor(_require(storage, Storage), _count(offset), shape, strides)
    raise InputError(f"it calls {name}")


def _pairs(pairs: Any) -> dict[str | int | Unknown, Any]:
    """Returns a dict whose keys are cheap to hash: other ones than strings and numbers are unknown.

    Tuples in tuples, which name each other many times, would take for ever.
    """
    kept = (str, int, Unknown)
    return {x if type(x) in kept else Unknown(type(x).__name__): value for x, value in pairs}


def _require(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise InputError(f"require {kind.__name__}, got {type(value).__name__}")
    return value


def _count(value: Any) -> int:
    if _require(value, int) < 0:
        raise InputError("require a size, offset or stride of at least 0, got a negative one")
    return value
