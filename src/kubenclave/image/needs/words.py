"""Find the words in a compiled file that tell what it opens while it runs.

Reads a stream from front to back in bounded memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Code and constants of the largest programs (browsers, databases) lie below; what lies behind is data.
MAX_SCANNED_BYTES = 512 * 1024 * 1024
_CHUNK_BYTES = 1 << 20
# No match is longer, so each is whole in one of two chunks that overlap by as much.
_OVERLAP_BYTES = 256

_LIBRARY = rb"lib[A-Za-z0-9_][A-Za-z0-9_.+-]{0,100}?\.so(?:\.[0-9]{1,6}){0,4}(?![A-Za-z0-9_.+-])"
# What glibc and TLS libraries export for looking into the system.
_IMPORTS = frozenset(
    {
        *(b"getaddrinfo", b"gethostbyname", b"gethostbyname_r", b"gethostbyname2_r", b"getservbyname", b"res_query", b"__res_query"),
        *(b"getpwnam", b"getpwnam_r", b"getpwuid", b"getpwuid_r", b"getgrnam", b"getgrnam_r", b"getgrgid", b"getgrgid_r", b"getpwent"),
        *(b"localtime", b"localtime_r", b"tzset", b"mktime"),
        *(b"setlocale", b"newlocale", b"iconv_open", b"bindtextdomain"),
        *(b"SSL_CTX_set_default_verify_paths", b"X509_STORE_set_default_paths", b"X509_get_default_cert_file"),
        *(b"gnutls_certificate_set_x509_system_trust", b"curl_easy_init"),
        *(b"dlopen", b"dlmopen", b"pthread_cancel", b"pthread_exit"),
    }
)
_PATHS = (
    *(b"/etc/ssl/certs/ca-certificates.crt", b"/etc/pki/tls/certs/ca-bundle.crt", b"/etc/ssl/cert.pem"),
    *(b"/etc/nsswitch.conf", b"/etc/resolv.conf", b"/etc/hosts", b"/etc/passwd", b"/etc/group"),
    *(b"/usr/share/zoneinfo", b"/etc/localtime", b"/usr/lib/locale", b"/var/run/aesmd/aesm.socket", b"/etc/sgx_default_qcnl.conf"),
)
_PATH_BEGINS = (b"/etc/", b"/usr/share/zoneinfo", b"/usr/lib/locale", b"/var/run/aesmd")
_LIBRARIES = re.compile(_LIBRARY)
_RUNTIMES = (b"libsgx_", b"libdcap_")
"""What the names of all libraries that enclave runtimes open begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Hold what stands in a file: names of libraries, imported functions, paths of the system."""

    libraries: frozenset[str]
    imports: frozenset[str]
    paths: frozenset[str]

    def __or__(self, other: Words) -> Words:
        return Words(libraries=self.libraries | other.libraries, imports=self.imports | other.imports, paths=self.paths | other.paths)


NO_WORDS = Words(libraries=frozenset(), imports=frozenset(), paths=frozenset())


def imported(names: Iterable[bytes]) -> frozenset[str]:
    """Return those of a file's dynamic names that tell what it looks up in the system."""
    return frozenset(name.decode("ascii") for name in _IMPORTS.intersection(names))


def read_words(stream: IO[bytes], *, only_runtimes: bool = False) -> Words:
    """Return the words in a file but its imports, of at most ``MAX_SCANNED_BYTES`` of it.

    Args:
        stream: The file.
        only_runtimes: Look for names of libraries of enclave runtimes alone.
    """
    libraries: set[str] = set()
    paths: set[str] = set()
    stream.seek(0)
    carried = b""
    left = MAX_SCANNED_BYTES
    while data := stream.read(min(_CHUNK_BYTES, left)):
        left -= len(data)
        buffer = carried + data
        # First what the words begin with: most of a program holds none, and a search for one literal runs at gigabytes a second.
        if any(begin in buffer for begin in (_RUNTIMES if only_runtimes else (b"lib",))):
            libraries |= _library_names(buffer, begins=not carried, ends=len(data) < _CHUNK_BYTES)
        if not only_runtimes and any(begin in buffer for begin in _PATH_BEGINS):
            paths.update(path.decode("ascii") for path in _PATHS if path in buffer)
        carried = buffer[-_OVERLAP_BYTES:]
    return Words(libraries=frozenset(libraries), imports=frozenset(), paths=frozenset(paths))


def _library_names(buffer: bytes, *, begins: bool, ends: bool) -> frozenset[str]:
    """Find names in a chunk; what begins where the overlap does was whole in the last one, what ends where this does is in the next."""
    return frozenset(
        match[0].decode("ascii")
        for match in _LIBRARIES.finditer(buffer)
        if (match.start() > 0 or begins) and (match.end() < len(buffer) or ends)
    )
