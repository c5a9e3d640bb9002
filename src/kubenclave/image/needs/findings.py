"""Say what a program seems to need beside what is in its image: suggestions, not errors.

Pure: words in, sentences out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.image.needs.rules import is_known
from kubenclave.image.needs.surroundings import Surrounding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from kubenclave.image.closure import Absent, Closure
    from kubenclave.image.needs.words import Words

# What glibc opens by itself, and so names in every program that is linked with it statically.
_GLIBC = frozenset({"libc.so.6", "libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2", "libpthread.so.0", "libdl.so.2"})
# A program that names more is a tool for libraries, not a user of them.
_MAX_NAMES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Hold what was noticed and what can be done about it."""

    what: str
    hint: str

    def __str__(self) -> str:
        return f"{self.what} {self.hint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sign:
    surrounding: Surrounding
    what: str
    imports: frozenset[str]
    paths: frozenset[str]


_SIGNS = (
    _Sign(
        surrounding=Surrounding.CA,
        what="checks certificates against those that the system trusts",
        imports=frozenset(
            {
                "SSL_CTX_set_default_verify_paths",
                "X509_STORE_set_default_paths",
                "X509_get_default_cert_file",
                "gnutls_certificate_set_x509_system_trust",
                "curl_easy_init",
            }
        ),
        paths=frozenset({"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"}),
    ),
    _Sign(
        surrounding=Surrounding.USERS,
        what="looks up users or groups",
        imports=frozenset(
            {"getpwnam", "getpwnam_r", "getpwuid", "getpwuid_r", "getgrnam", "getgrnam_r", "getgrgid", "getgrgid_r", "getpwent"}
        ),
        paths=frozenset({"/etc/passwd", "/etc/group"}),
    ),
    _Sign(
        surrounding=Surrounding.NSS,
        what="looks up names of hosts",
        imports=frozenset({"getaddrinfo", "gethostbyname", "gethostbyname_r", "gethostbyname2_r"}),
        paths=frozenset({"/etc/nsswitch.conf"}),
    ),
    _Sign(
        surrounding=Surrounding.RESOLV,
        what="reads the addresses of name servers or hosts, which Kubernetes provides and a plain runtime may not",
        imports=frozenset({"getaddrinfo", "gethostbyname", "gethostbyname_r", "gethostbyname2_r", "res_query", "__res_query"}),
        paths=frozenset({"/etc/resolv.conf", "/etc/hosts"}),
    ),
    _Sign(
        surrounding=Surrounding.TZ,
        what="converts between UTC and local time, which is UTC without time zones",
        imports=frozenset({"localtime", "localtime_r", "tzset", "mktime"}),
        paths=frozenset({"/usr/share/zoneinfo", "/etc/localtime"}),
    ),
    _Sign(
        surrounding=Surrounding.LOCALE,
        what="asks for a locale, which is C without any",
        imports=frozenset({"setlocale", "newlocale", "bindtextdomain"}),
        # The path is in every program that is linked statically with glibc.
        paths=frozenset(),
    ),
)

_AESM_SOCKET = "/var/run/aesmd/aesm.socket"
_QCNL = "/etc/sgx_default_qcnl.conf"


def find_findings(program: str, words: Words, *, surroundings: Collection[Surrounding], closure: Closure) -> tuple[Finding, ...]:
    """Return what is worth telling about a program's image.

    Args:
        program: Its name.
        words: What stands in the program and the files that came with it.
        surroundings: What the image has of the system already.
        closure: The libraries that it has.
    """
    return (
        *_missing_surroundings(program, words, surroundings),
        *_unknown_libraries(program, words, closure),
        *_absent(closure.absent),
        *_attestation(closure, words),
    )


def _missing_surroundings(program: str, words: Words, surroundings: Collection[Surrounding]) -> Iterator[Finding]:
    for sign in _SIGNS:
        seen = sorted((words.imports & sign.imports) | (words.paths & sign.paths))
        if seen and sign.surrounding not in surroundings:
            yield Finding(what=f"{program} {sign.what} ({', '.join(seen[:3])}).", hint=f"If it does: --with {sign.surrounding.value}.")


def _unknown_libraries(program: str, words: Words, closure: Closure) -> Iterator[Finding]:
    if "dlopen" not in words.imports and "dlmopen" not in words.imports:
        return
    have = {name for item in closure.libraries for name in (item.path.rpartition("/")[2], item.source.name)} | {
        path.rpartition("/")[2] for path in closure.links
    }
    names = sorted(name for name in words.libraries if not is_known(name) and name not in have | _GLIBC)
    if 0 < len(names) <= _MAX_NAMES:
        yield Finding(
            what=f"{program} holds names of libraries that it may open while it runs: {', '.join(names)}.",
            hint="If it does: --library NAME.",
        )


def _absent(absent: Collection[Absent]) -> Iterator[Finding]:
    for one in absent:
        yield Finding(what=f"{one}.", hint="That was allowed, or it is needed in some places only.")


def _attestation(closure: Closure, words: Words) -> Iterator[Finding]:
    names = {item.path.rpartition("/")[2] for item in closure.libraries} | {path.rpartition("/")[2] for path in closure.links}
    if "libsgx_quote_ex.so.1" in names or _AESM_SOCKET in words.paths:
        yield Finding(
            what="Quotes come from the AESM service outside the container.",
            hint=f"Mount its socket's directory /var/run/aesmd into the pod; the socket is {_AESM_SOCKET}.",
        )
    if any(name.startswith("libdcap_quoteprov.so") for name in names):
        intel = any(name.startswith("libsgx_default_qcnl") for name in names)
        flavour = "Intel's, which reads " + _QCNL if intel else "not Intel's (the one of Azure's DCAP client has the same name)"
        yield Finding(
            what=f"The provider of quote collateral (libdcap_quoteprov) is {flavour}.",
            hint=f"Add its configuration: --add {_QCNL}:{_QCNL}."
            if intel
            else "Two exist under one name: check that it is the one you mean.",
        )
