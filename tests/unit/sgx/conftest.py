from __future__ import annotations

import datetime as dt
import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import settings

from kubenclave.sgx import draft_sigstruct, lay_out, measure, read_enclave, redraft, sign, with_signatures
from kubenclave.sgx.signing import generate_signing_key

# Asked for by --hypothesis-profile fuzz.
settings.register_profile("fuzz", max_examples=20_000, derandomize=False)

PAGE = 4096
DATE = dt.date(2026, 1, 1)


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


PHDR = struct.Struct("<IIQQQQQQ")
SHDR = struct.Struct("<IIQQQQIIQQ")
SYM = struct.Struct("<IBBHQQ")
RELA = struct.Struct("<QQq")
R, RX, RW = 4, 5, 6
PROGBITS, STRTAB, RELA_TYPE, NOBITS, DYNSYM = 1, 3, 4, 8, 11
LOAD, DYNAMIC, TLS = 1, 2, 7

# Addresses are file offsets in these images.
DYNSYM_AT, DYNSTR_AT, RELA_AT, PLT_AT, CODE_AT, DATA_AT = 0x400, 0x800, 0xA00, 0xE00, 0x1000, 0x3000
OEINFO_AT, TDATA_AT, DYNAMIC_AT, DATA_END, MEMORY_END = 0x3100, 0x3A00, 0x3B00, 0x3C00, 0x5800


@dataclass
class Image:
    """An ELF image in the making: segments R, RX, RW, sections by name, all at addresses that are file offsets."""

    symbols: list = field(default_factory=list)
    relocations: list = field(default_factory=list)
    plt: list = field(default_factory=list)
    dynamic: list = field(default_factory=list)
    sections: list = field(default_factory=list)
    segments: list = field(default_factory=list)
    contents: list = field(default_factory=list)
    tail: bytes = b""

    def write(self):
        names = b"\0" + b"".join(name.encode() + b"\0" for name, _ in self.symbols)
        symbols, at = bytes(24), 1
        for name, value in self.symbols:
            symbols += SYM.pack(at, 0x11, 0, 1, value, 8)
            at += len(name) + 1
        rela = b"".join(RELA.pack(*row) for row in self.relocations)
        plt = b"".join(RELA.pack(*row) for row in self.plt)
        dynamic = b"".join(struct.pack("<qQ", *row) for row in [*self.dynamic, (0, 0)])
        image = bytearray(DATA_END)
        pieces = [(DYNSYM_AT, symbols), (DYNSTR_AT, names), (RELA_AT, rela), (PLT_AT, plt), (DYNAMIC_AT, dynamic)]
        for place, content in [*pieces, (CODE_AT, bytes(range(1, 256)) * 9), *self.contents]:
            image[place : place + len(content)] = content
        segments = [
            (LOAD, R, 0, 0, 0x1000, 0x1000),
            (LOAD, RX, CODE_AT, CODE_AT, 0x900, 0x900),
            (LOAD, RW, DATA_AT, DATA_AT, DATA_END - DATA_AT, MEMORY_END - DATA_AT),
            (DYNAMIC, RW, DYNAMIC_AT, DYNAMIC_AT, len(dynamic), len(dynamic)),
            *self.segments,
        ]
        sections = [
            (".dynsym", DYNSYM, DYNSYM_AT, DYNSYM_AT, len(symbols), 2),
            (".dynstr", STRTAB, DYNSTR_AT, DYNSTR_AT, len(names), 0),
            (".rela.dyn", RELA_TYPE, RELA_AT, RELA_AT, len(rela), 1),
            (".rela.plt", RELA_TYPE, PLT_AT, PLT_AT, len(plt), 1),
            (".text", PROGBITS, CODE_AT, CODE_AT, 0x900, 0),
            *self.sections,
        ]
        return self._assemble(image, segments, sections)

    def _assemble(self, image, segments, sections):
        body = bytearray(image) + self.tail
        strings = b"\0.shstrtab\0" + b"".join(name.encode() + b"\0" for name, *_ in sections)
        strings_at = len(body)
        body += strings + bytes(-len(strings) % 8)
        table_at = len(body)
        rows, at = [SHDR.pack(*[0] * 10)], 11
        for name, kind, address, offset, size, link, *rest in sections:
            rows.append(SHDR.pack(at, kind, 0, address, offset, size, link, 0, rest[0] if rest else 8, 24))
            at += len(name) + 1
        rows.append(SHDR.pack(1, STRTAB, 0, 0, strings_at, len(strings), 0, 0, 1, 0))
        body += b"".join(rows)
        ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
        header = ident + struct.pack(
            "<HHIQQQIHHHHHH", 3, 62, 1, CODE_AT + 0x10, 64, table_at, 0, 64, 56, len(segments), 64, len(rows), len(rows) - 1
        )
        for kind, flags, offset, address, file_bytes, memory_bytes, *rest in segments:
            header += PHDR.pack(kind, flags, offset, address, address, file_bytes, memory_bytes, rest[0] if rest else PAGE)
        body[: len(header)] = header
        return bytes(body)


OE_SYMBOLS = ("_enclave_rva", "_reloc_rva", "_reloc_size", "_tdata_rva", "_tdata_size", "_tdata_align", "_tbss_size", "_tbss_align")
OE_CONFIGS = {
    1856: (48, lambda prod, svn, attributes, _: struct.pack("<HH4xQ", prod, svn, attributes)),
    1920: (104, lambda prod, svn, attributes, _: struct.pack("<HH4xQQ", prod, svn, attributes, 3)),
    1952: (136, lambda prod, svn, attributes, flags: struct.pack("<HHI16s16sQQ", prod, svn, flags, b"f" * 16, b"e" * 16, attributes, 3)),
    1960: (
        144,
        lambda prod, svn, attributes, flags: struct.pack("<HHI16s16sQQQ", prod, svn, flags, b"f" * 16, b"e" * 16, attributes, 3, 0),
    ),
}


def open_enclave_file(
    *,
    size=1960,
    kind=2,
    heap_pages=4,
    stack_pages=2,
    tcs=2,
    prod_id=7,
    svn=3,
    attributes=6,
    flags=0,
    tdata=0,
    tbss=0,
    needed=False,
    symbols=(*OE_SYMBOLS, "_td_from_tcs_offset"),
    relocations=((0x3000, 8, 0x1010), (0x3008, 8, 0x1020)),
    plt=(),
    sigstruct=b"",
):
    """Write an Open Enclave file without a compiler. Relocations are (address, info, addend)."""
    sigstruct_at, config = OE_CONFIGS.get(size, OE_CONFIGS[1960])
    info = struct.pack("<IIQQQ", size, kind, heap_pages, stack_pages, tcs) + config(prod_id, svn, attributes, flags)
    info = info.ljust(sigstruct_at, b"\0") + sigstruct.ljust(1808, b"\0") + b"\xec" * 8
    image = Image(relocations=list(relocations), plt=list(plt))
    image.symbols = [(name, DATA_AT + 0x20 + 8 * place) for place, name in enumerate(symbols)]
    image.dynamic = [(1, 1)] if needed else []
    image.contents = [(OEINFO_AT, info), (TDATA_AT, b"t" * tdata)]
    image.sections = [(".oeinfo", PROGBITS, OEINFO_AT, OEINFO_AT, len(info), 0)]
    if tdata:
        image.sections.append((".tdata", PROGBITS, TDATA_AT, TDATA_AT, tdata, 0, 16))
    if tbss:
        image.sections.append((".tbss", NOBITS, TDATA_AT + tdata, TDATA_AT + tdata, tbss, 0, 32))
    if tdata or tbss:
        image.segments = [(TLS, R, TDATA_AT, TDATA_AT, tdata, tdata + tbss, 64)]
    return image.write()


@pytest.fixture(scope="session")
def open_enclave():
    return open_enclave_file


MAGIC = 0x86A80294635D0E4C
ENTRY = struct.Struct("<HHIQIIQ")
GROUP = struct.Struct("<HHIQ16x")
PATCH = struct.Struct("<QII16x")
REG_RW, TCS_PAGE = 0x203, 0x100
DATA_AT_IN_BLOCK = 1888
TCS_TEMPLATE = struct.pack("<QQQIIQQQQII", 0, 0, 0x1000, 0, 2, CODE_AT + 0x10, 0, 0x3000, 0x3010, 0xFFFFFFFF, 0xFFFFFFFF)


def _sdk_block(
    layout,
    *,
    version=(2, 4),
    patches=(),
    enclave_bytes=1 << 24,
    ssa_frame_pages=1,
    sigstruct=b"",
    size=None,
    directories=None,
    contents=TCS_TEMPLATE,
):
    """Write a metadata block: contents at 1888, then the patches, then the layout. Patches are (file offset, bytes)."""
    data = contents
    patch_table = b""
    for target, content in patches:
        patch_table += PATCH.pack(target, DATA_AT_IN_BLOCK + len(data), len(content))
        data += content
    patch_at = DATA_AT_IN_BLOCK + len(data)
    layout_at = patch_at + len(patch_table)
    table = b"".join(layout)
    head = struct.pack("<QQIIIIIIQQQ", MAGIC, version[0] << 32 | version[1], 0, 0, ssa_frame_pages, 0, 0, 0, enclave_bytes, 4, 3)
    block = head + sigstruct.ljust(1808, b"\0")
    block += directories or struct.pack("<IIII", patch_at, len(patch_table), layout_at, len(table))
    block += data + patch_table + table
    return block[:16] + struct.pack("<I", len(block) if size is None else size) + block[20:]


def _intel_sdk(*blocks, relocations=((0x3000, 8, 0x1010),), dynamic=(), note=None):
    """Write an SDK file without a compiler, its metadata behind the image."""
    content = b"".join(blocks)
    content = struct.pack("<III13s", 13, len(content), 1, b"sgx_metadata") + content if note is None else note
    image = Image(relocations=list(relocations), dynamic=list(dynamic), tail=content)
    image.sections = [(".note.sgxmeta", 7, 0, DATA_END, len(content), 0)]
    return image.write()


@pytest.fixture(scope="session")
def sdk():
    """Write SDK files: ``file``, ``block``, ``entry``, ``group``, and a layout of two threads by a group."""

    class Sdk:
        file = staticmethod(_intel_sdk)
        block = staticmethod(_sdk_block)
        entry = staticmethod(ENTRY.pack)
        group = staticmethod(GROUP.pack)
        thread_layout = (
            ENTRY.pack(1, 3, 3, 0x10000, 0, 0, REG_RW),
            ENTRY.pack(10, 0, 16, 0x13000, 0, 0, 0),
            ENTRY.pack(8, 3, 2, 0x23000, 0xCCCCCCCC, 0, REG_RW),
            ENTRY.pack(10, 0, 1, 0x25000, 0, 0, 0),
            ENTRY.pack(4, 3, 1, 0x26000, len(TCS_TEMPLATE), DATA_AT_IN_BLOCK, TCS_PAGE),
            ENTRY.pack(6, 3, 2, 0x27000, 0, 0, REG_RW),
            ENTRY.pack(5, 1, 1, 0x29000, 0, 0, REG_RW),
            GROUP.pack(0x1009, 6, 2, 0x10000),
        )

    return Sdk


@pytest.fixture(scope="session")
def signed(signing_key):
    """Sign whatever file it is, as ``kubenclave enclave sign`` does."""

    def signed_file(data, **choices):
        enclave = read_enclave(data)
        blocks = (enclave, *enclave.other_blocks)
        return with_signatures(data, {block.sigstruct_at: sign(redraft(block, date=DATE, **choices), signing_key) for block in blocks})

    return signed_file


@pytest.fixture(scope="session")
def plain_layout(plain_elf):
    return lay_out(plain_elf, heap_pages=1, stack_pages=1, threads=1)


@pytest.fixture(scope="session")
def signature_of(signing_key):
    def signature(layout, **choices):
        return sign(draft_sigstruct(mrenclave=measure(layout), date=DATE, **choices), signing_key).to_bytes()

    return signature
