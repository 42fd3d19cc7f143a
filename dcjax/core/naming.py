r"""Names of files and classes, which may hold any bytes: how they are read, compared and shown.

Bytes that are not text in the encoding of the file system are what Python makes of them, surrogate
escapes: b"caf\xe9" is "caf\udce9" where that encoding is UTF-8.
"""

import os
import re
import unicodedata
import zlib
from collections.abc import Iterable

from dcjax.core.errors import InputError

_IGNORED = re.compile(r"[\s\ufe00-\ufe0f]")  # white space, and which form a character is drawn in


def as_file_name(text: str) -> str:
    """Returns the name of a file as `os` gives it, for text from elsewhere.

    A setting or table may hold a name that the encoding of the file system, ASCII in the locale
    POSIX, does not have. The file is then the one whose name is this text in UTF-8.
    """
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return os.fsdecode(encode(text))
    return text


def expand(path: str) -> str:
    """Returns the path that a setting names, with the home folder for a `~` at its start."""
    if "\0" in path:
        raise InputError(f"Require a path without a null character, got {path!r}.")
    return os.path.expanduser(as_file_name(path))


def escape(name: str) -> str:
    """Returns a name for a line of text: line breaks, invisible and broken characters escaped."""
    if name.isprintable():
        return name
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in name)


def encode(name: str) -> bytes:
    """Returns a name as bytes, by which names have the same order in every locale.

    For names in UTF-8 this is the order of their characters.
    """
    return name.encode("utf-8", "surrogateescape")


def checksum(names: Iterable[str]) -> int:
    """Returns a checksum of names in their order."""
    return zlib.crc32(encode("\0".join(names)))


def simplify(name: str) -> str:
    """Returns a name without spaces and invisible characters, in one letter case and Unicode form.

    See the Unicode Standard, section 3.13, D146: compatibility caseless matching.
    """
    if name.isascii():
        return _IGNORED.sub("", name.casefold())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKD", name).casefold())
    folded = unicodedata.normalize("NFKC", folded.casefold())
    visible = (x for x in folded if unicodedata.category(x) != "Cf")
    return _IGNORED.sub("", "".join(visible))
