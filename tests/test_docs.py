"""The documentation as a site: it builds without a warning, and shows without a network."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from dcjax import losses
from dcjax.data import datasets

_ROOT = Path(__file__).parents[1]
# Elements and their attributes that a browser loads by itself; <a> is not one.
_LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "srcset"}


class Page(HTMLParser):
    """What a page loads, and the names (ids) that links can lead to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        self.links += [given["href"]] if tag == "a" and "href" in given else []
        # Pages that a reader may go to next are named, not loaded.
        if tag in _LOADED and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(given.get(_LOADED[tag], ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    if not find_spec("mkdocs") or not find_spec("mkdocstrings"):
        pytest.skip("needs requirements/docs.txt, as `make docs` installs it")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={folder}"],
        cwd=_ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


@pytest.mark.long
def test_pages_load_nothing_from_other_hosts(site: Path, pages: dict[Path, Page]) -> None:
    loaded = {(path.name, url) for path, page in pages.items() for url in page.loaded}
    assert len(loaded) > len(pages)
    assert [x for x in loaded if re.match(r"([a-z]+:)?//", x[1])] == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", styles) == []


def test_no_page_has_a_diagram_that_needs_a_library_from_the_network() -> None:
    pages = [_ROOT / "README.md", *(_ROOT / "docs").rglob("*.md")]
    assert len(pages) > 10
    assert [page.name for page in pages if "```mermaid" in page.read_text(encoding="utf-8")] == []


@pytest.mark.long
def test_links_between_pages_lead_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if ":" in target or path.name == "404.html":
                continue
            there = (path.parent / target).resolve() if target else path
            if there.is_dir():
                there = there / "index.html"
            if not there.is_file() or (anchor and anchor not in pages[there].ids):
                broken.append((path.name, link))
    assert broken == []


@pytest.mark.long
def test_every_loss_and_data_set_has_its_place_in_the_api(site: Path) -> None:
    ids = Page(site / "api" / "losses.html").ids
    for make in losses.LOSSES.values():
        assert f"{make.__module__}.{make.__name__}" in ids
    ids = Page(site / "api" / "data.html").ids
    assert {f"dcjax.data.datasets.{name}.load" for name in datasets.KNOWN} <= ids


@pytest.mark.long
def test_formulas_of_docstrings_keep_their_lines_and_signs(site: Path) -> None:
    text = (site / "api" / "retrieval.html").read_text()
    assert "  recall_at_k  1 if any of h_1 .. h_k is 1, else 0\n" in text
    text = (site / "api" / "division.html").read_text()
    assert "&lt;r_i, r_j>" in text or "&lt;r_i, r_j&gt;" in text
