"""Every published format gives its tensors; damaged files are refused by name."""

import io
import itertools
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from torch_bytes import legacy_file, pickled, storage, tensor, zip_file

from dcjax.core.errors import FileError, InputError
from dcjax.models import weight_files

GOLDEN = Path(__file__).parents[1] / "golden"
REAL = Path(__file__).parents[3] / "shared" / "data" / "weights" / "resnet20-12fca82f.th"
BOTH = ["torch_zip.pth", "torch_legacy.pth"]


@pytest.mark.parametrize("name", BOTH)
def test_pytorch_files_give_the_saved_values(name: str) -> None:
    """Files of benchmarks/golden_resnet.py: element i of each storage is i - 4."""
    tensors = weight_files.read(str(GOLDEN / name))
    count = np.arange(24) - 4
    kinds = ["float64", "float16", "bfloat16", "int64", "int32", "int16", "int8"]
    expected = {kind: count.astype(jnp.dtype(kind)) for kind in kinds} | {
        "uint8": np.arange(24, dtype=np.uint8),
        "bool": count > 0,
        "parameter": np.float32(count).reshape(4, 6),
        "scalar": np.float32(-4),
        "empty": np.zeros((0, 3), np.float32),
        "transposed": np.float32(count).reshape(2, 3, 4).transpose(2, 0, 1),
        "view.front": np.float32([[-4, -3, -2], [-1, 0, 1]]),
        "view.every_third": np.float32([3, 6, 9, 12, 15, 18]),
        "expanded": np.float32([1, 1, 1]),
    }
    assert list(tensors) == list(expected)
    for kind, values in expected.items():
        np.testing.assert_array_equal(tensors[kind], values, err_msg=kind, strict=True)


@pytest.mark.skipif(not REAL.is_file(), reason=f"needs the real weights {REAL}")
def test_real_legacy_file_gives_the_numbers_of_pytorch() -> None:
    tensors = weight_files.read(str(REAL))
    assert len(tensors) == 97
    for (
        name,
        shape,
        total,
        weighted,
    ) in [  # sums of the values, and of the values times their positions
        ("module.conv1.weight", (16, 3, 3, 3), 1.3100982000032673, 453.0575594469992),
        ("module.layer2.1.bn2.running_var", (32,), 14.657966658473015, 225.77699993550777),
        ("module.linear.weight", (10, 64), -0.04562738863751292, -505.7195189059712),
    ]:
        values = tensors[name].astype(np.float64)
        assert values.shape == shape
        assert values.sum() == pytest.approx(total, rel=1e-12)
        assert values.ravel() @ np.arange(values.size) == pytest.approx(weighted, rel=1e-12)


@pytest.fixture
def read(tmp_path: Path):
    """Writes bytes to a file and reads it."""

    def read(content: bytes) -> weight_files.Tensors:
        (tmp_path / "w").write_bytes(content)
        return weight_files.read(str(tmp_path / "w"))

    return read


def numpy_file(save=np.savez, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, allow_pickle=True, **arrays)
    return file.getvalue()


ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0, 2))}


def test_numpy_files_are_read(read) -> None:
    arrays = ARRAYS | {"turned": np.asfortranarray(ARRAYS["a.weight"]), "one": np.float16(3)}
    tensors = read(numpy_file(**arrays))
    assert list(tensors) == list(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(tensors[name], values, strict=True)


def test_safetensors_including_bfloat16_are_read(read) -> None:
    arrays = ARRAYS | {"half": ARRAYS["a.weight"].astype(jnp.bfloat16)}
    tensors = read(safetensors.numpy.save(arrays))
    for name, values in arrays.items():
        np.testing.assert_array_equal(tensors[name], values, strict=True)


def shorts(values: np.ndarray) -> dict[str, bytes]:
    return {
        "data/0": values.tobytes(),
        "byteorder": b"big" if values.dtype.str[0] == ">" else b"little",
    }


@pytest.mark.parametrize("order", ["<", ">"])
def test_byte_order_of_the_file_is_respected(order: str, read) -> None:
    program = pickled({"w": tensor(storage("0", 5, "ShortStorage"), 1, (2, 2), (2, 1))})
    tensors = read(zip_file(program, shorts(np.arange(256, 261, dtype=f"{order}i2"))))
    assert tensors["w"].tolist() == [[257, 258], [259, 260]]


def test_view_of_a_storage_is_read_at_its_offset(read) -> None:
    """Old files may refer to a part of a storage by key, offset and size."""
    part = storage("0", 8, "IntStorage", view=(("1", 3, 4),))
    program = pickled({"w": tensor(part, 1, (3,), (1,))})
    content = np.arange(8, dtype="<i4").tobytes()
    assert read(legacy_file(program, [("0", 8, content)]))["w"].tolist() == [4, 5, 6]
    outside = pickled({"w": tensor(part, 2, (3,), (1,))})
    with pytest.raises(ValueError, match="a tensor lies outside of storage '0'"):
        read(legacy_file(outside, [("0", 8, content)]))


def test_strides_are_followed_and_must_stay_inside_the_storage(read) -> None:
    rng, outcomes = np.random.default_rng(0), set()
    values = np.arange(12, dtype="<i4")
    for _ in range(200):
        shape, strides = rng.integers(0, 4, (2, rng.integers(0, 4))).tolist()
        offset = int(rng.integers(0, 14))
        indices = [
            offset + sum(i * stride for i, stride in zip(index, strides, strict=True))
            for index in itertools.product(*map(range, shape))
        ]
        program = pickled(
            {"w": tensor(storage("0", 12, "IntStorage"), offset, tuple(shape), tuple(strides))}
        )
        inside = all(i < 12 for i in indices)
        outcomes.add(inside)
        content = zip_file(program, {"data/0": values.tobytes()})
        if inside:
            actual = read(content)["w"]
            assert actual.shape == tuple(shape)
            assert actual.ravel().tolist() == indices
        else:
            with pytest.raises(ValueError, match="lies outside of storage '0'"):
                read(content)
    assert outcomes == {True, False}


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ((0, (7,), (1,)), "lies outside of storage"),
        ((-1, (2,), (1,)), "require integers from 0"),
        ((5, (6,), (-1,)), "require integers from 0"),
        ((0, (-1,), (1,)), "require integers from 0"),
        ((2**70, (1,), (1,)), "require integers from 0"),
        ((0, (2**62, 2**62), (1, 1)), "lies outside of storage"),
        ((0, (2**40, 2**40), (0, 0)), "too big|exceed"),
        ((0, (2**62, 2**62, 0), (0, 0, 0)), "too big|too large"),
        ((0, (1,) * 99, (1,) * 99), "dimension"),
        ((0, (2, 2), (1,)), "shorter|argument 2"),
        ((0, 3, (1,)), "require a tuple of at most 1000 values, got int"),
        ((0.0, (1,), (1,)), "require integers from 0"),
        ((True, (1,), (1,)), "require integers from 0"),
    ],
)
def test_shape_strides_and_offset_of_a_tensor_are_checked(claim, message: str, read) -> None:
    program = pickled({"w": tensor(storage("0", 6), *claim)})
    with pytest.raises(ValueError, match=message):
        read(zip_file(program, {"data/0": bytes(24)}))


ONE = tensor(storage("0", 6), 0, (6,), (1,))
CONTENT = np.arange(6, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("tensors", "storages", "message"),
    [
        ({"w": ONE}, [("0", 6, CONTENT[:20])], "'0' is cut short"),
        ({"w": ONE}, [("1", 6, CONTENT)], "KeyError: .*1'"),
        ({"w": ONE}, [("0", 7, CONTENT + bytes(4))], "'0' is not of the size"),
        ({"w": ONE}, [("0", -6, CONTENT)], "'0' is not of the size"),
        ({"w": ONE}, [], "KeyError: '0'"),
        ({"w": ONE}, [(("0",), 6, CONTENT)], "keys of storages to be strings, got tuple"),
        ({"w": tensor(storage("0", 2**60), 0, (1,), (1,))}, [("0", 2**60, CONTENT)], "cut short"),
        ({"w": tensor(storage("0", 6, "QInt8Storage"), 0, (), ())}, [], "'torch.QInt8Storage'"),
        (
            {"w": ONE, "v": tensor(storage("0", 6, "IntStorage"), 0, (), ())},
            [("0", 6, CONTENT)],
            "two types or sizes of storage '0'",
        ),
        (
            {"w": tensor(storage("0", 6, view=(("1", 3, 4),)), 0, (4,), (1,))},
            [("0", 6, CONTENT)],
            "'0' is cut short",
        ),
    ],
)
def test_claims_of_a_storage_are_checked(tensors, storages, message: str, read) -> None:
    with pytest.raises(ValueError, match=message):
        read(legacy_file(pickled(tensors), storages))


@pytest.mark.parametrize("storages", [{"data/0": CONTENT[:20]}, {"data/1": CONTENT}])
def test_zip_without_the_bytes_of_its_tensors_is_refused(storages, read) -> None:
    with pytest.raises(ValueError, match=r"is cut short|no item named"):
        read(zip_file(pickled({"w": ONE}), storages))


def npy(shape: tuple[int, ...]) -> bytes:
    """Returns an .npy file of six numbers whose header declares another shape."""
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + CONTENT


def zip_of(*members: tuple[str, bytes], **options) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def overlapping() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickled({"w": ONE}))
        archive.writestr("a/data/0", bytes(10_000))
        archive.filelist *= 9  # the same bytes under nine entries
    return file.getvalue()


def overlapping_though_empty() -> bytes:
    """Returns a zip of empty members that are declared to occupy the same bytes of the file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", npy((6,)))
        for name in "bcd":
            archive.writestr(f"{name}.npy", b"")
            archive.filelist[-1].compress_size = len(npy((6,)))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zip_file(b"", compression=zipfile.ZIP_DEFLATED), "members are compressed"),
        (numpy_file(np.savez_compressed, **ARRAYS), "members are compressed"),
        (overlapping(), "members overlap"),
        (overlapping_though_empty(), "members overlap"),
        (numpy_file(a=np.array([print], object)), "is not what its bytes are"),
        (zip_of(("a.npy", npy((2**40,)))), "is not what its bytes are"),
        (zip_of(("a.npy", npy((7,)))), "is not what its bytes are"),
        (zip_of(("a.npy", npy((-2, -3)))), "negative|unknown dimension|can only specify"),
        (zip_of(("readme.txt", b"hello")), "magic string"),
        (zip_of(("a/data.pkl", pickled({"w": ONE})), ("b/data.pkl", b"")), "magic string"),
        (b"", "none of safetensors, torch.save and numpy.savez"),
        (b"version https://git-lfs.github.com/spec/v1", "starts with b'version https://"),
        (bytes(257) + b"ustar" + bytes(99), "tar archive"),
        (b"\xff" * 8 + b"{}", "SafetensorError"),
        (legacy_file(pickled({})), "holds no state dict"),
        (legacy_file(pickled({"net": b"}", "epoch": b"K\x01"})), "got net, epoch"),
        (legacy_file(b"\x80\x02]."), "holds no state dict"),
        (legacy_file(pickled({"w": ONE})).replace(b"M\xe9\x03", b"M\xe8\x03"), "require version"),
    ],
)
def test_other_files_are_refused_with_a_reason(
    content: bytes, message: str, read, tmp_path
) -> None:
    with pytest.raises(ValueError, match=rf"^Cannot read {tmp_path}/w: .*{message}"):
        read(content)


def test_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=f"^Cannot read {tmp_path}/none: No such file"):
        weight_files.read(str(tmp_path / "none"))


SOUND = {
    "zip": zip_file(pickled({"w": ONE}), {"data/0": CONTENT}),
    "legacy": legacy_file(pickled({"w": ONE}), [("0", 6, CONTENT)]),
    "npz": numpy_file(**ARRAYS),
    "safetensors": safetensors.numpy.save(ARRAYS),
    "zip of pytorch": (GOLDEN / BOTH[0]).read_bytes(),
    "legacy of pytorch": (GOLDEN / BOTH[1]).read_bytes(),
}


@pytest.mark.parametrize("name", SOUND)
def test_truncated_file_is_refused(name: str, read, tmp_path: Path) -> None:
    content = SOUND[name]
    read(content)
    for length in range(0, len(content), max(1, len(content) // 100)):
        with pytest.raises(ValueError, match=f"^Cannot read {tmp_path}/w: "):
            read(content[:length])


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
@pytest.mark.parametrize("name", SOUND)
def test_file_with_wrong_bytes_is_read_or_refused(name: str, read) -> None:
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        content = bytearray(SOUND[name])
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(len(content))] = rng.integers(256)
        try:
            last = [values.flat[-1:] for values in read(bytes(content)).values()]
        except InputError:
            refused += 1
        else:
            assert all(value.size <= 1 for value in last)
    assert 20 < refused < 300


@pytest.mark.skipif(not REAL.is_file(), reason=f"needs the real weights {REAL}")
def test_truncated_real_file_is_refused(read) -> None:
    content = REAL.read_bytes()
    for percent in range(100):
        with pytest.raises(ValueError, match="Cannot read"):
            read(content[: len(content) * percent // 100])
