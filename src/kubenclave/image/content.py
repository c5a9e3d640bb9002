"""Decide what is in an image and where: program, libraries, enclaves, added files, surroundings, in layers.

Reads the files that it is told of, through ``closure`` and ``tree``; writes nothing.
"""

from __future__ import annotations

import posixpath
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError, NotFound
from kubenclave.image.closure import Start, find_closure
from kubenclave.image.elf import NotElf, OtherMachine, dynamic_names, read_elf
from kubenclave.image.layer import CutFile, Directory, Entry, File, Link, Role, arrange
from kubenclave.image.ldso import cache_file
from kubenclave.image.needs.findings import Finding, find_findings
from kubenclave.image.needs.rules import opened
from kubenclave.image.needs.surroundings import surrounding_entries, surrounding_libraries
from kubenclave.image.needs.words import NO_WORDS, Words, imported, read_words
from kubenclave.image.oci.documents import RunConfig
from kubenclave.image.spec import APPLICATION_DIRECTORY, absolute, image_variables, numeric_user
from kubenclave.image.strip import stripped
from kubenclave.image.sysroot import Sysroot, open_regular
from kubenclave.image.tree import tree_entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kubenclave.image.closure import Absent, Closure
    from kubenclave.image.enclaves import EnclaveInput
    from kubenclave.image.needs.rules import Opened
    from kubenclave.image.spec import AddedFile, ImageSpec

    Layers = list[tuple[str, Sequence[Entry]]]

ANNOTATION_PREFIX = "kubenclave.enclave"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Hold what an image is to be: its layers, how it starts, what it says of itself, and what is worth telling its maker."""

    layers: Layers
    run: RunConfig
    annotations: dict[str, str]
    findings: tuple[Finding, ...]
    absent: tuple[Absent, ...]
    saved_bytes: int


def image_content(spec: ImageSpec) -> Content:
    """Decide what is in an image.

    Raises:
        NotFound: An input or a library is not there.
        Refused: An input is damaged or unfit for an image.
        UsageError: The user is not written as numbers, a place is not absolute, or a variable has no fit name.
    """
    user = numeric_user(spec.user)
    variables = image_variables(spec.environment)
    directory = absolute(spec.working_directory, "--workdir /app")
    sysroot = Sysroot(spec.sysroot.absolute().resolve())
    program = File(path=f"{APPLICATION_DIRECTORY}/{spec.host.name}", source=spec.host.resolve(), role=Role.PROGRAM, executable=True)
    added = [entry for item in spec.files for entry in _added(item)]
    surroundings = surrounding_entries(spec.surroundings, sysroot, user)
    needs = _Needs(spec)
    closure = find_closure(
        [Start(source=spec.host, path=program.path), *_code(added)],
        sysroot,
        libraries=[*spec.libraries, *surrounding_libraries(spec.surroundings, sysroot)],
        opened_by=needs.opened_by,
        allow_missing=spec.allow_missing,
    )
    enclaves = [_enclave_files(enclave) for enclave in spec.enclaves]
    below, middle = [*library_entries(closure), *surroundings], [program, *added]
    if spec.strip:
        below, middle = stripped(below), stripped(middle)
    working = [Directory(path=directory)] if directory not in ("/", APPLICATION_DIRECTORY) else []
    paths = tuple(file.path for files in enclaves for file in files)
    return Content(
        layers=layered(libraries=below, application=[*middle, *working], enclaves=[file for files in enclaves for file in files]),
        run=RunConfig(
            entrypoint=spec.entrypoint or (program.path,),
            command=paths if spec.command is None else spec.command,
            user=user,
            working_directory=directory,
            environment=variables,
        ),
        annotations=enclave_annotations(spec.enclaves),
        findings=find_findings(spec.host.name, needs.words, surroundings=spec.surroundings, closure=closure),
        absent=closure.absent,
        saved_bytes=sum(
            entry.source.saved_bytes for entry in (*below, *middle) if isinstance(entry, File) and isinstance(entry.source, CutFile)
        ),
    )


class _Needs:
    """Reads the words in each file once: for what it opens by name, and for the findings about the program."""

    def __init__(self, spec: ImageSpec) -> None:
        self._environment = frozenset(spec.environment or ())
        self.words = NO_WORDS

    def opened_by(self, source: Path, is_program: bool) -> tuple[Opened, ...]:
        with open_regular(source) as file:
            words: Words = read_words(file, only_runtimes=not is_program)
            if is_program:
                words = replace(words, imports=imported(dynamic_names(file, str(source))))
                self.words |= words
        return opened(words, is_program=is_program, environment=self._environment)


def layered(
    *, libraries: Iterable[Entry], application: Iterable[Entry], enclaves: Iterable[Entry] = ()
) -> list[tuple[str, Sequence[Entry]]]:
    """Arrange what seldom changes below what often does, so that a rebuild leaves the lower layers as they were.

    Raises:
        Refused: Two different things want the same path.
    """
    layers = {"libraries": list(libraries), "application": list(application), "enclaves": list(enclaves)}
    # Arranged together once, so that a path in two layers is found.
    arrange([entry for entries in layers.values() for entry in entries])
    return [(comment, arrange(entries)) for comment, entries in layers.items() if entries]


def library_entries(found: Closure) -> list[Entry]:
    """Return the files that a closure puts into an image, with a loader cache where the loader would not look without one."""
    entries: list[Entry] = [
        File(
            path=item.path,
            source=item.source,
            role=Role.LOADER if item.is_loader else Role.ENCLAVE if item.is_enclave else Role.LIBRARY,
            executable=not item.is_enclave,
        )
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
            "threads": str(enclave.facts.threads),
            "format": enclave.facts.format,
        }
        facts |= {f"{ANNOTATION_PREFIX}.{number}.{name}": value for name, value in values.items()}
    return facts


def _enclave_files(enclave: EnclaveInput) -> list[File]:
    return [File(path=f"{APPLICATION_DIRECTORY}/{name}", source=source, role=Role.ENCLAVE) for name, source in enclave.files]


def _added(added: AddedFile) -> list[Entry]:
    absolute(added.path, "--add ca.pem:/etc/ssl/ca.pem")
    source = added.source.resolve()
    try:
        mode = source.stat().st_mode
    except OSError as exc:
        raise NotFound(f"{added.source} cannot be read: {exc.strerror}.", "Check the path of the file to add.") from exc
    path = posixpath.join(added.path, added.source.name) if added.path.endswith("/") else added.path
    if stat.S_ISDIR(mode):
        return tree_entries(source, path)
    return [File(path=path, source=source, role=Role.FILE, executable=bool(mode & stat.S_IXUSR))]


def _code(entries: Iterable[Entry]) -> Iterator[Start]:
    """Yield what of the added files the loader could load; the rest is data."""
    for entry in entries:
        if not isinstance(entry, File) or not isinstance(entry.source, Path):
            continue
        with open_regular(entry.source) as file:
            try:
                facts = read_elf(file, str(entry.source))
            except (NotElf, OtherMachine, KubenclaveError):
                continue
        if facts.dynamic:
            yield Start(source=entry.source, path=entry.path)
