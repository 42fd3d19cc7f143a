"""Pickles of tensors are understood, old ones too; no other does anything, whatever it tries."""

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from torch_bytes import call, legacy_file, name, pickled, push, storage, tensor, zip_file

from dcjax import weight_files

ONE = tensor(storage("0", 6), 1, (2, 2), (3, 1))  # elements 1, 2, 4 and 5 of the storage
EXPECTED = [[1, 2], [4, 5]]
STORED = np.arange(6, dtype="<f4").tobytes()


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
def test_a_state_dict_is_read_however_it_is_pickled(program, tmp_path: Path) -> None:
    (found,) = read_zip(tmp_path, program[1]).items()
    assert found[0] == "w"
    assert found[1].tolist() == EXPECTED
    assert found[1].dtype == np.float32


TOUCH = push("touch {marker}")


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
        (call("torch", "FloatStorage", TOUCH) + b".", "it calls torch.FloatStorage"),
        (name("torch", "Size") + push({"__call__": 1}) + b"b)R.", "IndexError"),
        (name("torch", "Size") + b")\x81.", "instruction NEWOBJ"),
        (push("torch.Size") + b")R.", "require _Name, got str"),
        (b"P0\n.", "instruction PERSID"),
        (push(("module", 1, 2, 3, 4)) + b"Q.", "require _Name, got int"),
        (b"})" + b"\x85" * 9 + push(1) + b"s.", "a key must be a string or a number, got tuple"),
        (b"Nr\xff\xff\xff\xff.", "no state dict"),  # a memo of 4 thousand million places
        (b"X\xff\xff\xff\xffshort", "expected 4294967295 bytes"),
        (b"\x8d" + bytes(7) + b"\x40short", "expected 4611686018427387904 bytes"),
        (b"\x8b\xff\xff\xff\x7f", "not enough data"),
        (b"]" * 100_000 + b"a" * 99_999 + b".", "no state dict"),  # lists in lists
        (b")" + b"\x85" * 100_000 + b".", "no state dict"),
        (b"}q\x00" + push("self") + b"h\x00s.", "got self"),
        (b"N" * 1_100_000 + b".", "over 1000000 instructions"),
        (b"\xfe\xff.", "opcode b'.xfe' unknown"),
        (b"R.", "IndexError"),
        (b"t.", "IndexError"),
        (b"h\x05.", "KeyError"),
        (b"(a.", "takes more than it has put"),
        (b"", "exhausted before seeing STOP|holds no state dict"),
        (b"cno\nend", "no newline"),
    ],
)
@pytest.mark.parametrize("file", [zip_file, legacy_file])
def test_nothing_is_run_and_every_outcome_names_the_file(
    program: bytes, message: str, file, tmp_path: Path
) -> None:
    marker, path = tmp_path / "executed", tmp_path / "w.pth"
    path.write_bytes(file(b"\x80\x02" + program.replace(TOUCH, push(f"touch {marker}"))))
    with pytest.raises(ValueError, match=rf"^Cannot read {path}: .*{message}"):
        weight_files.read(str(path))
    assert not marker.exists()


def test_the_attacks_would_work_on_pickles_own_reader(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    pickle.loads(b"\x80\x02" + call("os", "system", push(f"touch {marker}")) + b".")
    assert marker.exists()


@pytest.mark.parametrize(
    "program",
    [b"Nr\xff\xff\xff\xff.", b"X\xff\xff\xff\xff", b"]" * 1_100_000, b"\x8b\xff\xff\xff\x7f"],
)
def test_a_file_takes_memory_as_it_is_long_not_as_it_says(program: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(legacy_file(b"\x80\x02" + program))
    tracemalloc.start()
    with pytest.raises(ValueError, match="Cannot read"):
        weight_files.read(str(tmp_path / "w.pth"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6
