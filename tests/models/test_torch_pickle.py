"""Pickles of tensors, old ones too, are read; no other pickle can execute anything."""

import argparse
import collections
import datetime
import enum
import fractions
import functools
import inspect
import io
import pickle
import pickletools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from torch_bytes import call, legacy_file, name, pickled, push, storage, tensor, zip_file

from dcjax.core.errors import InputError
from dcjax.models import torch_pickle, weight_files

ONE = tensor(storage("0", 6), 1, (2, 2), (3, 1))  # elements 1, 2, 4 and 5 of the storage
EXPECTED = [[1, 2], [4, 5]]
STORED = np.arange(6, dtype="<f4").tobytes()


def of_six(key: str) -> bytes:
    """Returns a state dict of another tensor than ONE."""
    return b"}" + push(key) + tensor(storage("0", 6), 0, (6,), (1,)) + b"s"


OTHER, WANTED = of_six("w"), b"}" + push("w") + ONE + b"s"


def read_zip(folder: Path, program: bytes) -> weight_files.Tensors:
    (folder / "w.pth").write_bytes(zip_file(program, {"data/0": STORED}))
    return weight_files.read(str(folder / "w.pth"))


@pytest.mark.parametrize(
    "program",
    {
        "dict": pickled({"w": ONE}),
        "ordered dict with versions": call("collections", "OrderedDict")
        + b"("
        + push("w")
        + ONE
        + b"u"
        + push({"_metadata": {"": {"version": 1}}})
        + b"b.",
        "python 2": b"\x80\x02"
        + call("collections", "OrderedDict", b"](](U\x01w" + ONE + b"ee")
        + b".",
        "bytes of python 2": pickled({"model": WANTED, "label": b"U\x01\xfc"}),
        "without versions of tensors": pickled({"w": ONE.replace(b"_v2", b"")}),
        "old parameter": pickled(
            {"w": call("torch.nn.parameter", "Parameter", ONE) + push((True, False, {})) + b"b"}
        ),
        "parameter": pickled(
            {"w": call("torch._utils", "_rebuild_parameter", ONE, push(True), b"}")}
        ),
        "protocol 4": b"\x80\x04\x95"
        + bytes(8)
        + b"}\x94\x8c\x01w\x94"
        + ONE.replace(name("torch", "FloatStorage"), b"\x8c\x05torch\x8c\x0cFloatStorage\x93")
        + b"s.",
        "parallel training's checkpoint": pickled(
            {"epoch": push(3), "model": b"}" + push("w") + ONE + b"s", "args": push([None, 0.5])}
        ),
        "averaged weights": pickled(
            {
                "state_dict": b"}" + push("w") + tensor(storage("0", 6), 0, (6,), (1,)) + b"s",
                "state_dict_ema": b"}" + push("w") + ONE + b"s",
            }
        ),
    }.items(),
    ids=lambda item: item[0],
)
def test_state_dict_is_read_in_every_pickle_form(program, tmp_path: Path) -> None:
    (item,) = read_zip(tmp_path, program[1]).items()
    assert item[0] == "w"
    assert item[1].tolist() == EXPECTED
    assert item[1].dtype == np.float32


class Color(enum.Enum):
    RED = 1


class Own(dict):
    """A dict of an unknown class, which contains itself."""

    def __init__(self) -> None:
        self["me"] = self.me = self


class Names(list):
    """A list of an unknown class."""


class Named:
    """An object constructed from keywords."""

    def __new__(cls, *, name: str) -> "Named":
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, str]]:
        """Returns positional arguments and keywords."""
        return (), {"name": "x"}


BESIDE = {
    "options": argparse.Namespace(lr=0.1, root=Path("/data"), color=Color.RED, milestones=(1, 2)),
    "versions": collections.OrderedDict(a=[None, {"b": 1}]),
    "counts": collections.Counter({30: 1, 80: 2}),
    "lists": collections.defaultdict(list, a=[1]),
    "metric": np.float64(3),
    "array": np.arange(5.0),
    "objects": np.array([None, {}], object),
    "random": np.random.RandomState(0).get_state(),
    "generator": np.random.default_rng(0),
    "sets": [{1, "x"}, frozenset([2])],
    "bytes": [b"a", b"b" * 300, bytearray(b"c")],
    "numbers": [10**500, -(10**700), 1j, True, 2.5, fractions.Fraction(1, 3)],
    "function": functools.partial(max, 1, key=len),
    "method": "x".join,
    "class": {Color: 1},
    "keys": {(1, 2): 3, None: 1, 2.5: 1, b"x": 5, Color.RED: 4},
    "date": datetime.datetime(2020, 1, 1),
    "own": Own(),
    "own lists": [Names("a"), Names("ab")],
    "keywords": Named(name="x"),
    "error": ValueError("x"),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("what", BESIDE)
def test_objects_beside_the_weights_are_skipped(what: str, protocol: int, tmp_path: Path) -> None:
    beside = pickle.dumps(BESIDE[what], protocol)[2:-1]
    weights = b"}\x8c\x01w" + ONE + b"s"
    for items in (
        b"\x8c\x04args" + beside + b"\x8c\x0astate_dict" + weights,
        b"\x8c\x09optimizer}\x8c\x05state}K\x00" + beside + b"ss" + b"\x8c\x05model" + weights,
    ):
        tensors = read_zip(tmp_path, b"\x80" + bytes([protocol]) + b"}(" + items + b"u.")
        assert list(tensors) == ["w"]
        assert tensors["w"].tolist() == EXPECTED


def test_timm_checkpoint_gives_its_averaged_weights(tmp_path: Path) -> None:
    """Uses timm's names; args is an argparse.Namespace, which unpickling would import."""
    values = {"epoch": 3, "arch": "resnet50", "args": BESIDE["options"], "metric": 75.5}
    optimizer = {"state": {0: {"step": 7}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    items = {key: pickle.dumps(value, 2)[2:-1] for key, value in values.items()}
    items |= {"state_dict": OTHER, "state_dict_ema": WANTED, "optimizer": push(optimizer)}
    assert read_zip(tmp_path, pickled(items))["w"].tolist() == EXPECTED


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"state_dict": OTHER, "state_dict_ema": WANTED}, "state_dict_ema, not of state_dict"),
        ({"model": OTHER, "model_ema": WANTED}, "model_ema, not of model"),
        (
            {"student": OTHER, "teacher": WANTED, "dino_loss": of_six("center")},
            "teacher, not of ",
        ),
        ({"criterion": of_six("proxies"), "state_dict": WANTED}, "state_dict, not of criterion"),
        ({"net": WANTED, "epoch": push(3)}, None),  # the only state dict, of any name
        ({"module": WANTED, "optimizer": push({"state": {}, "param_groups": []})}, None),
        ({"model": WANTED, "rng_state": tensor(storage("0", 6), 0, (6,), (1,))}, None),
    ],
)
def test_averaged_state_dict_is_preferred_and_reported(
    given: dict[str, bytes], line: str | None, tmp_path: Path
) -> None:
    for items in (given, dict(reversed(given.items()))):
        (tmp_path / "w.pth").write_bytes(zip_file(pickled(items), {"data/0": STORED}))
        messages: list[str] = []
        tensors = weight_files.read(str(tmp_path / "w.pth"), messages.append)
        assert tensors["w"].tolist() == EXPECTED
        assert len(messages) == (line is not None)
        assert not line or line in messages[0]


def test_several_state_dicts_of_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds several state dicts, net, critic, and none of the"):
        read_zip(tmp_path, pickled({"net": WANTED, "critic": OTHER}))


def test_unknown_object_in_place_of_a_tensor_is_named(tmp_path: Path) -> None:
    program = pickled({"w": ONE, "v": call("torch._utils", "_rebuild_qtensor", push(1))})
    with pytest.raises(ValueError, match=r"v names 'torch._utils._rebuild_qtensor'.*not run; save"):
        read_zip(tmp_path, program)
    parts = push(()) + push({"w": 1}) + b"b."
    content = b"\x80\x02" + name("my.models", "Net") + parts[:1] + b"\x81" + parts[1:]
    with pytest.raises(ValueError, match=r"it names 'my.models.Net'.*save the weights alone"):
        read_zip(tmp_path, content)


TOUCH = push("touch {marker}")
# Hashing takes 2^60 steps: each tuple holds the previous one twice.
TUPLES = b")" + b"2\x86" * 60


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (call("os", "system", TOUCH) + b".", "names 'os.system'"),
        (call("posix", "system", TOUCH) + b".", "names 'posix.system'"),
        (push("os") + push("system") + b"\x93" + TOUCH + b"\x85R.", "names 'os.system'"),
        (b"(ios\nsystem\n.", "instruction INST"),
        (b"(" + name("os", "system") + TOUCH + b"o.", "names 'os.system'"),
        (b"\x82\x01" + TOUCH + b"\x85R.", "instruction EXT1"),
        (call("builtins", "getattr", name("torch", "Size"), push("__class__")) + b".", "getattr"),
        (call("torch._utils", "os.system", TOUCH) + b".", "_utils.os.system"),
        (pickled({"w": call("os", "system", TOUCH)}), "names 'os.system'"),
        (call("torch", "FloatStorage", TOUCH) + b".", "not callable"),
        (name("torch", "Size") + push({"__call__": 1}) + b"b)R.", "TypeError"),
        (name("torch", "Size") + b")\x81.", "TypeError"),
        (push("torch.Size") + b")R.", "'str' object is not callable"),
        (b"P0\n.", "instruction PERSID"),
        (push(("module", 1, 2, 3, 4)) + b"Q.", "other objects than tensors"),
        (b"})" + b"\x85" * 9 + push(1) + b"s.", "a key must be a string, got tuple"),
        (b"}" + TUPLES + push(1) + b"s.", "a key must be a string, got tuple"),
        (b"}(" + TUPLES + push(1) + b"u.", "a key must be a string, got tuple"),
        (b"(" + TUPLES + push(1) + b"d.", "instruction DICT"),
        (b"(" + TUPLES + b"\x91.", "names 'frozenset'"),
        (b"\x8f(" + TUPLES + b"\x90.", "names 'set'"),
        (b"}(" + push(5) + b"N" + push(2**61 + 4) + b"Nu.", "got int"),  # with equal hashes
        (b"Np2305843009213693956\n.", "instruction PUT"),
        (call("torch", "FloatStorage") + TUPLES + b".", "not callable"),
        (
            b"(" + push("storage") + name("torch", "IntStorage") + TUPLES + b"NK\1tQ.",
            "other objects",
        ),
        (b"(" + b"N" * 1001 + b"tQ.", "require a tuple of at most 1000 values, got tuple"),
        (b"Nr\xff\xff\xff\xff.", "no state dict"),  # a memo of 4 billion slots
        (b"X\xff\xff\xff\xffshort", "expected 4294967295 bytes"),
        (b"\x8d" + bytes(7) + b"\x40short", "expected 4611686018427387904 bytes"),
        (b"\x8b\xff\xff\xff\x7f", "not enough data"),
        (b"]" * 100_000 + b"a" * 99_999 + b".", "no state dict"),  # nested lists
        (b")" + b"\x85" * 100_000 + b".", "no state dict"),
        (b"}q\x00" + push("self") + b"h\x00s.", "got self"),
        (b"N" * 1_100_000 + b".", "over 1000000 instructions"),
        (b"\xfe\xff.", "opcode b'.xfe' unknown"),
        (b"R.", "IndexError"),
        (b"t.", "IndexError"),
        (b"h\x05.", "Memo value not found"),
        (b"(a.", "IndexError"),
        (b"", "exhausted before seeing STOP|holds no state dict"),
        (b"cno\nend", "no newline"),
    ],
)
@pytest.mark.parametrize("file", [zip_file, legacy_file])
def test_hostile_pickles_run_nothing_and_name_the_file(
    program: bytes, message: str, file, tmp_path: Path
) -> None:
    marker, path = tmp_path / "executed", tmp_path / "w.pth"
    path.write_bytes(file(b"\x80\x02" + program.replace(TOUCH, push(f"touch {marker}"))))
    with pytest.raises(ValueError, match=rf"^Cannot read {path}: .*{message}"):
        weight_files.read(str(path))
    assert not marker.exists()


def test_attacks_work_on_the_standard_unpickler(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    pickle.loads(b"\x80\x02" + call("os", "system", push(f"touch {marker}")) + b".")
    assert marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"Nr\xff\xff\xff\xff.",
        b"X\xff\xff\xff\xff",
        b"\x96\xff\xff\xff\xff" + bytes(4),
        b"]" * 1_100_000,
        b"\x8b\xff\xff\xff\x7f",
        # A long list, as the items of many dicts and as many sizes; a long name used many times.
        b"]("
        + b"NN\x86" * 3000
        + b"eq\0"
        + (name("collections", "OrderedDict") + b"h\0\x85R") * 999,
        b"](" + b"K\1" * 30_000 + b"eq\0" + (name("torch", "Size") + b"h\0\x85R") * 999 + b".",
        push("a" * 200_000) + b"q\0" + b"h\0h\0\x93" * 999 + b".",
    ],
    ids=range(8),
)
def test_memory_follows_the_file_size_not_the_claimed_sizes(program: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(legacy_file(b"\x80\x02" + program))
    tracemalloc.start()
    with pytest.raises(ValueError, match="Cannot read"):
        weight_files.read(str(tmp_path / "w.pth"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6


def test_pickled_state_changes_neither_tensors_nor_functions(tmp_path: Path) -> None:
    functions = [x for x in torch_pickle._KNOWN.values() if inspect.isfunction(x)]
    before = [(x.__defaults__, x.__doc__, vars(x).copy()) for x in functions]
    for state in ({"offset": 0}, (None, {"offset": 0, "__defaults__": (1,), "__doc__": "changed"})):
        changed = push(state) + b"b"
        assert read_zip(tmp_path, pickled({"w": ONE + changed}))["w"].tolist() == EXPECTED
        for known in torch_pickle._KNOWN:
            beside = name(*known.rsplit(".", 1)) + changed
            assert list(read_zip(tmp_path, pickled({"x": beside, "model": WANTED}))) == ["w"]
    assert [(x.__defaults__, x.__doc__, vars(x)) for x in functions] == before


def test_instructions_in_any_order_are_read_or_refused(tmp_path: Path) -> None:
    """Repeats, drops and mixes instructions of valid pickles."""
    rng, refused = np.random.default_rng(0), 0
    sound = [pickled({"model": WANTED, "w": ONE}), *(pickle.dumps(x, 4) for x in BESIDE.values())]
    pieces = [instructions(program) for program in sound]
    for _ in range(1000):
        program = list(pieces[0])
        for _ in range(rng.integers(1, 6)):
            other = pieces[rng.integers(len(pieces))]
            start, place = rng.integers(len(other)), rng.integers(len(program))
            program[place : place + rng.integers(3)] = other[start : start + rng.integers(4)]
        try:
            read_zip(tmp_path, b"".join(program))
        except InputError:
            refused += 1
    assert 100 < refused < 1000


def instructions(program: bytes) -> list[bytes]:
    starts = [start for _, _, start in pickletools.genops(io.BytesIO(program))]
    return [program[a:b] for a, b in zip(starts, [*starts[1:], len(program)], strict=True)]
