"""Intel SGX SDK files: an ELF image with one or more metadata blocks in ``.note.sgxmeta``.

Pure: ELF in, values out. Sources: linux-sgx common/inc/internal/metadata.h (structures, layout ids), psw/urts/loader.cpp (order of the
pages, patches, groups, the extra page of metadata 1.3), psw/urts/parser/elfparser.cpp (pages made writable by text relocations),
common/inc/internal/se_page_attr.h (attributes).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from kubenclave.sgx.elf import (
    DT_JMPREL,
    DT_PLTRELSZ,
    DT_RELA,
    DT_RELASZ,
    DT_TEXTREL,
    R_X86_64_NONE,
    RELA,
    check_order,
    refuse,
    segment_runs,
)
from kubenclave.sgx.pages import (
    ALL_CHUNKS,
    NO_CHUNKS,
    PAGE_BYTES,
    SECINFO_R,
    SECINFO_REG,
    SECINFO_TCS,
    SECINFO_W,
    EnclaveLayout,
    PageKind,
    PageRun,
    check_weight,
    patched,
)
from kubenclave.sgx.sdk_metadata import EADD, LayoutEntry, SdkMetadata, layout_entries, patch_entries
from kubenclave.sgx.sdk_metadata import refuse as refuse_metadata
from kubenclave.sgx.tcs import OFFSETS_OF_ADDRESSES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.sgx.elf import ElfFile, Segment

MAX_RELOCATIONS: Final = 1 << 20
MAX_THREADS: Final = 1 << 14
"""Each TCS is a page of its own content; more threads than any processor has."""
MAX_ELRANGE_BYTES: Final = 1 << 47
"""The user half of an x86-64 address space."""

_U64 = struct.Struct("<Q")

_EEXTEND, _EREMOVE, _POST_ADD, _POST_REMOVE = 2, 4, 8, 16
_LAST_MEASURED_MAJOR = 2
_PADDED_VERSION = (1, 3)
_WORD_BYTES = 8
_MASK64 = 0xFFFF_FFFF_FFFF_FFFF

# What a layout id stands for. SDK 1.5 to 1.8 (metadata 1.3) counted otherwise than all later ones.
_FIRST_IDS = {1: PageKind.HEAP, 2: PageKind.TCS, 3: PageKind.THREAD_DATA, 4: PageKind.SSA, 5: PageKind.STACK}
_LATER_IDS = {
    **dict.fromkeys((1, 2, 3, 11, 12, 13), PageKind.HEAP),
    **dict.fromkeys((4, 14), PageKind.TCS),
    **dict.fromkeys((5, 15), PageKind.THREAD_DATA),
    **dict.fromkeys((6, 16), PageKind.SSA),
    **dict.fromkeys((7, 8, 17, 18), PageKind.STACK),
    **dict.fromkeys((20, 21, 22, 23), PageKind.RESERVED),
}


def sdk_measurement_gap(metadata: SdkMetadata) -> str:
    """Say why the pages of this enclave cannot be told from its file; empty where they can."""
    major, minor = metadata.version
    return f"metadata version {major}.{minor} is not supported" if major > _LAST_MEASURED_MAJOR else ""


def sdk_layout(elf: ElfFile, metadata: SdkMetadata) -> EnclaveLayout:
    """Lay out the enclave as the SDK's loader does.

    Raises:
        Refused: A number or an address in the file makes no enclave; the message names field and offset.
    """
    if metadata.enclave_bytes.bit_count() != 1 or metadata.enclave_bytes > MAX_ELRANGE_BYTES:
        refuse_metadata(metadata.at + 40, f"enclave_size {metadata.enclave_bytes:#x} is not a power of two up to {MAX_ELRANGE_BYTES:#x}")
    runs = patched(_image_runs(elf, metadata), _patches(elf, metadata))
    removable, later = 0, []
    entries = list(layout_entries(metadata))
    kinds = _FIRST_IDS if _counts_as_first(entries, metadata.version) else _LATER_IDS
    if sum(entry.page_count for entry in entries if entry.secinfo == SECINFO_TCS) > MAX_THREADS:
        refuse_metadata(metadata.at, f"the layout has more than {MAX_THREADS} pages of TCS")
    made: dict[tuple[int, int], bytes] = {}
    for entry in entries:
        kind = kinds.get(entry.id)
        added = list(_added(metadata, entry, kind, made)) if entry.attributes & EADD else []
        runs += added
        stays = bool(added)
        if entry.attributes & (_EREMOVE | _POST_REMOVE):
            removable += sum(run.page_count for run in added)
            stays = False
        if entry.attributes & _POST_ADD and not stays and entry.page_count:
            secinfo = SECINFO_REG | SECINFO_R | SECINFO_W
            later.append(PageRun(offset=entry.offset, page_count=entry.page_count, secinfo=secinfo, measured_chunks=NO_CHUNKS, label=kind))
    return check_weight(
        EnclaveLayout(
            elrange_bytes=metadata.enclave_bytes,
            ssa_frame_pages=metadata.ssa_frame_pages,
            runs=tuple(runs),
            removable_page_count=removable,
            later_runs=tuple(later),
        )
    )


def _image_runs(elf: ElfFile, metadata: SdkMetadata) -> list[PageRun]:
    """Give the pages of the segments in their order."""
    check_order(elf.loads)
    writable = _text_relocation_pages(elf)
    runs: list[PageRun] = []
    last: Segment | None = None
    for segment in elf.loads:
        if metadata.version == _PADDED_VERSION:
            runs += _padding(last, before=segment)
        if segment.address > (last.address if last else 0):
            last = segment
        runs += segment_runs(elf, segment, writable_pages=writable)
    if metadata.version == _PADDED_VERSION:
        runs += _padding(last, before=None)
    return runs


def _patches(elf: ElfFile, metadata: SdkMetadata) -> Iterator[tuple[int, bytes]]:
    """Give the bytes that the loader overwrites in the file before it loads it, by the address that they are loaded to."""
    total = 0
    for at, target, data in patch_entries(metadata):
        if target + len(data) > len(elf.data):
            where = f"{len(data):#x} bytes to {target:#x}, past the file's {len(elf.data):#x} bytes"
            refuse_metadata(metadata.at + at, f"a patch puts {where}")
        total += len(data)
        if total > len(elf.data):
            refuse_metadata(metadata.at + at + 12, f"the patches up to this one hold {total:#x} bytes, more than the whole file")
        for segment in elf.loads:
            low, high = max(target, segment.offset), min(target + len(data), segment.offset + segment.file_bytes)
            if low < high:
                yield segment.address + low - segment.offset, data[low - target : high - target]


def _text_relocation_pages(elf: ElfFile) -> frozenset[int]:
    """Find the pages that relocations write to where the linker left some in code (DT_TEXTREL); they are added writable."""
    tags = dict(elf.dynamic())
    if DT_TEXTREL not in tags:
        return frozenset()
    pages: set[int] = set()
    for address_tag, size_tag, name in ((DT_RELA, DT_RELASZ, "DT_RELA"), (DT_JMPREL, DT_PLTRELSZ, "DT_JMPREL")):
        size = tags.get(size_tag, 0)
        if address_tag not in tags or not size:
            continue
        if size > MAX_RELOCATIONS * RELA.size:
            refuse(f"the ELF table {name} is {size} bytes long, more than {MAX_RELOCATIONS} entries")
        table = elf.at_address(tags[address_tag], size - size % RELA.size, f"the ELF table {name}")
        for target, info, _ in RELA.iter_unpack(table):
            if info & 0xFFFF_FFFF != R_X86_64_NONE:
                pages.add(target - target % PAGE_BYTES)
                last = target + _WORD_BYTES - 1
                pages.add(last - last % PAGE_BYTES)
    return frozenset(pages)


def _padding(last: Segment | None, *, before: Segment | None) -> Iterator[PageRun]:
    """Give the page of zeros that the first loaders put behind a segment that they took to be a page longer than it is."""
    if last is None:
        return
    end = _page_up(last.end)
    too_far = _page_up(_page_up(last.memory_bytes) + last.address)
    if end < too_far and (before is None or end < before.address - before.address % PAGE_BYTES):
        yield PageRun(offset=end, page_count=1, secinfo=last.secinfo)


def _added(metadata: SdkMetadata, entry: LayoutEntry, kind: PageKind | None, made: dict[tuple[int, int], bytes]) -> Iterator[PageRun]:
    """Give the pages of an entry that are there from the start.

    Args:
        metadata: The block that the entry is of.
        entry: The entry.
        kind: What its id stands for.
        made: Pages made so far, by place and size of their content, so that those that a group repeats take memory once.
    """
    if not entry.page_count:
        return
    label = kind if kind is not PageKind.TCS else None
    measured = ALL_CHUNKS if entry.attributes & _EEXTEND else NO_CHUNKS
    if entry.content_at and entry.secinfo != SECINFO_TCS:
        # Measured whatever the attributes say: the loader takes it for a piece of the image.
        yield from _content_runs(metadata, entry, label, made)
        return
    content = b""
    if entry.content_at:
        content = _tcs_content(metadata, entry)
    elif not entry.secinfo:
        return
    elif entry.content_bytes:
        content = made.setdefault((0, entry.content_bytes), entry.content_bytes.to_bytes(4, "little") * (PAGE_BYTES // 4))
    yield PageRun(
        offset=entry.offset,
        page_count=entry.page_count,
        secinfo=entry.secinfo,
        measured_chunks=measured,
        content=content,
        label=label,
    )


def _content_runs(
    metadata: SdkMetadata, entry: LayoutEntry, label: PageKind | None, made: dict[tuple[int, int], bytes]
) -> Iterator[PageRun]:
    """Give whole pages as they stand in the block, then the one that is part content, then zeros."""
    content = memoryview(metadata.block)[entry.content_at : entry.content_at + entry.content_bytes]
    whole = len(content) // PAGE_BYTES
    rest = content[whole * PAGE_BYTES :]
    backed = whole + (1 if rest else 0)
    if backed > entry.page_count:
        refuse_metadata(entry.at + 16, f"a layout entry has {entry.content_bytes:#x} bytes of content for {entry.page_count} pages")
    offset = entry.offset
    if whole:
        yield PageRun(offset=offset, page_count=whole, secinfo=entry.secinfo, content=content[: whole * PAGE_BYTES], label=label)
    if rest:
        page = made.setdefault((entry.content_at, entry.content_bytes), bytes(rest).ljust(PAGE_BYTES, b"\0"))
        yield PageRun(offset=offset + whole * PAGE_BYTES, page_count=1, secinfo=entry.secinfo, content=page, label=label)
    if backed < entry.page_count:
        yield PageRun(offset=offset + backed * PAGE_BYTES, page_count=entry.page_count - backed, secinfo=entry.secinfo, label=label)


def _tcs_content(metadata: SdkMetadata, entry: LayoutEntry) -> bytes:
    """Fill in a TCS: in the file its addresses count from the TCS itself."""
    if entry.content_bytes > PAGE_BYTES:
        refuse_metadata(entry.at + 16, f"a layout entry has {entry.content_bytes:#x} bytes of content for a TCS")
    content = bytearray(metadata.block[entry.content_at : entry.content_at + entry.content_bytes].ljust(PAGE_BYTES, b"\0"))
    for at in OFFSETS_OF_ADDRESSES:
        _U64.pack_into(content, at, (_U64.unpack_from(content, at)[0] + entry.offset) & _MASK64)
    return bytes(content)


def _counts_as_first(entries: list[LayoutEntry], version: tuple[int, int]) -> bool:
    """Say whether the ids are those of metadata 1.3: the TCS, which is known by its page type, tells."""
    ids = {entry.id for entry in entries if entry.secinfo == SECINFO_TCS}
    return 2 in ids if ids else version == _PADDED_VERSION  # noqa: PLR2004 - an id, see _FIRST_IDS


def _page_up(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES
