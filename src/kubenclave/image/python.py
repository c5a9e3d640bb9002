"""Put a Python program into an image: interpreter, standard library, distributions, own modules, and no operating system.

Reads the interpreter that runs this and the distributions installed beside it. The image is the same bytes for the same inputs, so
modules are compiled here, by content (PEP 552), and never by the time of a file.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import posixpath
import re
import sys
import sysconfig
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kubenclave.errors import NotFound, Refused
from kubenclave.image.closure import Closure, Start, find_closure
from kubenclave.image.content import library_entries
from kubenclave.image.layer import File, Link, Role
from kubenclave.image.ldso import DEFAULT_DIRECTORIES
from kubenclave.image.spec import APPLICATION_DIRECTORY
from kubenclave.image.strip import without_symbols
from kubenclave.image.sysroot import Sysroot, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kubenclave.image.layer import Entry, Report

# What a service without screen, keyboard and compiler never imports: tests, graphics, terminals, teaching aids, packaging, databases.
_LEFT_OUT_PACKAGES = frozenset(
    {
        *("__phello__", "test", "tests", "unittest"),
        *("curses", "idlelib", "tkinter", "turtledemo", "pydoc_data"),
        *("distutils", "ensurepip", "lib2to3", "msilib", "venv"),
        *("dbm", "sqlite3"),
        *("__pycache__", "dist-packages", "site-packages"),
    }
)
_LEFT_OUT_MODULES = frozenset({"antigravity", "doctest", "pdb", "pydoc", "sitecustomize", "this", "turtle", "_aix_support", "_osx_support"})
# Extension modules of the same kinds, and the codecs for East Asian encodings other than Unicode.
_LEFT_OUT_EXTENSIONS = re.compile(
    r"_codecs_\w+|_multibytecodec|_ctypes_test|_curses(_panel)?|_dbm|_gdbm|_sqlite3|_test\w*|_tkinter|_xxtestfuzz|_xxsubinterpreters"
    r"|_crypt|audioop|nis|ossaudiodev|readline|spwd|xxlimited\w*"
)
# glibc opens it by name when a thread is cancelled or exits, and aborts the process where it is missing (nptl/pthread_cancel.c).
_OPENED_BY_NAME = ("libgcc_s.so.1",)
_PYC_HASH_UNCHECKED = (1).to_bytes(4, "little")
# Later versions mark what is shared or interned, which depends on what else the compiling process has in memory (CPython issue 78274).
# Measured: 11 of 168 modules differ between two processes with version 4; version 2 costs the agent 1.5 MiB of memory.
_MARSHAL_VERSION = 2
# Of a distribution's metadata only its name, version and licence are of use to a running program and its reader.
_KEPT_METADATA = re.compile(r"METADATA|entry_points\.txt|(licenses/.*)|((LICEN[CS]E|COPYING|NOTICE|AUTHORS)[^/]*)")
_LEFT_OUT_SUFFIXES = frozenset({".c", ".cc", ".h", ".pyi", ".pyc", ".pyx", ".pxd", ".a", ".o"})
_MAX_MODULE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonProgram:
    """Say what a Python program is made of.

    Attributes:
        module: What ``python -m`` runs.
        distributions: Installed distributions by name, with the version that must be installed.
        source_root: The folder from which the program's own modules are taken.
        sources: Files and folders below it.
    """

    module: str
    distributions: tuple[tuple[str, str], ...]
    source_root: Path
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """Name a Python installation: its program, its prefix, its standard library and extension modules."""

    executable: Path
    prefix: Path
    standard_library: Path
    extensions: Path

    @property
    def version(self) -> str:
        """Name the folder of the version, ``python3.11``."""
        return f"python{sys.version_info.major}.{sys.version_info.minor}"

    @property
    def image_prefix(self) -> str:
        """Say where the installation goes in an image: a distribution's stays, any other becomes the local one."""
        return "/usr" if self.prefix == Path("/usr") else "/usr/local"

    def image_path(self, source: Path) -> str:
        """Say where a file below the prefix goes in an image."""
        return posixpath.join(self.image_prefix, source.relative_to(self.prefix).as_posix())


def this_interpreter() -> Interpreter:
    """Return the installation that runs this, seen through a virtual environment.

    Raises:
        NotFound: Its extension modules are not where it says.
    """
    extensions = Path(str(sysconfig.get_config_var("DESTSHARED")))
    if not extensions.is_dir():
        raise NotFound(f"The extension modules of {sys.executable} are not in {extensions}.", "Use a complete CPython installation.")
    return Interpreter(
        executable=Path(sys.executable).resolve(),
        prefix=Path(sys.base_prefix),
        standard_library=Path(sysconfig.get_path("stdlib")),
        extensions=extensions,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonEntries:
    """Hold a Python program as image entries: what seldom changes, what is its own, and the command that starts it."""

    runtime: tuple[Entry, ...]
    application: tuple[Entry, ...]
    entrypoint: tuple[str, ...]


def python_entries(program: PythonProgram, interpreter: Interpreter, report: Report) -> PythonEntries:
    """Collect a Python program with everything that it needs to start in an empty root file system.

    Args:
        program: The program.
        interpreter: The installation that goes with it; its version must be that of the running one.
        report: Told in a sentence what is being done.

    Raises:
        NotFound: A distribution, source or library is not there.
        Refused: A distribution has another version than asked for, or a file is damaged.
    """
    executable = File(
        path=f"{interpreter.image_prefix}/bin/{interpreter.version}", source=interpreter.executable, role=Role.PROGRAM, executable=True
    )
    packages = f"{APPLICATION_DIRECTORY}/lib/{interpreter.version}/site-packages"
    report("collecting the Python standard library")
    runtime = [executable, *_standard_library(interpreter)]
    report("collecting the program's distributions")
    application = [file for name, version in program.distributions for file in _distribution(name, version, packages)]
    application += _own_sources(program, packages)
    report("finding the libraries of the interpreter and its extension modules")
    libraries = _libraries([*runtime, *application], interpreter)
    report("compiling Python modules")
    environment = f"home = {interpreter.image_prefix}/bin\n".encode()
    return PythonEntries(
        runtime=(*_ready(runtime), *_ready(libraries)),
        application=(
            *_ready(application),
            # A virtual environment, so that every CPython finds its modules without a variable (PEP 405).
            File(path=f"{APPLICATION_DIRECTORY}/pyvenv.cfg", source=environment, role=Role.FILE),
            Link(path=f"{APPLICATION_DIRECTORY}/bin/python3", target=executable.path),
        ),
        entrypoint=(f"{APPLICATION_DIRECTORY}/bin/python3", "-I", "-m", program.module),
    )


def _standard_library(interpreter: Interpreter) -> Iterator[File]:
    for source in _walk(interpreter.standard_library, left_out=_LEFT_OUT_PACKAGES):
        within = source.relative_to(interpreter.standard_library)
        top = within.parts[0]
        if top.startswith("config-") or top.partition(".")[0] in _LEFT_OUT_MODULES:
            continue
        if _is_extension(source) or source.suffix == ".py" or within == Path("LICENSE.txt"):
            yield _file(source, interpreter.image_path(source))


def _walk(directory: Path, *, left_out: frozenset[str]) -> Iterator[Path]:
    for place, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if name not in left_out)
        yield from (Path(place, name) for name in sorted(names))


def _file(source: Path, path: str) -> File:
    return File(path=path, source=source.resolve(), role=Role.LIBRARY if _is_extension(source) else Role.FILE)


def _is_extension(source: Path | PurePosixPath) -> bool:
    return ".so" in source.suffixes and not _LEFT_OUT_EXTENSIONS.fullmatch(source.name.partition(".")[0])


def _distribution(name: str, version: str, packages: str) -> Iterator[File]:
    try:
        found = distribution(name)
    except PackageNotFoundError as exc:
        raise NotFound(f"The Python distribution {name} is not installed.", "Install requirements/node.txt.") from exc
    if found.version != version:
        raise Refused(f"{name} {found.version} is installed; {version} is asked for.", "Install requirements/node.txt again.")
    yield from (_file(source, f"{packages}/{within}") for within, source in _recorded(found))


def _recorded(found: Distribution) -> Iterator[tuple[str, Path]]:
    for item in found.files or ():
        within = PurePosixPath(item)
        # Scripts lie outside, as ../../../bin/name; nothing else of a wheel does.
        if within.is_absolute() or ".." in within.parts or within.suffix in _LEFT_OUT_SUFFIXES or within.name == "py.typed":
            continue
        if ".so" in within.suffixes and not _is_extension(within):
            continue
        top, _, rest = str(within).partition("/")
        if top.endswith(".dist-info") and not _KEPT_METADATA.fullmatch(rest):
            continue
        yield str(within), Path(str(found.locate_file(item)))


def _own_sources(program: PythonProgram, packages: str) -> Iterator[File]:
    for name in program.sources:
        start = program.source_root / name
        if not start.exists():
            raise NotFound(f"{start} does not exist.", "Use a complete checkout or installation of kubenclave.")
        for source in [start] if start.is_file() else _walk(start, left_out=frozenset({"__pycache__"})):
            # Tables lie beside the modules that read them.
            if source.suffix in {".py", ".toml"}:
                yield _file(source, f"{packages}/{source.relative_to(program.source_root)}")


def _libraries(files: Iterable[File], interpreter: Interpreter) -> list[Entry]:
    """Find the shared libraries of all programs and modules, and move those of the installation with it."""
    sysroot = Sysroot(Path("/"))
    loaded = [file for file in files if file.role in (Role.PROGRAM, Role.LIBRARY)]
    by_name = [_opened_by_name(sysroot, name) for name in _OPENED_BY_NAME]
    found = find_closure([Start(source=Path(str(file.source)), path=file.path) for file in [*loaded, *by_name]], sysroot)
    library_directory = interpreter.prefix / "lib"
    moved = {
        item.path: interpreter.image_path(item.source)
        for item in found.libraries
        if interpreter.image_prefix != str(interpreter.prefix) and item.source.is_relative_to(library_directory)
    }
    return [
        *library_entries(
            Closure(
                libraries=tuple(replace(item, path=moved.get(item.path, item.path)) for item in found.libraries),
                links={path: moved.get(target, target) for path, target in found.links.items()},
                cached=found.cached | {posixpath.basename(path): place for path, place in moved.items()},
                directories=found.directories,
            )
        ),
        *by_name,
    ]


def _opened_by_name(sysroot: Sysroot, name: str) -> File:
    for directory in DEFAULT_DIRECTORIES:
        found = sysroot.canonical(f"{directory}/{name}")
        if found is not None and sysroot.source(found).is_file():
            return File(path=f"{directory}/{name}", source=sysroot.source(found), role=Role.LIBRARY, executable=True)
    raise NotFound(f"{name}, which glibc loads when a thread ends, was not found.", "Install the package libgcc-s1.")


def _ready(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Cut native code to what is loaded, and put compiled modules beside their sources."""
    for entry in entries:
        if not isinstance(entry, File) or not isinstance(entry.source, Path):
            yield entry
            continue
        if entry.role is not Role.FILE:
            yield replace(entry, source=without_symbols(entry.source), executable=True)
            continue
        source = _read(entry.source, _MAX_MODULE_BYTES)
        yield replace(entry, source=source)
        if entry.path.endswith(".py"):
            directory, _, name = entry.path.rpartition("/")
            cached = f"{directory}/__pycache__/{name.removesuffix('.py')}.{sys.implementation.cache_tag}.pyc"
            yield File(path=cached, source=compiled(source, entry.path), role=Role.FILE)


def compiled(source: bytes, path: str) -> bytes:
    """Return the compiled form of a module, the same bytes whatever process compiles it, never checked against its source (PEP 552).

    Raises:
        Refused: It is no Python of this version.
    """
    try:
        with warnings.catch_warnings():
            # What the compiler thinks of the standard library's style is nobody's concern here.
            warnings.simplefilter("ignore")
            code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError) as exc:
        raise Refused(f"{path} cannot be compiled: {exc}.", "Check that it is Python of this interpreter's version.") from exc
    head = importlib.util.MAGIC_NUMBER + _PYC_HASH_UNCHECKED + importlib.util.source_hash(source)
    return head + marshal.dumps(code, _MARSHAL_VERSION)


def _read(source: Path, limit_bytes: int) -> bytes:
    with open_regular(source) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise Refused(f"{source} is larger than {limit_bytes} bytes.", "Check that it is part of a Python installation.")
    return data
