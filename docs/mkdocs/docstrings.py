"""Docstrings as Markdown: formulas and tables of dcjax's docstrings keep their lines.

An extension of Griffe, which reads the code for mkdocstrings.
"""

import re
from typing import Any

import griffe

_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$")
_CODE = re.compile(r"(`[^`]*`)")


class PlainText(griffe.Extension):
    """Paragraphs with indented lines become code blocks, and `<` outside code is no HTML."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Changes the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """Returns a docstring, plain text in Google form, with its text as Markdown."""
    paragraphs = docstring.split("\n\n")
    texts = []
    while paragraphs and not _SECTION.match(paragraphs[0].partition("\n")[0]):
        texts.append(_as_block(paragraphs.pop(0)))
    return "\n\n".join(texts + [_escape(paragraph) for paragraph in paragraphs])


def _as_block(paragraph: str) -> str:
    is_laid_out = re.search(r"^\s", paragraph, re.MULTILINE)
    return f"```text\n{paragraph}\n```" if is_laid_out else _escape(paragraph)


def _escape(text: str) -> str:
    """Escapes what HTML would take for a tag, but not in code between backticks."""
    parts = _CODE.split(text)
    return "".join(x if x.startswith("`") else re.sub(r"<(?=\S)", "&lt;", x) for x in parts)
