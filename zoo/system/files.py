"""Files that are whole or not there: everything the zoo writes goes to a temporary name and is renamed."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import platformdirs

from zoo.errors import ArtifactError, UnwritableError

_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT,
             errno.ENAMETOOLONG, errno.ELOOP)  # fmt: skip


LONGEST_NAME = 255
"""Bytes that a file's name may have."""
_TEMPORARY = re.compile(r"^\.part-\d+-")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that takes its place when the block ends well.

    The block may create a file or a folder there. When it fails, nothing of it stays and what was at ``path``
    is untouched.

    Raises:
        ArtifactError: The disk is full.
        UnwritableError: The folder cannot be written, the name is too long, or a folder or file is in the way.
    """
    temporary = path.with_name(f".part-{os.getpid()}-{_shortened(path.name)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except ArtifactError:
        raise  # explained already, where one such file is written inside another's block
    except Exception as error:
        explained = explain_write_error(error, path)
        if explained is None:
            raise
        raise explained from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(FileNotFoundError, NotADirectoryError):
                temporary.unlink()


def _shortened(name: str) -> str:
    """Return a name that leaves room for a prefix; its end stays, since writers choose the format by the suffix."""
    if len(os.fsencode(name)) <= LONGEST_NAME - 40:
        return name
    return f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}-{name[-40:]}"


def explain_write_error(error: Exception, path: Path) -> ArtifactError | None:
    """Return what to tell the user when writing ``path`` failed for want of space or rights, else ``None``."""
    path = path.with_name(_TEMPORARY.sub("", path.name))
    # safetensors reports a failed write as its own error, with the system's words inside.
    code = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in text or "File too large" in text:
        return ArtifactError(f"No space left to write {path}. Free some and run the same command again.")
    if code == errno.ENOENT and not _concerns(error, path):
        return None
    if code in _NO_PLACE or "Permission denied" in text:
        reason = os.strerror(code or errno.EACCES)
        return UnwritableError(f"{path} cannot be written ({reason}); choose another folder or name.")
    return None


def _concerns(error: Exception, path: Path) -> bool:
    """Tell whether a system's error is about ``path``, a folder above it or a sibling, not about what was read."""
    named = getattr(error, "filename", None)
    return named is not None and (path.is_relative_to(named) or Path(named).parent == path.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as a whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def refuse_newer(path: Path, number: int, known: int) -> None:
    """Refuse a file whose format is newer than this version knows.

    Args:
        path: The file.
        number: Its format.
        known: The newest format that can be read.

    Raises:
        ArtifactError: With both numbers.
    """
    if number > known:
        raise ArtifactError(
            f"{path} has format {number}; this version of mri-zoo knows up to {known}. Update: pip install -U mri-zoo"
        )


@contextmanager
def locked(folder: Path, busy: str | None = None) -> Iterator[None]:
    """Keep other processes out of a folder, which is made where it is missing.

    The system frees the lock when the process ends, however it ends.

    Args:
        folder: Gets the file ``.lock``.
        busy: What the user is told where another process holds the lock; ``None``: wait for that process.

    Raises:
        ArtifactError: Another process holds the lock and ``busy`` is given, or the folder cannot be written.
    """
    lock = filelock.FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=busy is None)
    except filelock.Timeout:
        raise ArtifactError(busy) from None
    except OSError as error:
        raise explain_write_error(error, folder) or error from error
    try:
        yield
    finally:
        lock.release()


@functools.lru_cache(maxsize=4096)
def _sha256(path: Path, _size: int, _modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file; a file that has not changed is read once per process."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


def cache_folder() -> Path:
    """Return the user's cache folder for packed images and phantoms (``ZOO_CACHE`` moves it)."""
    return Path(os.environ.get("ZOO_CACHE") or platformdirs.user_cache_dir("mri-zoo"))
