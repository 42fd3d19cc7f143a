"""Finds weights by the name of a Hugging Face repository, in the hub's cache or by download."""

import contextlib
import hashlib
import pathlib
import re
from collections.abc import Iterator

from dcjax.core.errors import FileError, InputError, MissingFileError
from dcjax.models import pixel_statistics

# The first file that a repository has is used.
_FILES = ("model.safetensors", "pytorch_model.bin")
# torchvision's first ResNet-50 (V1), which both papers start from.
_SHA256 = {
    "timm/resnet50.tv_in1k/model.safetensors": (
        "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888"
    ),
}
_NAME = re.compile(r"(hf-hub:)?[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_name(name: str) -> bool:
    """Returns whether a name has the form owner/name or hf-hub:owner/name."""
    return _NAME.fullmatch(name) is not None


def find(name: str, *, download: bool) -> str:
    """Returns the path of a repository's file of weights, in the hub's cache.

    The cache is searched first, without a network.

    Args:
      name: owner/name or hf-hub:owner/name.
      download: whether a file that is not in the cache may be downloaded.

    Raises:
      MissingFileError: if it is not in the cache and may not be downloaded, or is not on the hub.
      FileError: if the hub cannot be reached.
      InputError: if the file is not the one that was published.
    """
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache  # only when needed

    repository = name.removeprefix("hf-hub:")
    for file in _FILES:
        cached = try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            wrong = _mismatch(cached, repository, file)
            if not wrong:
                return cached
            blob = pathlib.Path(cached).resolve()
            if not download:
                raise InputError(
                    f"The cached {blob} {wrong}; remove it, and allow the download by "
                    "--config.dataset.download=true."
                )
            blob.unlink()
    if download:
        return _download(repository)
    url = hf_hub_url(repository, _FILES[0])
    checksum = _SHA256.get(f"{repository}/{_FILES[0]}")
    raise MissingFileError(
        f"No weights at model.pretrained={name!r}: there is no such file, and no such repository "
        f"in the cache {constants.HF_HUB_CACHE}. Allow the download by "
        f"--config.dataset.download=true, or fetch {url}"
        f"{f' (SHA-256 {checksum})' if checksum else ''} and give its path as model.pretrained."
    )


def _download(repository: str) -> str:
    from huggingface_hub import errors, hf_hub_download, hf_hub_url

    for file in _FILES:
        url = hf_hub_url(repository, file)
        try:
            with _without_warnings():
                path = hf_hub_download(repository, file)
        except errors.RemoteEntryNotFoundError:
            continue
        except Exception as error:  # of the hub, its HTTP client, or the disk
            reason = " ".join(str(error).split())[:300]
            raise FileError(
                f"Cannot download {url}: {type(error).__name__}: {reason} "
                "Try again, or get the file in another way and give its path as model.pretrained."
            ) from None
        if wrong := _mismatch(path, repository, file):
            pathlib.Path(path).resolve().unlink()
            raise InputError(f"{url} {wrong}; the download is removed.")
        for beside in pixel_statistics.FILES:
            # Few repositories have both; without either, the weights can be used all the same.
            with contextlib.suppress(Exception), _without_warnings():
                hf_hub_download(repository, beside)
        return path
    raise MissingFileError(f"The hub's {repository} has none of {', '.join(_FILES)}.")


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keeps the hub from printing each try to reach it; an error says why the last one failed."""
    from huggingface_hub.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _mismatch(path: str, repository: str, file: str) -> str:
    """Returns how the checksum of a cached file is wrong, "" if it is right or not known."""
    # On file systems with links, the cache names a large file by the SHA-256 of the hub.
    blob = pathlib.Path(path).resolve()
    expected = _SHA256.get(f"{repository}/{file}", blob.name)
    with blob.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    is_known = len(expected) == len(digest)
    return (
        f"should have SHA-256 {expected}, got {digest}" if is_known and expected != digest else ""
    )
