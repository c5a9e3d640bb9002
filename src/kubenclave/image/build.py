"""Put a host program, its libraries and its enclaves into an image.

Decides what is in the image and where; ``closure`` finds the libraries and ``oci`` writes.
"""

from __future__ import annotations

import posixpath
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave.errors import NotFound, UsageError
from kubenclave.image.closure import Start, find_closure
from kubenclave.image.layer import MAX_FILE_BYTES, Directory, File, FileSize, Link, Role, arrange
from kubenclave.image.ldso import cache_file
from kubenclave.image.oci import LayerSize, RunConfig, Written, write_archive
from kubenclave.image.sysroot import Sysroot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kubenclave.image.closure import Closure
    from kubenclave.image.enclaves import EnclaveInput
    from kubenclave.image.layer import Entry, Report
    from kubenclave.image.reference import Reference

# The user that distroless images call "nonroot"; a number, so that Kubernetes can tell that it is not root (runAsNonRoot).
NON_ROOT_USER = "65532:65532"
APPLICATION_DIRECTORY = "/app"
ANNOTATION_PREFIX = "kubenclave.enclave"
_USER = re.compile(r"([0-9]{1,10})(?::([0-9]{1,10}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedFile:
    """Name a file of this machine and where it goes in the image; a place that ends in ``/`` keeps the file's name."""

    source: Path
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """Say what an image is made of.

    Attributes:
        reference: The image's name.
        host: The program that a container starts; it needs no enclave.
        enclaves: The enclaves that it loads.
        files: Further files.
        command: Its arguments; None gives it the paths of the enclave files in their order.
        sysroot: The system whose libraries it gets.
        user: ``uid:gid`` of its process.
        epoch_seconds: The time that everything in the image bears.
    """

    reference: Reference
    host: Path
    enclaves: tuple[EnclaveInput, ...] = ()
    files: tuple[AddedFile, ...] = ()
    command: tuple[str, ...] | None = None
    sysroot: Path = Path("/")
    user: str = NON_ROOT_USER
    epoch_seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """Hold an image that lies in a file: its name, its manifest's digest, what is in it and how large it is.

    ``compressed_bytes`` is the sum of the layers as a registry keeps them, ``uncompressed_bytes`` as a node unpacks them.
    """

    reference: str
    digest: str
    archive: Path
    files: tuple[FileSize, ...]
    layers: tuple[LayerSize, ...]
    compressed_bytes: int
    uncompressed_bytes: int
    epc_bytes: int
    annotations: dict[str, str]


def build_image(spec: ImageSpec, archive: Path, report: Report) -> BuiltImage:
    """Build an image and write it as an OCI archive; the file is there whole or not at all.

    Args:
        spec: What the image is made of.
        archive: The file to write.
        report: Told in a sentence what is being done.

    Raises:
        NotFound: An input, a library or the archive's directory is not there.
        Refused: An input is damaged or unfit for an image.
        UsageError: The user is not written as numbers, or a place is not absolute.
        HostUnfit: The disk is full or the archive cannot be written.
    """
    user = numeric_user(spec.user)
    report(f"finding the libraries of {spec.host.name}")
    program = File(path=f"{APPLICATION_DIRECTORY}/{spec.host.name}", source=spec.host.resolve(), role=Role.PROGRAM, executable=True)
    found = find_closure([Start(source=spec.host, path=program.path)], Sysroot(spec.sysroot.absolute()))
    enclaves = [_enclave_files(enclave) for enclave in spec.enclaves]
    application = [program, *(file for files in enclaves for file in files), *(_added(file) for file in spec.files)]
    written = write_archive(
        archive,
        reference=spec.reference,
        run=RunConfig(
            entrypoint=(program.path,),
            command=tuple(file.path for files in enclaves for file in files) if spec.command is None else spec.command,
            user=user,
            working_directory=APPLICATION_DIRECTORY,
        ),
        layers=two_layers(library_entries(found), application),
        annotations=enclave_annotations(spec.enclaves),
        epoch_seconds=spec.epoch_seconds,
        report=report,
    )
    return built(written, spec.reference, archive, enclave_annotations(spec.enclaves), sum(item.facts.epc_bytes for item in spec.enclaves))


def two_layers(libraries: Iterable[Entry], application: Iterable[Entry]) -> list[tuple[str, Sequence[Entry]]]:
    """Arrange what seldom changes below what often does, so that a rebuild leaves the lower layer as it was.

    Raises:
        Refused: Two different things want the same path.
    """
    lower, upper = list(libraries), list(application)
    # Arranged together once, so that a path in both layers is found.
    arrange([*lower, *upper])
    return [(comment, arrange(entries)) for comment, entries in (("libraries", lower), ("application", upper)) if entries]


def library_entries(found: Closure) -> list[Entry]:
    """Return the files that a closure puts into an image, with a loader cache where the loader would not look without one."""
    entries: list[Entry] = [
        File(path=item.path, source=item.source, role=Role.LOADER if item.is_loader else Role.LIBRARY, executable=True)
        for item in found.libraries
    ]
    entries += [Link(path=path, target=target) for path, target in found.links.items()]
    entries += [Directory(path=path) for path in found.directories]
    if found.cached:
        entries.append(File(path="/etc/ld.so.cache", source=cache_file(found.cached), role=Role.LOADER))
    return entries


def enclave_annotations(enclaves: Sequence[EnclaveInput]) -> dict[str, str]:
    """Return the annotations by which an image says what its enclaves are: ``kubenclave.enclave.N.mrenclave`` and the like."""
    facts: dict[str, str] = {}
    for number, enclave in enumerate(enclaves):
        identity = enclave.facts.identity
        values = {
            "path": _enclave_files(enclave)[0].path,
            "mrenclave": identity.mrenclave.hex(),
            "mrsigner": identity.mrsigner.hex(),
            "isvprodid": str(identity.isv_prod_id),
            "isvsvn": str(identity.isv_svn),
            "debug-allowed": "true" if identity.debug_allowed else "false",
            "epc-bytes": str(enclave.facts.epc_bytes),
        }
        facts |= {f"{ANNOTATION_PREFIX}.{number}.{name}": value for name, value in values.items()}
    return facts


def built(written: Written, reference: Reference, archive: Path, annotations: Mapping[str, str], epc_bytes: int) -> BuiltImage:
    """Sum up what was written."""
    return BuiltImage(
        reference=str(reference),
        digest=written.manifest.digest,
        archive=archive,
        files=written.files,
        layers=written.layers,
        compressed_bytes=sum(layer.compressed_bytes for layer in written.layers),
        uncompressed_bytes=sum(layer.uncompressed_bytes for layer in written.layers),
        epc_bytes=epc_bytes,
        annotations=dict(annotations),
    )


def numeric_user(text: str) -> str:
    """Return ``uid:gid`` for a user written as ``uid`` or ``uid:gid``.

    Raises:
        UsageError: It is a name, which an image without /etc/passwd cannot resolve.
    """
    match = _USER.fullmatch(text)
    if match is None or any(int(number) >= 2**32 - 1 for number in match.groups() if number):
        raise UsageError(f"{text!r} is no numeric user.", f"Write uid or uid:gid, as in {NON_ROOT_USER}.")
    return f"{int(match[1])}:{int(match[2] or match[1])}"


def source_date_epoch(environment: Mapping[str, str]) -> int:
    """Return the time that everything in an image bears: SOURCE_DATE_EPOCH in seconds, or 0 where it is not set.

    Raises:
        UsageError: It is not a number that the format can hold.
    """
    text = environment.get("SOURCE_DATE_EPOCH") or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 11 and int(text) <= MAX_FILE_BYTES):  # noqa: PLR2004 - octal digits of the field
        raise UsageError(
            f"SOURCE_DATE_EPOCH is {text[:40]!r}, which is no time in seconds since 1970.", "Set it to a whole number or unset it."
        )
    return int(text)


def _enclave_files(enclave: EnclaveInput) -> list[File]:
    return [File(path=f"{APPLICATION_DIRECTORY}/{name}", source=data, role=Role.ENCLAVE) for name, data in enclave.files]


def _added(added: AddedFile) -> File:
    if not added.path.startswith("/"):
        raise UsageError(f"{added.path!r} is no absolute path in the image.", "Begin it with a slash, as in --add ca.pem:/etc/ssl/ca.pem.")
    source = added.source.resolve()
    try:
        mode = source.stat().st_mode
    except OSError as exc:
        raise NotFound(f"{added.source} cannot be read: {exc.strerror}.", "Check the path of the file to add.") from exc
    path = posixpath.join(added.path, added.source.name) if added.path.endswith("/") else added.path
    return File(path=path, source=source, role=Role.FILE, executable=bool(mode & stat.S_IXUSR))
