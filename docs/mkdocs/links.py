"""Files outside docs/ that pages link to become files of the site; the README is its first page.

A hook of MkDocs. Links stay as they are on GitHub, relative to the file that they stand in.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_DOCS = "docs/"
_START = "README.md"
_COPIES = "files/"  # where the site has files that are no pages
# The target of a link or picture, without its anchor, in Markdown and in HTML.
_LINK = re.compile(r"""(\]\(|\b(?:src|href|srcset)=")([^)"#\s:]+)(?=[)"#\s])""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the README, and all files outside docs/ that pages link to, directly or over others."""
    root = Path(config.config_file_path).parent
    pages = [_DOCS + file.src_uri for file in files.documentation_pages()]
    waiting, added = [*pages, _START], {_START}
    files.append(_create(root, _START, config))
    while waiting:
        for path in set(_outside(root, waiting.pop())) - added:
            added.add(path)
            files.append(_create(root, path, config))
            if path.endswith(".md"):
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links between files of the site."""
    del files
    root = Path(config.config_file_path).parent
    source = page.file.src_uri
    origin = _START if source == "index.md" else source
    if source != "index.md" and not page.file.generated_by:
        origin = _DOCS + source

    def move(link: re.Match[str]) -> str:
        path = _resolve(origin, link[2])
        if not (root / path).is_file():
            return link[0]
        return link[1] + posixpath.relpath(_place(path), posixpath.dirname(source) or ".")

    return _LINK.sub(move, markdown)


def _create(root: Path, path: str, config: MkDocsConfig) -> File:
    return File.generated(config, _place(path), abs_src_path=os.fspath(root / path))


def _outside(root: Path, page: str) -> Iterator[str]:
    """Yields the files outside docs/ that a page links to, relative to the repository."""
    for link in _LINK.finditer((root / page).read_text(encoding="utf-8")):
        path = _resolve(page, link[2])
        if not path.startswith((_DOCS, "..")) and (root / path).is_file():
            yield path


def _resolve(page: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def _place(path: str) -> str:
    """Returns where the site has a file of the repository."""
    if path == _START:
        return "index.md"
    if path.startswith(_DOCS):
        return path.removeprefix(_DOCS)
    return path if path.endswith(".md") else _COPIES + path
