"""Tiny ELF files and system roots, made here byte by byte."""

import datetime as dt
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kubenclave.sgx import EnclaveLayout, PageRun, draft_sigstruct, generate_signing_key, measure, sign, write_sgxs

_NEEDED, _STRTAB, _STRSZ, _SONAME, _RPATH, _RUNPATH, _FLAGS_1 = 1, 5, 10, 14, 15, 29, 0x6FFFFFFB
_SECINFO_REG_RW = 0x203


def elf_bytes(
    *,
    needed: Sequence[str] = (),
    soname: str | None = None,
    rpath: str | None = None,
    runpath: str | None = None,
    interpreter: str | None = None,
    machine: int = 62,
    tail: bytes = b"",
    no_default_libs: bool = False,
    names: Sequence[str] = (),
) -> bytes:
    """Lay out an ELF-64 file: header, program headers, strings, dynamic table.

    ``names`` are further strings of the dynamic table, as imports are; ``tail`` is what no segment holds.
    """
    strings = bytearray(b"\0")

    def text(value: str) -> int:
        place = len(strings)
        strings.extend(value.encode() + b"\0")
        return place

    entries = [(_NEEDED, text(name)) for name in needed]
    entries += [(tag, text(value)) for tag, value in ((_SONAME, soname), (_RPATH, rpath), (_RUNPATH, runpath)) if value is not None]
    entries += [(_FLAGS_1, 0x800)] if no_default_libs else []
    interpreter_at = text(interpreter) if interpreter else 0
    for name in names:
        text(name)
    count = 3 if interpreter else 2
    strings_at = 64 + 56 * count
    dynamic_at = (strings_at + len(strings) + 7) & ~7
    table = b"".join(struct.pack("<QQ", *entry) for entry in [*entries, (_STRTAB, strings_at), (_STRSZ, len(strings)), (0, 0)])
    end = dynamic_at + len(table)
    headers = struct.pack("<IIQQQQQQ", 1, 4, 0, 0, 0, end, end, 4096) + struct.pack(
        "<IIQQQQQQ", 2, 4, dynamic_at, dynamic_at, 0, len(table), len(table), 8
    )
    if interpreter:
        size = len(interpreter.encode()) + 1
        headers += struct.pack("<IIQQQQQQ", 3, 4, strings_at + interpreter_at, 0, 0, size, size, 1)
    header = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, end if tail else 0, 0, 64, 56, count, 64, 0, 0)
    )
    body = header + headers + bytes(strings)
    return body + bytes(dynamic_at - len(body)) + table + tail


@pytest.fixture(scope="session")
def make_elf() -> Callable[..., bytes]:
    return elf_bytes


@pytest.fixture
def root(tmp_path: Path) -> Callable[..., Path]:
    """Make a system root from a drawing: bytes are files, text is a symbolic link's target."""

    def make(tree: dict[str, bytes | str], name: str = "root") -> Path:
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        for path, content in tree.items():
            file = place / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                file.symlink_to(content)
        return place

    return make


@pytest.fixture(scope="session")
def enclave_bytes() -> tuple[bytes, bytes, EnclaveLayout]:
    """Give a signed enclave of three pages: stream, signature, layout."""
    layout = EnclaveLayout(
        elrange_bytes=0x4000,
        ssa_frame_pages=1,
        runs=(PageRun(offset=0, page_count=3, secinfo=_SECINFO_REG_RW, content=b"secret".ljust(3 * 4096, b"\0")),),
    )
    draft = draft_sigstruct(mrenclave=measure(layout), date=dt.date(2026, 1, 2), isv_prod_id=7, isv_svn=3)
    return b"".join(write_sgxs(layout)), sign(draft, generate_signing_key()).to_bytes(), layout
