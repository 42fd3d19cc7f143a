"""Weights by a hub name: from the cache without a network, or by a verified download.

The hub is a server on this machine; huggingface_hub is the real one, in a process of its own.
"""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dcjax.models import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).parents[2]
CODE = """
import sys
from dcjax.models import hub
try:
    print(hub.find(sys.argv[1], download=sys.argv[2] == "True"))
except Exception as error:
    print(type(error).__name__, error)
"""


class FakeHub(http.server.ThreadingHTTPServer):
    """Serves files by their path, OWNER/NAME/resolve/main/FILE.

    Attributes:
      files: path: content, and the checksum to declare if it is not that of the content.
      requests: methods and paths of the requests so far.
    """

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, str | None]] = {}
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self) -> None:
        path = self.path.removeprefix("/")
        self.server.requests.append(f"{self.command} {path}")
        content, checksum = self.server.files.get(path, (None, None))
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", f'"{checksum or hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command == "GET" and content:
            self.wfile.write(content)

    do_GET = do_HEAD  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with FakeHub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def find(server: FakeHub, tmp_path: Path) -> Callable[..., str]:
    """Finds weights in a fresh process; returns the path, or the error as one line."""

    def find(name: str, *, download: bool, **environment: str) -> str:
        fresh = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        command = [sys.executable, "-c", CODE, name, str(download)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | fresh | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    return find


def cached(tmp_path: Path, repository: str, file: str) -> Path:
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    return folder / "snapshots" / COMMIT / file


@pytest.mark.parametrize("name", ["timm/resnet50.tv_in1k", "hf-hub:timm/resnet50.tv_in1k", "a/b"])
def test_repository_names_are_recognised(name: str) -> None:
    assert hub.is_name(name)


@pytest.mark.parametrize(
    "name", ["resnet50", "/a/b", "./a/b", "../b", "~/b", "a/b/c.pth", "a/", ""]
)
def test_other_names_are_paths(name: str) -> None:
    assert not hub.is_name(name)


def test_without_permission_the_error_says_how_to_download(
    find: Callable[..., str], server: FakeHub, tmp_path: Path
) -> None:
    error = find("hf-hub:timm/resnet50.tv_in1k", download=False)
    url = f"http://127.0.0.1:{server.server_port}/timm/resnet50.tv_in1k/resolve/main"
    for part in (
        "MissingFileError No weights at model.pretrained='hf-hub:timm/resnet50.tv_in1k'",
        f"{tmp_path}/hub",
        "--config.dataset.download=true",
        f"{url}/model.safetensors",
        "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
    ):
        assert part in error
    assert not server.requests


def test_cached_weights_are_used_without_a_network(find, server, tmp_path: Path) -> None:
    file = cached(tmp_path, "a/b", "pytorch_model.bin")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    references = file.parents[2] / "refs"
    references.mkdir()
    (references / "main").write_text(COMMIT)
    for download in (True, False):
        assert find("a/b", download=download) == str(file)
    assert not server.requests


def test_download_is_cached_and_safetensors_are_preferred(find, server, tmp_path: Path) -> None:
    server.files = {
        "a/b/resolve/main/model.safetensors": (b"safe", None),
        "a/b/resolve/main/pytorch_model.bin": (b"torch", None),
        "c/d/resolve/main/pytorch_model.bin": (b"torch", None),
    }
    for repository, file, content in (
        ("a/b", "model.safetensors", b"safe"),
        ("c/d", "pytorch_model.bin", b"torch"),
    ):
        path = cached(tmp_path, repository, file)
        assert find(repository, download=True) == str(path)
        assert path.read_bytes() == content
        assert f"GET {repository}/resolve/main/{file}" in server.requests
        server.requests.clear()
        assert find(repository, download=False) == str(path)
        assert not server.requests


def test_what_the_publisher_says_of_pixels_is_kept_beside_the_weights(
    find, server, tmp_path: Path
) -> None:
    said = b'{"image_mean": [0.5, 0.5, 0.5]}'
    server.files = {
        "a/b/resolve/main/model.safetensors": (b"safe", None),
        "a/b/resolve/main/preprocessor_config.json": (said, None),
    }
    path = Path(find("a/b", download=True))
    assert path.with_name("preprocessor_config.json").read_bytes() == said


def test_download_that_was_not_published_is_removed(find, server) -> None:
    path, content = "a/b/resolve/main/model.safetensors", b"weights"
    checksum = hashlib.sha256(content).hexdigest()
    server.files = {path: (b"wei?hts", checksum)}
    assert f"should have SHA-256 {checksum}, got" in find("a/b", download=True)
    assert "No weights" in find("a/b", download=False)
    server.files = {path: (content, None)}
    assert Path(find("a/b", download=True)).read_bytes() == content


def test_damaged_cached_file_is_not_loaded(find, server, tmp_path: Path) -> None:
    server.files = {"a/b/resolve/main/model.safetensors": (b"weights", None)}
    path = Path(find("a/b", download=True))
    path.resolve().write_bytes(bytes(7))
    assert "remove it, and allow the download" in find("a/b", download=False)
    assert Path(find("a/b", download=True)).read_bytes() == b"weights"


def test_checksum_of_the_papers_weights_is_known(find, server) -> None:
    path = "timm/resnet50.tv_in1k/resolve/main/model.safetensors"
    server.files = {path: (b"others", None)}
    assert "should have SHA-256 5d061a3c" in find("timm/resnet50.tv_in1k", download=True)


def test_unavailable_weights_give_a_one_line_error(find) -> None:
    assert find("a/b", download=True) == (
        "MissingFileError The hub's a/b has none of model.safetensors, pytorch_model.bin."
    )
    error = find("a/b", download=True, HF_HUB_OFFLINE="1")
    assert error.startswith("FileError Cannot download http://127.0.0.1")
    assert "\n" not in error


def test_warnings_of_the_hub_are_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    from huggingface_hub.utils import logging

    level = logging.get_verbosity()
    with hub._without_warnings():
        logging.get_logger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
    assert capfd.readouterr().err == ""
    assert logging.get_verbosity() == level


def test_huggingface_hub_is_not_imported_at_import_time() -> None:
    code = "import sys, dcjax.models.pretrained; print('huggingface_hub' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
