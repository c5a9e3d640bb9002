"""The metadata blocks of Intel SGX SDK files, in the section ``.note.sgxmeta``: signature, patches and the table of the layout.

Pure: ELF in, values out; each table is checked before it is believed. Structures: linux-sgx common/inc/internal/metadata.h; checks of the
layout table: psw/urts/loader.cpp, ``validate_layout_table``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from kubenclave.errors import Refused
from kubenclave.sgx.pages import PAGE_BYTES, SECINFO_PAGE_TYPE, SECINFO_PERMISSIONS
from kubenclave.sgx.sigstruct import SIGSTRUCT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.sgx.elf import ElfFile, Section

SECTION: Final = ".note.sgxmeta"
MAGIC: Final = (0x86A8_0294_635D_0E4C).to_bytes(8, "little")

MAX_BLOCKS: Final = 8
"""The SDK writes up to three: one for each generation of loaders."""
MAX_PATCHES: Final = 1 << 16
"""The SDK writes a handful: it clears what differs from build to build."""
MAX_LAYOUT_ENTRIES: Final = 1 << 16
"""Ten for each of 4096 threads, and then some."""

_HEAD = struct.Struct("<8sQIIIIIIQQQ")
"""Magic, version, size, TCS policy, SSA frame pages, save area bytes, MISCSELECT, TCS pool, enclave bytes, flags, XFRM."""
_SIGSTRUCT_AT = 64
_DIRECTORIES_AT = 1872
_DIRECTORY = struct.Struct("<II")
_HEAD_BYTES = _DIRECTORIES_AT + 2 * _DIRECTORY.size
_PATCH = struct.Struct("<QII16x")
_ENTRY = struct.Struct("<HHIQIIQ")
_GROUP = struct.Struct("<HHIQ16x")
_GROUP_ID = 0x1000

EADD: Final = 1
"""The attribute of a layout entry whose pages are there from the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SdkMetadata:
    """Hold one metadata block.

    Attributes:
        version: Major and minor number of its form.
        at: Offset of the block in the file.
        block: Its bytes.
        ssa_frame_pages: SECS.SSAFRAMESIZE.
        enclave_bytes: SECS.SIZE.
        sigstruct: The 1808 bytes of its SIGSTRUCT; None where the enclave is not signed.
    """

    version: tuple[int, int]
    at: int
    block: bytes
    ssa_frame_pages: int
    enclave_bytes: int
    sigstruct: bytes | None

    @property
    def sigstruct_at(self) -> int:
        """Give the offset of the SIGSTRUCT in the file."""
        return self.at + _SIGSTRUCT_AT


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutEntry:
    """Hold one entry of the layout table, at the place that a group moved it to."""

    at: int
    id: int
    attributes: int
    page_count: int
    offset: int
    content_bytes: int
    content_at: int
    secinfo: int


def read_metadata(elf: ElfFile, section: Section) -> tuple[SdkMetadata, ...]:
    """Read the metadata blocks of a file, in their order.

    Raises:
        Refused: There is none, or one is damaged; the message names field and offset.
    """
    note = bytes(elf.content(section))
    start = note.find(MAGIC)
    if start < 0:
        hint = "Sign it once with the SDK's own sgx_sign, which writes the layout."
        raise Refused(f"{SECTION} at offset {section.offset:#x} holds no metadata: the enclave has never been signed", hint)
    blocks: list[SdkMetadata] = []
    while start >= 0:
        if len(blocks) == MAX_BLOCKS:
            refuse(section.offset + start, f"this is one metadata block more than the {MAX_BLOCKS} that are read")
        blocks.append(_read_block(elf.data, section.offset + start))
        end = start + len(blocks[-1].block)
        start = note.find(MAGIC, end)
    return tuple(blocks)


def patch_entries(metadata: SdkMetadata) -> Iterator[tuple[int, int, bytes]]:
    """Give the patches: where the entry stands in the block, the offset in the file that it writes to, and the bytes.

    Raises:
        Refused: The table or a patch's bytes leave the block; the message names field and offset.
    """
    table = _directory(metadata, 0, "patch", _PATCH.size)
    if len(table) > MAX_PATCHES:
        refuse(metadata.at + _DIRECTORIES_AT + 4, f"the patch table has {len(table)} entries, more than {MAX_PATCHES}")
    for at in table:
        target, source, size = _PATCH.unpack_from(metadata.block, at)
        if source + size > len(metadata.block):
            where = f"{size:#x} bytes from {source:#x}, past the block's {len(metadata.block):#x} bytes"
            refuse(metadata.at + at + 8, f"a patch takes {where}")
        yield at, target, metadata.block[source : source + size]


def layout_entries(metadata: SdkMetadata) -> Iterator[LayoutEntry]:
    """Give the entries of the layout table in the order in which their pages are added, groups written out.

    Raises:
        Refused: The table leaves the block, or an entry the enclave; the message names field and offset.
    """
    table = _directory(metadata, 1, "layout", _ENTRY.size)
    if len(table) > MAX_LAYOUT_ENTRIES:
        refuse(
            metadata.at + _DIRECTORIES_AT + _DIRECTORY.size, f"the layout table has {len(table)} entries, more than {MAX_LAYOUT_ENTRIES}"
        )
    given = 0
    for index, at in enumerate(table):
        members, steps = _group(metadata, table, index) if _is_group(metadata, at) else ([at], range(1))
        given += len(members) * len(steps)
        if given > MAX_LAYOUT_ENTRIES:
            refuse(metadata.at + at, f"the layout has more than {MAX_LAYOUT_ENTRIES} entries, counting those that groups repeat")
        for step in steps:
            for member in members:
                yield _entry(metadata, member, step)


def _read_block(data: bytes, at: int) -> SdkMetadata:
    """Read the block at an offset in the file; like the loader, by its own size and not by its section's."""
    room = len(data) - at
    if room < _HEAD_BYTES:
        refuse(at, f"the file ends {room} bytes after the metadata's magic, within its header")
    _, version, size, _, ssa_frame_pages, _, _, _, enclave_bytes, _, _ = _HEAD.unpack_from(data, at)
    if not _HEAD_BYTES <= size <= room:
        refuse(at + 16, f"size is {size}; the header takes {_HEAD_BYTES} bytes and the file has {room} from here")
    block = data[at : at + size]
    sigstruct = block[_SIGSTRUCT_AT : _SIGSTRUCT_AT + SIGSTRUCT_BYTES]
    return SdkMetadata(
        version=(version >> 32, version & 0xFFFF_FFFF),
        at=at,
        block=block,
        ssa_frame_pages=ssa_frame_pages,
        enclave_bytes=enclave_bytes,
        sigstruct=sigstruct if any(sigstruct) else None,
    )


def _directory(metadata: SdkMetadata, index: int, name: str, entry_bytes: int) -> range:
    """Give the offsets, in the block, of the entries of a table."""
    at = _DIRECTORIES_AT + index * _DIRECTORY.size
    offset, size = _DIRECTORY.unpack_from(metadata.block, at)
    if size and not _HEAD_BYTES <= offset <= offset + size <= len(metadata.block):
        refuse(
            metadata.at + at,
            f"the {name} table has offset {offset:#x} and size {size:#x}, outside the block's {len(metadata.block):#x} bytes",
        )
    if size % entry_bytes:
        refuse(metadata.at + at + 4, f"the {name} table has size {size:#x}, which is no multiple of its entries' {entry_bytes} bytes")
    return range(offset, offset + size, entry_bytes)


def _is_group(metadata: SdkMetadata, at: int) -> bool:
    return bool(_GROUP.unpack_from(metadata.block, at)[0] & _GROUP_ID)


def _group(metadata: SdkMetadata, table: range, index: int) -> tuple[list[int], range]:
    """Read a group: the entries before it that it repeats, and how far on in the address range each time."""
    at = table[index]
    _, count, times, step = _GROUP.unpack_from(metadata.block, at)
    if not 0 < count <= index:
        refuse(metadata.at + at + 2, f"a group repeats the {count} entries before it, and {index} stand there")
    if times > MAX_LAYOUT_ENTRIES or step * times > metadata.enclave_bytes or (times and not step):
        refuse(
            metadata.at + at + 4,
            f"a group repeats {times} times by {step:#x} bytes, which the enclave's {metadata.enclave_bytes:#x} cannot hold",
        )
    members = list(table[index - count : index])
    for member in members:
        if _is_group(metadata, member):
            refuse(metadata.at + at + 2, f"a group repeats the group at offset {metadata.at + member:#x}")
    return members, range(step, step * times + 1, max(step, 1))


def _entry(metadata: SdkMetadata, at: int, step: int) -> LayoutEntry:
    kind, attributes, page_count, offset, content_bytes, content_at, secinfo = _ENTRY.unpack_from(metadata.block, at)
    where = metadata.at + at
    offset += step
    if offset % PAGE_BYTES or offset + page_count * PAGE_BYTES > metadata.enclave_bytes:
        refuse(where + 8, f"a layout entry has {page_count} pages at {offset:#x}, unaligned or outside {metadata.enclave_bytes:#x} bytes")
    if content_at and content_at + content_bytes > len(metadata.block):
        refuse(where + 20, f"a layout entry takes {content_bytes:#x} bytes from {content_at:#x}, past the block's {len(metadata.block):#x}")
    if attributes & EADD and secinfo & ~(SECINFO_PERMISSIONS | SECINFO_PAGE_TYPE):
        refuse(where + 24, f"a layout entry has SECINFO flags {secinfo:#x}")
    return LayoutEntry(
        at=where,
        id=kind,
        attributes=attributes,
        page_count=page_count,
        offset=offset,
        content_bytes=content_bytes,
        content_at=content_at,
        secinfo=secinfo,
    )


def refuse(at: int, what: str) -> NoReturn:
    """Raise the room's error for damaged metadata."""
    raise Refused(f"{SECTION} at offset {at:#x}: {what}", "Get an undamaged copy of the enclave, or sign it again.")
