"""Know where the GNU loader looks beside a file's own wishes: /etc/ld.so.conf, its default directories, its cache.

Reads configuration through a ``Sysroot``; searches and runs nothing. Sources: ld.so(8), ldconfig(8), glibc's
sysdeps/generic/dl-cache.h (format "glibc-ld.so.cache1.1").
"""

from __future__ import annotations

import re
import struct
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from kubenclave.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kubenclave.image.sysroot import Sysroot

# Built into the loaders of Debian and Ubuntu (multiarch) and of the others (lib64); ``ld.so --help`` prints its own.
DEFAULT_DIRECTORIES = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")

# Distributions ship some dozens of files with some lines each; these bounds only stop a hostile root.
MAX_CONF_FILES = 512
MAX_CONF_DEPTH = 8
MAX_CONF_BYTES = 64 * 1024
MAX_CONF_DIRECTORIES = 1024


def configured_directories(sysroot: Sysroot) -> tuple[str, ...]:
    """Return the directories of /etc/ld.so.conf and what it includes, in the order in which ldconfig reads them.

    A pattern in an ``include`` line is understood in the last part of its path, where distributions use it.

    Raises:
        Refused: There are more files or directories than any distribution has.
    """
    conf = _Conf(sysroot)
    conf.read("/etc/ld.so.conf")
    return tuple(conf.directories)


class _Conf:
    """Walk over the configuration as ldconfig does: an included file is read where it is named."""

    def __init__(self, sysroot: Sysroot) -> None:
        self._sysroot = sysroot
        self._seen: set[str] = set()
        self.directories: dict[str, None] = {}

    def read(self, path: str, depth: int = 0) -> None:
        canonical = self._sysroot.canonical(path)
        if canonical is None or canonical in self._seen or not self._sysroot.source(canonical).is_file():
            return
        self._seen.add(canonical)
        for line in _lines(self._sysroot, canonical):
            word, _, rest = line.partition(" ")
            if word == "include":
                for name in (name for pattern in rest.split() for name in _expand(self._sysroot, pattern, canonical)):
                    self.read(name, depth + 1)
            elif line.startswith("/"):
                self.directories[line.partition("=")[0].rstrip()] = None
            if depth > MAX_CONF_DEPTH or len(self._seen) > MAX_CONF_FILES or len(self.directories) > MAX_CONF_DIRECTORIES:
                raise Refused(
                    f"/etc/ld.so.conf below {self._sysroot.root} names more files or directories than any distribution has.",
                    "Check that --sysroot is the root of a distribution.",
                )


def _lines(sysroot: Sysroot, canonical: str) -> Iterator[str]:
    with sysroot.open(canonical) as file:
        text = file.read(MAX_CONF_BYTES + 1)
    if len(text) > MAX_CONF_BYTES:
        raise Refused(f"{sysroot.source(canonical)} is longer than {MAX_CONF_BYTES} bytes.", "Check that it is a loader configuration.")
    for line in text.decode("utf-8", "replace").splitlines():
        words = line.partition("#")[0].split()
        if words:
            yield " ".join(words)


def _expand(sysroot: Sysroot, pattern: str, including: str) -> list[str]:
    directory, _, last = pattern.rpartition("/")
    if not pattern.startswith("/"):
        directory = f"{including.rpartition('/')[0]}/{directory}"
    # glob(7): a pattern does not match a leading dot.
    return [f"{directory}/{name}" for name in sysroot.names(directory) if fnmatchcase(name, last) and not name.startswith(".")]


_CACHE_MAGIC = b"glibc-ld.so.cache1.1"
_CACHE_LITTLE_ENDIAN = 2
# FLAG_ELF_LIBC6 | FLAG_X8664_LIB64 (sysdeps/generic/ldconfig.h).
_CACHE_X86_64 = 0x0303
_CACHE_HEADER = struct.Struct("<20sIIB3xI12x")
_CACHE_ENTRY = struct.Struct("<iIIIQ")


def cache_file(libraries: Mapping[str, str]) -> bytes:
    """Return an /etc/ld.so.cache that tells the loader where libraries lie that no default directory holds.

    Args:
        libraries: Absolute path by the name under which the library is asked for.
    """
    names = sorted(libraries, key=_cache_order, reverse=True)
    strings = bytearray()
    entries = bytearray()
    base = _CACHE_HEADER.size + len(names) * _CACHE_ENTRY.size
    for name in names:
        key = base + len(strings)
        strings += name.encode() + b"\0"
        value = base + len(strings)
        strings += libraries[name].encode() + b"\0"
        entries += _CACHE_ENTRY.pack(_CACHE_X86_64, key, value, 0, 0)
    header = _CACHE_HEADER.pack(_CACHE_MAGIC, len(names), len(strings), _CACHE_LITTLE_ENDIAN, 0)
    return bytes(header + entries + strings)


def _cache_order(name: str) -> tuple[tuple[int, int], ...]:
    """Order names as the loader's binary search does: digits by their number and above any letter (_dl_cache_libcmp)."""
    parts = re.findall(rb"\d+|\D", name.encode())
    return tuple((1, int(part)) if part.isdigit() else (0, part[0]) for part in parts)
