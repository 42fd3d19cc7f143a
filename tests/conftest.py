"""Fixtures: tiny trees in the layouts of real datasets, and real images where available."""

import gc
import importlib.metadata
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

# Tests run a few steps of many small programs, so compilation would dominate their time:
# XLA optimises less (2.5 times faster to compile), and a cache keeps programs between sessions.
_QUICK = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones end at unknown flags
    _QUICK.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_QUICK))
_CACHES = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(_CACHES, "dcjax-tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402  # which reads them
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# For tests that shard a batch; others use the first device.
jax.config.update("jax_num_cpu_devices", 8)

_REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects no garbage while modules are imported, and leaves these out of it from then on.

    They are half a million objects, which each full collection would take 0.4 s to go through.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def png(pixels: np.ndarray) -> bytes:
    """Encodes uint8[h, w, 3] as PNG, without an image library."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.fixture
def write_tree(tmp_path: Path) -> Callable[[Mapping[str, str | bytes | None]], str]:
    """Writes files (path: text, bytes, or None for a small picture) and returns their root."""

    def write(files: Mapping[str, str | bytes | None]) -> str:
        for seed, (name, content) in enumerate(files.items()):
            if content is None:
                content = png(np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8))
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(tmp_path)

    return write


def _extracted(name: str, factory: pytest.TempPathFactory) -> Path:
    if not (_REAL_DATA / name).is_file():
        pytest.skip(f"needs the real data {_REAL_DATA / name}")
    folder = factory.mktemp(Path(name).stem)
    with zipfile.ZipFile(_REAL_DATA / name) as file:
        file.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def real_lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the real list files of CARS196, CUB200-2011 and VehicleID."""
    return _extracted("lists.zip", tmp_path_factory) / "lists"


@pytest.fixture(scope="session")
def real_cub(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder that holds CUB_200_2011: bounding-box crops of 127 classes."""
    return str(_extracted("cub/cub_crop_96.zip", tmp_path_factory))


@pytest.fixture(scope="session")
def real_grocery(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder that holds Grocery Store's dataset/."""
    return str(_extracted("grocery/grocery_80.zip", tmp_path_factory))


@pytest.fixture(scope="session")
def real_omniglot() -> str:
    """Folder that holds omniglot_105.npz."""
    folder = _REAL_DATA / "omniglot"
    if not (folder / "omniglot_105.npz").is_file():
        pytest.skip(f"needs the real data {folder / 'omniglot_105.npz'}")
    return str(folder)
