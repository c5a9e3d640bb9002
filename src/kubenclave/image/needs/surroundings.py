"""Files of the system that a program reads while it runs and no tool sees: certificates, users, name services, time zones, locales.

Each is a switch, off unless asked for. What is the same everywhere is written here; the rest is taken from the system root.
"""

from __future__ import annotations

import posixpath
from enum import StrEnum
from typing import TYPE_CHECKING

from kubenclave.errors import NotFound
from kubenclave.image.layer import Directory, File, Link, Role
from kubenclave.image.tree import tree_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kubenclave.image.layer import Entry
    from kubenclave.image.sysroot import Sysroot


class Surrounding(StrEnum):
    """Name a part of the system around a program.

    CA: the certificate authorities that the system trusts. USERS: /etc/passwd and /etc/group. NSS: how names of hosts and users are looked
    up. RESOLV: /etc/hosts and /etc/resolv.conf, which Kubernetes lays its own over. TZ: the time zones. LOCALE: the system's locales.
    """

    CA = "ca"
    USERS = "users"
    NSS = "nss"
    RESOLV = "resolv"
    TZ = "tz"
    LOCALE = "locale"


# Where Debian and Ubuntu keep their bundle; Fedora and its kin; Alpine.
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_BUNDLE = _BUNDLES[0]
# The file that OpenSSL itself reads: OPENSSLDIR/cert.pem, where OPENSSLDIR is /usr/lib/ssl (Debian), /etc/pki/tls (Fedora), /etc/ssl.
_OPENSSL_FILES = ("/usr/lib/ssl/cert.pem", "/etc/pki/tls/cert.pem", "/etc/ssl/cert.pem")
# Before 2.34 glibc opened these by name; since then they are part of it, and the files that are left are empty.
_NSS_LIBRARIES = ("libnss_files.so.2", "libnss_dns.so.2")
_ZONES = "/usr/share/zoneinfo"
# The same zones again, by other rules for leap seconds; and a link to the machine's own zone.
_ZONES_LEFT_OUT = frozenset({"posix", "right", "localtime"})
_LOCALES = ("/usr/lib/locale/locale-archive", "/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8")

_NSSWITCH = b"passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"
_HOSTS = b"127.0.0.1 localhost\n::1 localhost\n"
_RESOLV = b"# Laid over by whoever runs the container.\n"


def surrounding_entries(wanted: Iterable[Surrounding], sysroot: Sysroot, user: str) -> list[Entry]:
    """Return the files of the wanted surroundings.

    Args:
        wanted: Which ones.
        sysroot: The system from which they are taken.
        user: ``uid:gid`` of the image's process.

    Raises:
        NotFound: The system root does not have them.
    """
    made: dict[Surrounding, Callable[[], Iterable[Entry]]] = {
        Surrounding.CA: lambda: _certificates(sysroot),
        Surrounding.USERS: lambda: _users(user),
        Surrounding.NSS: lambda: [File(path="/etc/nsswitch.conf", source=_NSSWITCH, role=Role.FILE)],
        Surrounding.RESOLV: lambda: [
            File(path="/etc/hosts", source=_HOSTS, role=Role.FILE),
            File(path="/etc/resolv.conf", source=_RESOLV, role=Role.FILE),
        ],
        Surrounding.TZ: lambda: _time_zones(sysroot),
        Surrounding.LOCALE: lambda: _locales(sysroot),
    }
    return [entry for one in Surrounding if one in set(wanted) for entry in made[one]()]


def surrounding_libraries(wanted: Iterable[Surrounding], sysroot: Sysroot) -> list[str]:
    """Return the libraries that the wanted surroundings are looked up with, where the system has them apart from glibc."""
    if Surrounding.NSS not in set(wanted):
        return []
    directories = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64")
    return [name for name in _NSS_LIBRARIES if any(sysroot.canonical(f"{directory}/{name}") for directory in directories)]


def _certificates(sysroot: Sysroot) -> Iterator[Entry]:
    found = next((canonical for path in _BUNDLES if (canonical := _file(sysroot, path))), None)
    if found is None:
        raise NotFound(
            f"There is no bundle of certificate authorities below {sysroot.root} (looked for {', '.join(_BUNDLES)}).",
            "Install the package ca-certificates there, or add your own: --add ca.pem:/etc/ssl/certs/ca-certificates.crt.",
        )
    yield File(path=_BUNDLE, source=sysroot.source(found), role=Role.FILE)
    for path in _OPENSSL_FILES:
        yield Link(path=path, target=posixpath.relpath(_BUNDLE, posixpath.dirname(path)))


def _users(user: str) -> Iterator[Entry]:
    uid, _, gid = user.partition(":")
    people = [("root", "0", "0", "/root"), ("nobody", "65534", "65534", "/nonexistent")]
    if uid not in ("0", "65534"):
        people.insert(1, ("app", uid, gid, "/app"))
    groups = {"0": "root", "65534": "nogroup"} | ({gid: "app"} if gid not in ("0", "65534") else {})
    passwd = "".join(f"{name}:x:{uid}:{gid}::{home}:/sbin/nologin\n" for name, uid, gid, home in people)
    yield File(path="/etc/passwd", source=passwd.encode(), role=Role.FILE)
    yield File(path="/etc/group", source="".join(f"{name}:x:{gid}:\n" for gid, name in groups.items()).encode(), role=Role.FILE)


def _time_zones(sysroot: Sysroot) -> list[Entry]:
    directory = sysroot.canonical(_ZONES)
    if directory is None or not sysroot.source(directory).is_dir():
        raise NotFound(f"There are no time zones below {sysroot.root} ({_ZONES}).", "Install the package tzdata there.")
    return tree_entries(sysroot.source(directory), _ZONES, left_out=_ZONES_LEFT_OUT)


def _locales(sysroot: Sysroot) -> list[Entry]:
    for path in _LOCALES:
        found = sysroot.canonical(path)
        if found is not None and sysroot.source(found).is_file():
            return [File(path=path, source=sysroot.source(found), role=Role.FILE)]
        if found is not None and sysroot.source(found).is_dir():
            return [Directory(path=path), *tree_entries(sysroot.source(found), path)]
    raise NotFound(f"There are no locales below {sysroot.root} (/usr/lib/locale).", "Install the packages libc-bin or locales there.")


def _file(sysroot: Sysroot, path: str) -> str | None:
    found = sysroot.canonical(path)
    return found if found is not None and sysroot.source(found).is_file() else None
