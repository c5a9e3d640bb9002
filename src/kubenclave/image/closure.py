"""Find every library that a program needs, as the GNU loader would, without running anything.

Decides by the rules of ld.so(8) and glibc's elf/dl-load.c; reads through a ``Sysroot`` only. What a program opens by name while it runs
(dlopen) is not in an ELF file's list of needs; the caller says what that is (``needs``), and it is looked for by the same rules.
"""

from __future__ import annotations

import posixpath
import re
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave.errors import NotFound, Refused
from kubenclave.image.elf import ElfFacts, NotElf, OtherMachine, read_elf
from kubenclave.image.ldso import DEFAULT_DIRECTORIES, configured_directories
from kubenclave.image.sysroot import Sysroot

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from kubenclave.image.needs.rules import Opened

    OpenedBy = Callable[[Path, bool], Sequence[Opened]]

# The largest desktop programs load some 250 libraries.
MAX_LIBRARIES = 2000
# Enough for a person to see what kind of thing is missing.
MAX_MISSING_NAMED = 8
# Names times directories that may be looked at: 2000 libraries with ten needs in ten directories each.
MAX_PROBES = 200_000

_TOKEN = re.compile(r"\$\{?(ORIGIN|LIB|PLATFORM)\b\}?")
# $LIB is "lib/x86_64-linux-gnu" in the loaders of Debian and Ubuntu and "lib64" elsewhere.
_LIB_DIRECTORIES = ("lib/x86_64-linux-gnu", "lib64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Name a file whose needs are wanted: where it lies on this machine and where it will lie in the image."""

    source: Path
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """Hold one file that the loader opens.

    ``path`` is where the loader looks for it in the image, ``wanted_by`` the paths of the files that ask for it. ``is_enclave``: it is
    opened as an enclave, not by the loader.
    """

    source: Path
    path: str
    wanted_by: tuple[str, ...]
    is_loader: bool
    is_enclave: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """Hold a library that is not there, who wants it, and what does not work without it."""

    name: str
    wanted_by: str
    breaks: str

    def __str__(self) -> str:
        if not self.breaks:
            return f"{self.wanted_by} needs {self.name}, which was not found; without it, the program does not start"
        return f"{self.wanted_by} opens {self.name} by name, which was not found; without it, {self.breaks}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """Hold what a program needs beside itself.

    ``links`` gives the path of a file by a further path at which the loader finds it, ``cached`` by the name asked for where the loader
    finds it only through its cache; ``directories`` are those that must exist for a path with ``..`` in it to be walked. ``absent`` are
    libraries that may be missing.
    """

    libraries: tuple[Library, ...]
    links: dict[str, str]
    cached: dict[str, str]
    directories: tuple[str, ...]
    absent: tuple[Absent, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Object:
    """A file that is loaded. ``found`` is its path in ``root`` by which $ORIGIN goes, ``path`` the same in the image."""

    root: Sysroot
    source: Path
    found: str
    path: str
    facts: ElfFacts
    loader: _Object | None
    is_loader: bool = False
    is_enclave: bool = False
    wanted_by: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Name a file or directory in ``root``, and the same in the image. ``cached``: the loader knows it through its cache only."""

    root: Sysroot
    found: str
    path: str
    cached: bool = False

    def __truediv__(self, name: str) -> _Place:
        return replace(self, found=posixpath.join(self.found, name), path=posixpath.join(self.path, name))


def find_closure(
    starts: Sequence[Start],
    sysroot: Sysroot,
    *,
    libraries: Sequence[str] = (),
    opened_by: OpenedBy = lambda _source, _is_program: (),
    allow_missing: Collection[str] = (),
) -> Closure:
    """Find the libraries of a program and of what it loads while it runs.

    Args:
        starts: The program first; each further file (a plug-in, an extension module) as if the program loaded it.
        sysroot: The system whose libraries are taken.
        libraries: Names of libraries that the program opens.
        opened_by: Says what a file opens by name; asked once for each file, and told whether it is a start.
        allow_missing: Names of libraries that may be missing.

    Raises:
        NotFound: A library is missing; the error names who needs it and what does not work without it.
        Refused: A file is damaged or not x86-64 code, or a limit is exceeded.
    """
    return _Search(Sysroot(sysroot.root.resolve()), opened_by, frozenset(allow_missing)).run(starts, libraries)


class _Search:
    def __init__(self, sysroot: Sysroot, opened_by: OpenedBy, allow_missing: frozenset[str]) -> None:
        self._sysroot = sysroot
        self._opened_by = opened_by
        self._allow_missing = allow_missing
        self._configured = configured_directories(sysroot)
        self._by_name: dict[str, _Object] = {}
        self._by_file: dict[Path, _Object] = {}
        self._links: dict[str, str] = {}
        self._cached: dict[str, str] = {}
        self._directories: dict[str, None] = {}
        self._missing: list[Absent] = []
        self._absent: list[Absent] = []
        self._probes = 0

    def run(self, starts: Sequence[Start], libraries: Sequence[str]) -> Closure:
        queue: deque[_Object] = deque()
        for start in starts:
            queue.append(self._start(start, queue[0] if queue else None))
        started = {id(item) for item in queue}
        queue.extend([found for name in libraries for found in self._asked_for(queue[0], name)])
        while queue:
            item = queue.popleft()
            queue.extend(self._needs(item))
            queue.extend(self._opened(item, is_program=id(item) in started))
            if len(self._by_file) > MAX_LIBRARIES + len(starts):
                raise Refused(f"{starts[0].source} needs more than {MAX_LIBRARIES} libraries.", "Check that this is the program you mean.")
        if self._missing:
            raise NotFound(
                "; ".join(str(item) for item in self._missing[:MAX_MISSING_NAMED]) + f" (looked below {self._sysroot.root}).",
                "Install the package that holds it there, name the target system's root with --sysroot, "
                f"or do without it on purpose: --allow-missing {self._missing[0].name}.",
            )
        return Closure(
            libraries=tuple(_library(item) for item in self._by_file.values() if id(item) not in started),
            links=self._links,
            cached=self._cached,
            directories=tuple(self._directories),
            absent=tuple(self._absent),
        )

    def _start(self, start: Start, loader: _Object | None) -> _Object:
        place = self._place(start)
        try:
            with place.root.open(place.found) as file:
                facts = read_elf(file, str(start.source))
        except NotElf as exc:
            raise Refused(f"{start.source} is not an ELF program.", "Name the compiled program, not a script or source file.") from exc
        except OtherMachine as exc:
            raise Refused(f"{start.source} is not x86-64 code, the only kind that SGX runs.", "Build it for x86-64.") from exc
        return self._register(place, place.root.source(place.found), facts, loader)

    def _place(self, start: Start) -> _Place:
        """Say in which system a file of this machine lies: the target's, if below its root, else this machine's own."""
        if not start.source.exists():
            raise NotFound(f"{start.source} does not exist.", "Check the path of the program.")
        real = start.source.resolve()
        if real.is_relative_to(self._sysroot.root):
            return _Place(root=self._sysroot, found=f"/{real.relative_to(self._sysroot.root)}", path=start.path)
        return _Place(root=Sysroot(Path("/")), found=str(real), path=start.path)

    def _register(self, place: _Place, source: Path, facts: ElfFacts, loader: _Object | None) -> _Object:
        item = _Object(root=place.root, source=source, found=place.found, path=place.path, facts=facts, loader=loader)
        self._by_file[source] = item
        if facts.soname:
            self._by_name.setdefault(facts.soname, item)
        return item

    def _needs(self, item: _Object) -> Iterator[_Object]:
        """Resolve what one file needs and yield what was not loaded before."""
        for name in item.facts.needed if item.facts.interpreter is None else (item.facts.interpreter, *item.facts.needed):
            known, is_new = self._resolve(item, name)
            if known is None:
                self._miss(Absent(name=name, wanted_by=item.path, breaks=""), optional=False)
                continue
            if is_new:
                yield known
            known.is_loader |= name == item.facts.interpreter

    def _asked_for(self, program: _Object, name: str) -> Iterator[_Object]:
        known, is_new = self._resolve(program, name)
        if known is None:
            raise NotFound(f"The library {name} was not found below {self._sysroot.root}.", "Check its name, and --sysroot.")
        if is_new:
            yield known

    def _opened(self, item: _Object, *, is_program: bool) -> Iterator[_Object]:
        """Resolve what one file opens by name and yield what was not loaded before."""
        for opened in self._opened_by(item.source, is_program):
            if opened.enclave:
                self._take_enclave(item, opened)
                continue
            for name in opened.names:
                known, is_new = self._resolve(item, name)
                if known is not None:
                    if is_new:
                        yield known
                    break
            else:
                self._miss(Absent(name=opened.names[0], wanted_by=item.path, breaks=opened.breaks), optional=opened.optional)

    def _take_enclave(self, item: _Object, opened: Opened) -> None:
        """Take an enclave from beside the library that opens it or from where a library would be; nothing in it is followed."""
        name = opened.names[0]
        beside = _Place(root=item.root, found=posixpath.dirname(item.found), path=posixpath.dirname(item.path)) / name
        for place in (beside, *self._candidates(item, name)):
            canonical = place.root.canonical(place.found)
            if canonical is None or not place.root.source(canonical).is_file():
                continue
            source = place.root.source(canonical)
            if source not in self._by_file:
                taken = self._register(replace(place, path=self._normal(place.path)), source, _NO_FACTS, item)
                taken.is_enclave = True
            self._by_file[source].wanted_by[item.path] = None
            return
        self._miss(Absent(name=name, wanted_by=item.path, breaks=opened.breaks), optional=opened.optional)

    def _miss(self, absent: Absent, *, optional: bool) -> None:
        (self._absent if optional or absent.name in self._allow_missing else self._missing).append(absent)

    def _resolve(self, item: _Object, name: str) -> tuple[_Object | None, bool]:
        """Return what a file gets under a name, and whether it was not loaded before."""
        known = self._by_name.get(name)
        before = len(self._by_file)
        if known is None:
            known = self._find(item, name)
            if known is None:
                return None, False
            self._by_name[name] = known
        known.wanted_by[item.path] = None
        return known, len(self._by_file) > before

    def _find(self, item: _Object, name: str) -> _Object | None:
        for place in self._candidates(item, name):
            self._probes += 1
            if self._probes > MAX_PROBES:
                raise Refused(f"{item.path} and what it needs name more than {MAX_PROBES} places to look.", "Check where it comes from.")
            known = self._load(item, place)
            if known is not None:
                if place.cached:
                    self._cached[name] = known.path
                return known
        return None

    def _candidates(self, item: _Object, name: str) -> Iterator[_Place]:
        """Yield where the loader looks for a library, in its order (ld.so(8))."""
        if "/" in name:
            # A path is opened as it stands; a relative one from the working directory, which an image does not promise.
            yield from _expanded(item, name, self._sysroot)
            return
        if not item.facts.runpath:
            asking: _Object | None = item
            while asking is not None:
                yield from (place / name for path in asking.facts.rpath for place in _expanded(asking, path, self._sysroot))
                asking = asking.loader
        yield from (place / name for path in item.facts.runpath for place in _expanded(item, path, self._sysroot))
        for path in self._configured:
            yield _Place(root=self._sysroot, found=path, path=path, cached=path not in DEFAULT_DIRECTORIES) / name
        if not item.facts.no_default_libs:
            yield from (_Place(root=self._sysroot, found=path, path=path) / name for path in DEFAULT_DIRECTORIES)

    def _load(self, item: _Object, place: _Place) -> _Object | None:
        canonical = place.root.canonical(place.found)
        if canonical is None or not place.root.source(canonical).is_file():
            return None
        source = place.root.source(canonical)
        path = self._normal(place.path)
        known = self._by_file.get(source)
        if known is not None:
            if path != known.path:
                self._links[path] = known.path
            return known
        try:
            with place.root.open(canonical) as file:
                facts = read_elf(file, str(source))
        except OtherMachine:
            return None
        except NotElf as exc:
            raise Refused(f"{source}, which {item.path} needs, is not an ELF file.", "Install the library again.") from exc
        return self._register(replace(place, path=path), source, facts, item)

    def _normal(self, path: str) -> str:
        """Take ``..`` out of a path of the image, keeping in mind the directories that must be there for it."""
        done: list[str] = []
        for part in path.split("/"):
            if part == "..":
                if done:
                    self._directories["/" + "/".join(done)] = None
                del done[-1:]
            elif part not in ("", "."):
                done.append(part)
        return "/" + "/".join(done)


def _expanded(item: _Object, path: str, sysroot: Sysroot) -> Iterator[_Place]:
    """Replace the loader's tokens; what begins at $ORIGIN lies beside the file itself, all else in the target system."""
    for library_directory in _LIB_DIRECTORIES if "LIB" in path else _LIB_DIRECTORIES[:1]:
        values = {"LIB": library_directory, "PLATFORM": "x86_64"}
        beside = _TOKEN.sub(lambda match: values.get(match[1], posixpath.dirname(item.found)), path)  # noqa: B023 - used at once
        image = _TOKEN.sub(lambda match: values.get(match[1], posixpath.dirname(item.path)), path)  # noqa: B023
        if image.startswith("/"):
            from_origin = re.match(r"\$\{?ORIGIN\b", path) is not None
            yield _Place(root=item.root if from_origin else sysroot, found=beside if from_origin else image, path=image)


# An enclave is no business of the loader.
_NO_FACTS = ElfFacts(interpreter=None, dynamic=False, soname=None, needed=(), rpath=(), runpath=(), no_default_libs=False)


def _library(item: _Object) -> Library:
    return Library(
        source=item.source, path=item.path, wanted_by=tuple(item.wanted_by), is_loader=item.is_loader, is_enclave=item.is_enclave
    )
