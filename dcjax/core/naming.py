r"""Names of files and classes, which may hold any bytes: reading, comparing and printing them.

Bytes that are not valid in the encoding of the file system are surrogate escapes, as everywhere in
Python: b"caf\xe9" is "caf\udce9" where that encoding is UTF-8.
"""

import os
import re
import unicodedata
import zlib
from collections.abc import Iterable

from dcjax.core.errors import InputError

_IGNORED = re.compile(r"[\s\ufe00-\ufe0f]")  # white space, and which form a character is drawn in


def as_file_name(text: str) -> str:
    """Returns the name of a file, as `os` gives it, for text from a setting or a table.

    If the encoding of the file system cannot encode the text, as ASCII in the locale POSIX, the
    file is the one whose name is the text in UTF-8.
    """
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return os.fsdecode(encode(text))
    return text


def expand(path: str) -> str:
    """Returns the path that a setting names, with `~` expanded."""
    if "\0" in path:
        raise InputError(f"Require a path without a null character, got {path!r}.")
    return os.path.expanduser(as_file_name(path))


def escape(name: str) -> str:
    """Returns a name with line breaks, invisible and invalid characters escaped, for printing."""
    if name.isprintable():
        return name
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in name)


def encode(name: str) -> bytes:
    """Returns a name as UTF-8 bytes, whose order is the same in every locale."""
    return name.encode("utf-8", "surrogateescape")


def is_utf8(text: str) -> bool:
    """Returns whether UTF-8 can encode a text: it has no escapes of other bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def checksum(names: Iterable[str]) -> int:
    """Returns a checksum of names and their order."""
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
