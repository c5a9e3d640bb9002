from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest

from kubenclave.sgx.signing import generate_signing_key


@pytest.fixture(scope="session")
def signing_key():
    return generate_signing_key()


@dataclass(frozen=True)
class Segment:
    """One program header and its bytes; the file offset follows from the order."""

    address: int
    content: bytes
    flags: int
    kind: int = 1
    memory_bytes: int | None = None


def _elf(segments, *, entry=0x1000, machine=62, elf_type=3, elf_class=2):
    header_bytes = 64 + 56 * len(segments)
    at = -(-header_bytes // 4096) * 4096
    headers, body = b"", b""
    for segment in segments:
        lead = segment.address % 4096
        offset = at + len(body) + lead
        memory = len(segment.content) if segment.memory_bytes is None else segment.memory_bytes
        headers += struct.pack(
            "<IIQQQQQQ", segment.kind, segment.flags, offset, segment.address, segment.address, len(segment.content), memory, 4096
        )
        body += bytes(lead) + segment.content
        body += bytes(-len(body) % 4096)
    ident = b"\x7fELF" + bytes([elf_class, 1, 1]) + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", elf_type, machine, 1, entry, 64, 0, 0, 64, 56, len(segments), 64, 0, 0)
    return (header + headers).ljust(at, b"\0") + body


@pytest.fixture(scope="session")
def make_elf():
    """Write an ELF file of chosen segments, without a compiler."""
    return _elf


@pytest.fixture(scope="session")
def segment():
    return Segment


@pytest.fixture(scope="session")
def plain_elf():
    """Headers, code, data with 3 pages of zeroes behind it."""
    return _elf(
        [
            Segment(0, b"headers", 4),
            Segment(0x1000, b"\x90" * 5000, 5),
            Segment(0x4010, b"data", 6, memory_bytes=3 * 4096),
        ]
    )
