"""The server of the search page answers every request, good or bad, and stays what it was."""

import asyncio
import contextlib
import dataclasses
import io
import json
import re
import socket
import struct
import subprocess
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import PIL.Image
import pytest
from pictures import png_chunk
from search_gallery import CLASSES, NUM_IMAGES, create_gallery, create_search, encode, pixels
from servers import serve
from starlette.testclient import TestClient

from dcjax.core.errors import FileError
from dcjax.pages import search_server, serving
from dcjax.pages.guard import Limits

_SEARCH = create_search()
_GALLERY = create_gallery(_SEARCH)


@pytest.fixture(scope="module")
def client() -> TestClient:
    return _client()


def _client(
    host: str = "127.0.0.1", base: str = "http://127.0.0.1:8000", **limits: Any
) -> TestClient:
    app = search_server.create(_GALLERY, host=host, limits=Limits(**limits))
    return TestClient(app, base_url=base)


def _numbers(answer: Any) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [neighbor["image"] for neighbor in answer.json()["neighbors"]]


def test_answers_are_those_of_a_sort_of_all_distances(client: TestClient) -> None:
    vectors = _SEARCH.images.vectors.astype(np.float64)
    query = vectors[7]
    distances = np.sqrt(((vectors - query) ** 2).sum(axis=1))
    expected = np.argsort(distances, kind="stable")
    answer = client.get("/search?image=7&k=9")
    assert _numbers(answer) == [row for row in expected if row != 7][:9]
    first = answer.json()["neighbors"][0]
    assert first["distance"] == pytest.approx(distances[first["image"]], abs=1e-9)
    assert first["name"] == _GALLERY.names[first["image"]].replace("\udce9", "\\xe9")
    assert answer.json()["query"]["image"] == 7

    form = client.post("/search?k=9", files={"image": ("x", encode(pixels()[7]))})
    body = client.post("/search", params={"k": 9}, content=encode(pixels()[7]))
    fields = client.post("/search", data={"k": 9}, files={"image": ("x", encode(pixels()[7]))})
    assert _numbers(form) == _numbers(body) == _numbers(fields) == expected[:9].tolist()


def test_a_subspace_and_a_class_are_searched(client: TestClient) -> None:
    colors = pixels()[:, 0, 0, :2].astype(np.float64)
    colors /= np.linalg.norm(colors, axis=1, keepdims=True)
    expected = np.argsort(((colors - colors[3]) ** 2).sum(axis=1), kind="stable")
    of_class = [row for row in expected if row % 2 and row != 3]
    given = {"image": 3, "k": 5, "space": 0, "class": CLASSES[0]}
    answer = client.get("/search", params=given)
    assert _numbers(answer) == of_class[:5]
    assert {neighbor["class"] for neighbor in answer.json()["neighbors"]} == {CLASSES[0]}
    answer = client.get("/search?image=3&space=1&k=60").json()
    assert answer["space"] == "1"
    assert len(answer["neighbors"]) == NUM_IMAGES - 1
    assert max(neighbor["distance"] for neighbor in answer["neighbors"]) < 1e-6  # all are blue


def test_when_nothing_can_be_found_the_answer_says_so(client: TestClient) -> None:
    one = dataclasses.replace(_GALLERY, find=lambda *query: [])
    app = search_server.create(one)
    answer = TestClient(app, base_url="http://localhost").get(
        "/search", params={"image": 0, "class": CLASSES[1]}
    )
    assert answer.status_code == 200
    assert answer.json()["message"] == f"The gallery has no other image of the class {CLASSES[1]}."


def _huge_png() -> bytes:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 3751 * 30_000, 9)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _animation() -> bytes:
    file = io.BytesIO()
    frames = [PIL.Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    return file.getvalue()


def test_pictures_that_cannot_be_read_are_refused_with_the_reason(client: TestClient) -> None:
    picture = encode(pixels()[0], "JPEG")
    scans = picture[:-2] + b"\xff\xda\0\0" * 200 + picture[-2:]
    bad = {
        "has 0 bytes": b"",
        "no picture that can be read; formats are JPEG, PNG": b"plain text" * 100,
        "no picture that can be": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "30,000 x 30,000 pixels; up to 1,000,000": _huge_png(),
        "animated WebP": _animation(),
        "This PNG is damaged": encode(pixels()[0])[:100],
        "This JPEG is damaged": picture[: len(picture) // 2],
        "its header gives no size": picture[:20],
        "scans; up to 100": scans,
    }
    for reason, content in bad.items():
        for given in ({"content": content}, {"files": {"image": ("picture.png", content)}}):
            answer = client.post("/search", **given)
            assert (answer.status_code, reason in answer.json()["error"]) == (422, True), reason
    assert _numbers(client.post("/search?k=1", content=encode(pixels()[4]))) == [4]


def test_wrong_parameters_are_refused_with_the_reason(client: TestClient) -> None:
    paths = [
        "../../etc/passwd",
        "/etc/passwd",
        "%2e%2e%2f",
        "..\\..\\x",
        "file:///etc/passwd",
        "\0",
    ]
    odd = ["-1", "1e3", "٣", "9" * 400, "1.5", "<script>", " 1"]
    for value in (*paths, *odd):
        for name in ("image", "k", "space", "class", "other"):
            answer = client.get("/search", params={"image": 1, name: value})
            assert answer.status_code == 400, (name, value)
            assert re.match("Require|The gallery has no class", answer.json()["error"])
    for query in (
        "",
        "image=",
        f"image={NUM_IMAGES}",
        "image=1&image=2",
        "image=1&k=0",
        "image=1&k=1001",
    ):
        assert client.get(f"/search?{query}").status_code == 400, query
    for query in ("image=1", "k=1&k=2"):
        assert client.post(f"/search?{query}", content=encode(pixels()[0])).status_code == 400
    two = [("image", ("a", b"x")), ("image", ("b", b"x"))]
    for files in (two, {"picture": ("a", b"x")}, None):
        answer = client.post("/search", files=files, data={} if files else {"image": "text"})
        assert answer.status_code in (400, 422), files
    kind = {"content-type": "multipart/form-data; boundary=x"}
    for content in (b"", b"--x", b"--x\r\n\r\nbody", b"no form"):
        assert client.post("/search", headers=kind, content=content).status_code == 400


def _status(path: str) -> int:
    """Returns the status of a path as it is, which a client would shorten."""
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"localhost")]}
    app = search_server.create(_GALLERY)
    asyncio.run(app({**scope, "query_string": b"", "http_version": "1.1"}, receive, send))
    return statuses[0]


def test_images_are_reached_by_their_number_alone(client: TestClient) -> None:
    answer = client.get("/images/3")
    assert PIL.Image.open(io.BytesIO(answer.content)).size == (64, 64)
    tag = {"if-none-match": answer.headers["etag"]}
    assert client.get("/images/3", headers=tag).status_code == 304
    for number in ("60", "-1", "3.png", "..", "../../etc/passwd", "../3", "٣", "0x1", "3/", "\0"):
        assert _status(f"/images/{number}") == 404, number
    for name in ("../guard.py", "../templates/base.html", "/etc/passwd", "style.css/", ""):
        assert _status(f"/static/{name}") == 404, name
    answer = client.get(f"/images/{NUM_IMAGES - 1}")
    assert (answer.status_code, answer.content) == (204, b"")


def test_classes_and_samples_are_listed(client: TestClient) -> None:
    answer = client.get("/classes", params={"containing": "IMG SRC"}).json()
    assert answer == {"classes": [CLASSES[0]], "count": 1}
    assert client.get("/classes").json()["count"] == len(CLASSES)
    assert "caf\\xe9" in client.get("/classes").json()["classes"]
    images = client.get("/sample", params={"k": 9, "class": "caf\\xe9"}).json()["images"]
    assert {image["class"] for image in images} == {"caf\\xe9"}
    assert len({image["image"] for image in client.get("/sample?k=60").json()["images"]}) == 60


def test_other_sites_and_names_are_refused(client: TestClient) -> None:
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "",
        "[::1",
        "0",
    ):
        answer = client.get("/", headers={"host": host})
        assert (answer.status_code, "Require a request to" in answer.text) == (400, True), host
    for host in ("localhost", "LOCALHOST:8000", "[::1]:8000", "127.0.0.1:9"):
        assert client.get("/", headers={"host": host}).status_code == 200, host
    picture = encode(pixels()[0])
    foreign = [{"origin": "http://evil.example"}, {"origin": "null"}]
    foreign += [
        {"origin": "http://127.0.0.1:9000"},
        {"origin": "http://localhost:8000"},
        {"origin": "http://["},
    ]
    foreign += [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}]
    foreign += [{"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}]
    for headers in foreign:
        answer = client.post("/search", content=picture, headers=headers)
        assert (answer.status_code, "another site's" in answer.text) == (403, True), headers
    assert client.get("/images/1", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    own = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    assert client.post("/search", content=picture, headers=own).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/?image=1", headers=link).status_code == 200

    everywhere = _client("0.0.0.0")
    for host, status in (("192.168.1.5:8000", 200), ("[fe80::1]", 200), ("evil.example", 400)):
        assert everywhere.get("/", headers={"host": host}).status_code == status
    named = _client("nas.lan", "http://nas.lan")
    assert named.get("/").status_code == 200
    assert named.get("/", headers={"host": "192.168.1.5"}).status_code == 400


def test_every_answer_has_the_headers_of_security(client: TestClient) -> None:
    for path in ("/", "/docs", "/search?image=1", "/images/1", "/nothing", "/static/search.js"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    page = client.get("/").text
    assert "&lt;b&gt;colours&lt;/b&gt;" in page
    assert not re.search(r"<script>|<style|style=|onload=|https?://(?!127)", page)


def test_a_body_that_is_too_large_or_too_slow_has_an_answer() -> None:
    client = _client(max_bytes=1000)
    for size in (1001, 3000, 50_000):
        answer = client.post("/search", content=b"x" * size)
        assert (answer.status_code, "too large" in answer.json()["error"]) == (413, True)
        answer = client.post("/search", files={"image": ("x.png", b"x" * size)})
        assert answer.status_code == 413

    async def slow() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0.05)
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        app = search_server.create(_GALLERY, limits=Limits(body_seconds=0.3))
        headers = [(b"host", b"localhost"), (b"content-type", b"image/png")]
        scope = {"type": "http", "method": "POST", "path": "/search", "headers": headers}
        await app({**scope, "query_string": b"", "http_version": "1.1"}, receive, send)
        return sent

    start = time.monotonic()
    sent = asyncio.run(slow())
    assert time.monotonic() - start < 3
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert "not complete after 0.3 s" in json.loads(sent[1]["body"])["error"]


def test_searches_beyond_those_that_wait_are_refused_until_there_is_room() -> None:
    is_released = threading.Event()

    def find(*query: Any) -> list[tuple[int, float]]:
        is_released.wait(20)
        return [(0, 0.5)]

    slow = dataclasses.replace(_GALLERY, find=find)
    with serve(search_server.create(slow)) as address, httpx2.Client() as client:
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(httpx2.get(f"{address}/search?image=1", timeout=30).status_code)

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        try:
            end = time.monotonic() + 10
            while len(statuses) < 4 and time.monotonic() < end:
                time.sleep(0.02)
            assert statuses == [503] * 4
            refused = client.get(f"{address}/search?image=1")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert "try again soon" in refused.json()["error"]
            assert client.get(f"{address}/images/1").status_code == 200
        finally:
            is_released.set()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200] * 16 + [503] * 4
        assert client.get(f"{address}/search?image=1").status_code == 200


def test_a_client_that_begins_no_request_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_HEAD_SECONDS", 0.3)
    with serve(search_server.create(_GALLERY)) as address:
        host, port = address.removeprefix("http://").split(":")
        whole = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for parts in ([b""], [whole[:20]], [whole, b"G"]):
            with socket.create_connection((host, int(port)), 10) as connection:
                for part in parts:
                    connection.sendall(part)
                    time.sleep(0.1)
                begin = time.monotonic()
                with contextlib.suppress(OSError):
                    while connection.recv(65536):
                        pass
                assert time.monotonic() - begin < 3, parts
        assert httpx2.get(f"{address}/").status_code == 200


def test_an_address_in_use_is_one_line_of_error() -> None:
    with (
        serve(search_server.create(_GALLERY)) as address,
        pytest.raises(FileError, match=r"Cannot listen on 127.0.0.1, port \d+: .*another --port"),
    ):
        serving.bind("127.0.0.1", int(address.rpartition(":")[2]))
    with pytest.raises(FileError, match=r"Cannot listen on nowhere.invalid, port 80: .*"):
        serving.bind("nowhere.invalid", 80)


def test_the_examples_of_the_documentation_run(tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").write_bytes(encode(pixels()[5]))
    with serve(search_server.create(_GALLERY)) as address:
        page = httpx2.get(f"{address}/docs").text
        codes = re.findall(r'<code id="(curl|python)">(.*?)</code>', page, re.DOTALL)
        for kind, escaped in codes:
            code = escaped.replace("&#39;", "'").replace("&#34;", '"')
            command = ["sh", "-c", code] if kind == "curl" else ["python3", "-c", code]
            ended = subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, timeout=60
            )
            assert ended.returncode == 0, ended.stderr
            assert _GALLERY.names[5].split("/")[0] in ended.stdout.replace('\\"', '"')
        assert len(codes) == 2
        names = re.findall(r'<th scope="row"><code>(\w+)</code></th>', page)
        assert names == [parameter.name for parameter in search_server.PARAMETERS]
        for parameter in search_server.PARAMETERS:
            given = {parameter.name: parameter.default, "image": 1}
            assert httpx2.get(f"{address}/search", params=given).status_code == 200
