"""The on-disk cache of compiled programs: one file each, with object code, found by a hash of everything it depends on.

A file holds a digest of its content and the key it was written for; one that does not check out is removed and the program
is compiled. Files appear complete or not at all, so that any number of processes may read, write and evict at once.
Nothing is unpickled: what is read is JSON and an object file, from a folder that only its owner can write to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import struct
import sys
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

from iam.compiler import _object

__all__ = ["cache_info", "clear_cache", "key_of", "load", "store"]

_MAGIC = b"IAMPROG2"
_LIMIT_MB = 64.0
_STALE = 3600.0  # seconds after which a temporary file belongs to a writer that died
_SUFFIX = ".iamobj"
_PART = ".part"

_lock = threading.Lock()
_counters = {"hits": 0, "misses": 0, "stored": 0, "damaged": 0, "evicted": 0}


def _count(name: str) -> None:
    with _lock:
        _counters[name] += 1


def _folder() -> tuple[Path | None, str | None]:
    """Where the cache is, or why there is none. Read at every use: a program may set the environment."""
    if os.environ.get("IAM_CACHE", "1").strip().lower() in ("0", "off", "no", "false"):
        return None, "IAM_CACHE turns it off"
    reason = _object.supported()
    if reason is not None:
        return None, reason
    given = os.environ.get("IAM_CACHE_DIR", "")
    if given:
        return Path(given) / "programs", None
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "iam" / "programs", None
    except RuntimeError:
        return None, "there is no home directory; set IAM_CACHE_DIR"


def _limit() -> int:
    try:
        megabytes = float(os.environ.get("IAM_CACHE_MB", ""))
    except ValueError:
        megabytes = _LIMIT_MB
    return int(megabytes * 1e6)


def _check_folder(folder: Path) -> str | None:
    """Code is run from there: it must be ours, and nobody else's to write."""
    try:
        found = os.lstat(folder)
    except OSError as error:
        return f"{folder} cannot be read: {error.strerror}"
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is no folder"
    if found.st_uid != os.geteuid():
        return f"{folder} belongs to another user"
    if found.st_mode & 0o022:
        return f"others may write into {folder}; chmod 700 it"
    return None


# Keys.


@cache
def _cpu() -> str:
    """What LLVM's choice of instructions depends on."""
    wanted = ("vendor_id", "cpu family", "model", "stepping", "flags")
    found: dict[str, str] = {}
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            name, _, value = line.partition(":")
            if not name.strip() and found:
                break
            if name.strip() in wanted:
                found[name.strip()] = " ".join(sorted(value.split()))
    return json.dumps(found, sort_keys=True)


@cache
def _build() -> list[Any]:
    """Which compiler and runtime these are: version, and size and time of every file that decides what is generated."""
    from iam._tools import install_root, runtime_library

    # The version from the name of the folder: importlib.metadata takes longer to import than a program to load.
    version = sorted(path.name for path in install_root().parent.glob("iam-*.dist-info"))
    files = [runtime_library(), *sorted((install_root() / "mlir" / "_mlir_libs").glob("lib*.so"))]
    files += [Path(__file__).with_name(name) for name in ("_builder.py", "_engine.py", "_object.py", "_recorded.py")]
    stamps = [(file.name, found.st_size, found.st_mtime_ns) for file in files for found in [file.stat()]]
    return [version, sys.byteorder, *stamps]


def key_of(program: str, options: str) -> str:
    """The key of a program: its text, the options of the passes, the CPU and its level, the version of IAM and of MLIR."""
    from iam.core.lazy import native

    parts = [_MAGIC.decode(), program, options, _cpu(), native().cpu_level(), _build()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# Files.


def _pack(key: str, code: bytes, note: str = "") -> bytes:
    header = json.dumps({"key": key, "size": len(code), "note": note}).encode()
    body = struct.pack("<I", len(header)) + header + code
    return _MAGIC + hashlib.sha256(body).digest() + body


def _unpack(key: str, data: bytes) -> bytes | None:
    """The code, or None if this is not what was written under that key."""
    found = _unpack_all(key, data)
    return None if found is None else found[0]


def _unpack_all(key: str, data: bytes) -> tuple[bytes, str] | None:
    """The code and its note, or None."""
    start = len(_MAGIC) + 32
    body = data[start:]
    if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != data[len(_MAGIC) : start]:
        return None
    (length,) = struct.unpack_from("<I", body)
    try:
        header = json.loads(body[4 : 4 + length])
    except ValueError:
        return None
    code = body[4 + length :]
    if not isinstance(header, dict) or not isinstance(note := header.pop("note", None), str):
        return None
    return (code, note) if header == {"key": key, "size": len(code)} else None


def _read(path: Path) -> bytes | None:
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return None
        try:
            return file.read()
        except OSError:
            return None


def load(key: str) -> _object.Image | None:
    """The code that is kept under ``key``, ready to run; None if there is none."""
    folder, _ = _folder()
    if folder is None or not folder.is_dir() or _check_folder(folder) is not None:
        return None
    path = folder / (key + _SUFFIX)
    data = _read(path)
    if data is None:
        _count("misses")
        return None
    found = _unpack_all(key, data)
    image = None
    if found is not None:
        with contextlib.suppress(_object.ObjectError, OSError, ValueError):
            image = _object.load_object(found[0])
            image.note = found[1]
    if image is None:
        _count("damaged")
        _count("misses")
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    _count("hits")
    with contextlib.suppress(OSError):
        os.utime(path)  # the least recently used is evicted first
    return image


def store(key: str, code: bytes, note: str = "") -> None:
    """Keep ``code``, and what has to be known of it, under ``key``. A cache that cannot be written is no error."""
    folder, _ = _folder()
    if folder is None:
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _check_folder(folder) is not None:
            return
        _object.load_object(code)  # only what can be loaded again
        handle, name = tempfile.mkstemp(suffix=_PART, dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_pack(key, code, note))
            os.replace(name, folder / (key + _SUFFIX))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except (OSError, ValueError, _object.ObjectError):
        return
    _count("stored")
    _evict(folder)


def _entries(folder: Path) -> list[tuple[float, int, str]]:
    """``(time of last use, size, path)`` of every program; removes what dead writers left."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as listing:
        for entry in listing:
            with contextlib.suppress(OSError):  # another process was faster
                about = entry.stat(follow_symlinks=False)
                if entry.name.endswith(_SUFFIX):
                    found.append((about.st_mtime, about.st_size, entry.path))
                elif entry.name.endswith(_PART) and time.time() - about.st_mtime > _STALE:
                    os.unlink(entry.path)
    return found


def _evict(folder: Path) -> None:
    """Remove the least recently used programs until three quarters of the limit are left, if there are more than it."""
    entries, limit = sorted(_entries(folder)), _limit()
    total = sum(size for _, size, _ in entries)
    if total <= limit:
        return
    for _, size, path in entries:
        if total <= limit * 3 // 4:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
            _count("evicted")
        total -= size


def cache_info() -> dict[str, Any]:
    """The on-disk cache of compiled programs: where it is, what is in it, and what this process did with it.

    Returns:
        ``dir`` (or None), ``enabled``, ``reason`` (why it is not), ``programs``, ``bytes``, ``limit_bytes``, and counters of
        this process: ``hits``, ``misses``, ``stored``, ``damaged`` (files that were removed), ``evicted``.
    """
    folder, reason = _folder()
    if reason is None and folder is not None and folder.exists():
        reason = _check_folder(folder)
    entries = _entries(folder) if folder is not None and reason is None else []
    with _lock:
        counters = dict(_counters)
    return {
        "dir": None if folder is None else str(folder),
        "enabled": reason is None,
        "reason": reason,
        "programs": len(entries),
        "bytes": sum(size for _, size, _ in entries),
        "limit_bytes": _limit(),
        **counters,
    }


def clear_cache() -> int:
    """Remove every program from the on-disk cache; how many there were. What this process has compiled stays usable."""
    folder, reason = _folder()
    removed = 0
    if folder is None or reason is not None:
        return 0
    for _, _, path in _entries(folder):
        with contextlib.suppress(OSError):
            os.unlink(path)
            removed += 1
    return removed
