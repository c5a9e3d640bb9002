"""Open Enclave files: an ELF image with its properties and signature in ``.oeinfo``.

Pure: ELF in, values out. Sources: openenclave include/openenclave/bits/sgx/sgxproperties.h (the structure, which grew over the versions),
host/sgx/loadelf.c and create.c (what the loader patches and the order in which it adds pages), common/sgx/sgxmeasure.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from kubenclave.errors import Refused
from kubenclave.sgx.elf import (
    DT_NEEDED,
    PT_TLS,
    R_X86_64_TPOFF64,
    RELA,
    check_order,
    refuse,
    segment_runs,
    symbol_addresses,
)
from kubenclave.sgx.pages import (
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
from kubenclave.sgx.sigstruct import SIGSTRUCT_BYTES
from kubenclave.sgx.tcs import TCS, UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.sgx.elf import ElfFile, Section

SECTION: Final = ".oeinfo"

MAX_THREADS: Final = 1024
"""Open Enclave itself allows 32 (OE_SGX_MAX_TCS); forks of it more."""
MAX_RELOCATIONS: Final = 1 << 20
"""24 MiB of them; a program of 4 MiB has about ten thousand."""

_TYPE_SGX = 2
_HEADER = struct.Struct("<IIQQQ")
"""Size, type, heap pages, stack pages, TCS count."""
_CONFIG_16 = struct.Struct("<HH4xQ")
_CONFIG_24 = struct.Struct("<HH4xQQ")
_CONFIG_56 = struct.Struct("<HHI16s16sQQ")
_PRODUCT = struct.Struct("<HH")
_ATTRIBUTES_AT = 40
_IMAGE_INFO = struct.Struct("<QQQQQQ")
"""oeinfo_rva, oeinfo_size, reloc_rva, reloc_size, heap_rva, enclave_size."""
_U64 = struct.Struct("<Q")

_FLAG_CAPTURE_PF_GP, _FLAG_ZERO_BASE = 1, 2
_SSA_FRAMES = 2
_CONTROL_PAGES = 1 + _SSA_FRAMES + 1
"""TCS, state save areas, guard: what lies between the start of a TCS and its thread-local pages."""
_STACK_FILL = b"\xcc" * PAGE_BYTES
_DATA = SECINFO_REG | SECINFO_R | SECINFO_W
_HINT = "Get an undamaged copy of the enclave, or build it again."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    releases: str
    size: int
    config: struct.Struct
    image_info_at: int
    sigstruct_at: int


_VERSIONS: Final = (
    _Version(releases="0.4", size=1856, config=_CONFIG_16, image_info_at=0, sigstruct_at=48),
    _Version(releases="0.6-0.12", size=1920, config=_CONFIG_24, image_info_at=56, sigstruct_at=104),
    _Version(releases="0.14-0.17", size=1952, config=_CONFIG_56, image_info_at=88, sigstruct_at=136),
    _Version(releases="0.18-0.19", size=1960, config=_CONFIG_56, image_info_at=96, sigstruct_at=144),
)
_MEASURED: Final = _VERSIONS[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenEnclaveProperties:
    """Hold what ``.oeinfo`` says. The loader takes sizes from it; the identity that EINIT enforces is that of the SIGSTRUCT alone.

    Attributes:
        releases: The Open Enclave releases that write this version of the structure.
        heap_pages: Pages of the heap.
        stack_pages: Pages of each thread's stack.
        tcs_count: Number of threads.
        isv_prod_id: Product number.
        isv_svn: Security version number.
        attributes: ATTRIBUTES.FLAGS that the signer was asked for.
        isv_family_id: Product family; zero before release 0.14.
        isv_ext_prod_id: Extended product id; zero before release 0.14.
        capture_pf_gp: Whether page faults are reported to the enclave (MISCSELECT bit 0).
        zero_base: Whether the enclave asks to lie at a fixed address.
        at: Offset of the structure in the file.
        sigstruct_at: Offset of the SIGSTRUCT in the file.
        sigstruct: Its 1808 bytes; None where the enclave is not signed.
    """

    releases: str
    heap_pages: int
    stack_pages: int
    tcs_count: int
    isv_prod_id: int
    isv_svn: int
    attributes: int
    isv_family_id: bytes
    isv_ext_prod_id: bytes
    capture_pf_gp: bool
    zero_base: bool
    at: int
    sigstruct_at: int
    sigstruct: bytes | None


def read_properties(elf: ElfFile, section: Section) -> OpenEnclaveProperties:
    """Read ``.oeinfo``.

    Raises:
        Refused: It is of no known version, or cut short; the message names field and offset.
    """
    content = elf.content(section)
    if len(content) < _HEADER.size:
        _refuse(section.offset, f"the section is {len(content)} bytes long, shorter than its header")
    size, kind, heap_pages, stack_pages, tcs_count = _HEADER.unpack_from(content)
    version = next((version for version in _VERSIONS if version.size == size), None)
    if version is None:
        known = ", ".join(str(version.size) for version in _VERSIONS)
        _refuse(section.offset, f"header.size is {size}, which no known version has ({known})")
    if kind != _TYPE_SGX:
        _refuse(section.offset + 4, f"header.enclave_type is {kind}, not {_TYPE_SGX} (SGX)")
    if len(content) < size:
        _refuse(section.offset, f"header.size is {size}, but the section has {len(content)} bytes")
    config = version.config.unpack_from(content, _HEADER.size)
    prod_id, svn, flags, family, ext, attributes = _config(config)
    sigstruct = bytes(content[version.sigstruct_at : version.sigstruct_at + SIGSTRUCT_BYTES])
    return OpenEnclaveProperties(
        releases=version.releases,
        heap_pages=heap_pages,
        stack_pages=stack_pages,
        tcs_count=tcs_count,
        isv_prod_id=prod_id,
        isv_svn=svn,
        attributes=attributes,
        isv_family_id=family,
        isv_ext_prod_id=ext,
        capture_pf_gp=bool(flags & _FLAG_CAPTURE_PF_GP),
        zero_base=bool(flags & _FLAG_ZERO_BASE),
        at=section.offset,
        sigstruct_at=section.offset + version.sigstruct_at,
        sigstruct=sigstruct if any(sigstruct) else None,
    )


def measurement_gap(elf: ElfFile, properties: OpenEnclaveProperties) -> str:
    """Say why the pages of this enclave cannot be told from its file; empty where they can."""
    if properties.releases != _MEASURED.releases:
        return f"Open Enclave {properties.releases} builds an enclave by rules that are not supported"
    if properties.zero_base:
        return "it asks for a zero base address, whose rules are not supported"
    if any(tag == DT_NEEDED for tag, _ in elf.dynamic()):
        return "it loads a second shared object (DT_NEEDED), which is not in this file"
    return ""


def open_enclave_layout(elf: ElfFile, section: Section, properties: OpenEnclaveProperties) -> EnclaveLayout:
    """Lay out the enclave as the loader of Open Enclave 0.18 does.

    Raises:
        Refused: A number or an address in the file makes no enclave; the message names it.
    """
    _check_numbers(properties)
    check_order(elf.loads)
    if not elf.loads or elf.loads[0].address:
        refuse("the enclave's ELF file has no PT_LOAD segment at address 0")
    image_end = _page_up(elf.loads[-1].end)
    runs = [run for segment in elf.loads for run in segment_runs(elf, segment)]
    relocations = _relocations(elf)
    tls = _thread_local(elf)
    heap_offset = image_end + len(relocations)
    threads_offset = heap_offset + properties.heap_pages * PAGE_BYTES
    thread_bytes = (properties.stack_pages + tls.pages + _CONTROL_PAGES + 3) * PAGE_BYTES
    end = threads_offset + properties.tcs_count * thread_bytes
    elrange_bytes = 1 << max(end - 1, 1).bit_length()

    info = (section.address, _MEASURED.size, image_end, len(relocations), heap_offset, elrange_bytes)
    patches = [
        (section.address + _MEASURED.image_info_at, _IMAGE_INFO.pack(*info)),
        (section.address + _MEASURED.sigstruct_at, bytes(SIGSTRUCT_BYTES)),
    ]
    patches += _symbol_patches(elf, image_end=image_end, reloc_bytes=len(relocations), tls=tls)
    runs = patched(runs, patches)
    if relocations:
        pages = len(relocations) // PAGE_BYTES
        secinfo = SECINFO_REG | SECINFO_R
        runs.append(PageRun(offset=image_end, page_count=pages, secinfo=secinfo, content=bytes(relocations), label=PageKind.RELOCATIONS))
    if properties.heap_pages:
        heap_pages = properties.heap_pages
        runs.append(PageRun(offset=heap_offset, page_count=heap_pages, secinfo=_DATA, measured_chunks=NO_CHUNKS, label=PageKind.HEAP))
    for number in range(properties.tcs_count):
        runs += _thread_runs(threads_offset + number * thread_bytes, properties.stack_pages, entry=elf.entry, tls_pages=tls.pages)
    return check_weight(EnclaveLayout(elrange_bytes=elrange_bytes, ssa_frame_pages=1, runs=tuple(runs)))


def configured(properties: OpenEnclaveProperties, *, isv_prod_id: int, isv_svn: int, attributes: int) -> dict[int, bytes]:
    """Give the bytes, by their offset in the file, by which ``.oeinfo`` of releases 0.18-0.19 says what is to be signed."""
    config = properties.at + _HEADER.size
    return {config: _PRODUCT.pack(isv_prod_id, isv_svn), config + _ATTRIBUTES_AT: _U64.pack(attributes)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _ThreadLocal:
    """Where the initial thread-local data lies and how much room a thread's copy takes."""

    tdata_address: int = 0
    tdata_bytes: int = 0
    tdata_alignment: int = 1
    tbss_bytes: int = 0
    tbss_alignment: int = 1

    @property
    def pages(self) -> int:
        total = _round_up(self.tdata_bytes, self.tdata_alignment) + _round_up(self.tbss_bytes, self.tbss_alignment)
        return -(-total // PAGE_BYTES)


def _config(fields: tuple[int | bytes, ...]) -> tuple[int, int, int, bytes, bytes, int]:
    """Bring the versions of the configuration to one form: product, SVN, flags, family, extended product id, attributes."""
    match fields:
        case (int(prod_id), int(svn), int(flags), bytes(family), bytes(ext), int(attributes), int()):
            return prod_id, svn, flags, family, ext, attributes
        case (int(prod_id), int(svn), int(attributes), *_):
            return prod_id, svn, 0, bytes(16), bytes(16), attributes
    raise AssertionError(fields)


def _check_numbers(properties: OpenEnclaveProperties) -> None:
    limits = (("heap_pages", 8, 1 << 24), ("stack_pages", 16, 1 << 20), ("tcs_count", 24, MAX_THREADS))
    for name, at, most in limits:
        value = getattr(properties, name)
        if value > most:
            _refuse(properties.at + at, f"{name} is {value}, more than {most}")


def _relocations(elf: ElfFile) -> bytearray:
    """Join the relocation tables, padded to pages; thread-local ones get the value of their symbol, which the enclave cannot look up."""
    table = bytearray()
    for name in (".rela.dyn", ".rela.plt"):
        section = elf.section(name)
        if section is not None:
            table += elf.content(section)
    if len(table) > MAX_RELOCATIONS * RELA.size:
        refuse(f"the enclave's ELF file has {len(table)} bytes of relocations, more than {MAX_RELOCATIONS} entries")
    entries = memoryview(table)[: len(table) - len(table) % RELA.size]
    thread_local = [(at, info >> 32) for at, (_, info, _) in enumerate(RELA.iter_unpack(entries)) if info & 0xFFFF_FFFF == R_X86_64_TPOFF64]
    if thread_local:
        values = [symbol.address for symbol in elf.symbols(".dynsym")]
        for at, index in thread_local:
            if index >= len(values):
                refuse(f"relocation {at} of the enclave's ELF file is for symbol {index}, and .dynsym has {len(values)}")
            _U64.pack_into(table, at * RELA.size + 16, values[index])
    return table.ljust(_page_up(len(table)), b"\0")


def _thread_local(elf: ElfFile) -> _ThreadLocal:
    tdata, tbss = elf.section(".tdata"), elf.section(".tbss")
    program = next((segment for segment in elf.segments if segment.type == PT_TLS), None)
    if tdata is None:
        tls = _ThreadLocal()
    else:
        # The program header's alignment is what the threads' copies are aligned by, if it is this section's.
        same = program is not None and program.address == tdata.address
        alignment = program.alignment if program is not None and same else tdata.alignment
        tls = _ThreadLocal(tdata_address=tdata.address, tdata_bytes=tdata.size, tdata_alignment=alignment)
    if tbss is not None:
        tls = _ThreadLocal(
            tdata_address=tls.tdata_address,
            tdata_bytes=tls.tdata_bytes,
            tdata_alignment=tls.tdata_alignment,
            tbss_bytes=tbss.size,
            tbss_alignment=tbss.alignment,
        )
    if tls.pages > MAX_RELOCATIONS:
        refuse(f"the ELF sections .tdata and .tbss take {tls.pages} pages of each thread, more than {MAX_RELOCATIONS}")
    return tls


def _symbol_patches(elf: ElfFile, *, image_end: int, reloc_bytes: int, tls: _ThreadLocal) -> Iterator[tuple[int, bytes]]:
    """Give the variables by which the loader tells the enclave how it is laid out."""
    values: dict[str, int] = {"_reloc_rva": image_end, "_reloc_size": reloc_bytes}
    if tls.tdata_bytes:
        values |= {"_tdata_rva": tls.tdata_address, "_tdata_size": tls.tdata_bytes, "_tdata_align": tls.tdata_alignment}
    if tls.tbss_bytes:
        values |= {"_tbss_size": tls.tbss_bytes, "_tbss_align": tls.tbss_alignment}
    values["_td_from_tcs_offset"] = (tls.pages + _CONTROL_PAGES) * PAGE_BYTES
    addresses = symbol_addresses(elf, ["_enclave_rva", *values])
    for name in ("_enclave_rva", "_reloc_rva", "_reloc_size"):
        if name not in addresses:
            refuse(f"the enclave's ELF file has no dynamic symbol {name}, which every Open Enclave program has")
    values["_enclave_rva"] = addresses["_enclave_rva"]
    for name, address in addresses.items():
        if address + _U64.size > image_end:
            refuse(f"the dynamic symbol {name} of the enclave's ELF file has st_value {address:#x}, outside its {image_end:#x} bytes")
        yield address, _U64.pack(values[name])


def _thread_runs(offset: int, stack_pages: int, *, entry: int, tls_pages: int) -> Iterator[PageRun]:
    """Place one thread: guard, stack, guard, TCS, state save areas, guard, thread-local data and the thread's own page."""
    stack = offset + PAGE_BYTES
    tcs = stack + (stack_pages + 1) * PAGE_BYTES
    ssa = tcs + PAGE_BYTES
    thread_data = tcs + _CONTROL_PAGES * PAGE_BYTES
    segment_base = thread_data + tls_pages * PAGE_BYTES
    content = TCS.pack(0, 0, ssa, 0, _SSA_FRAMES, entry, 0, segment_base, segment_base, UNLIMITED, UNLIMITED).ljust(PAGE_BYTES, b"\0")
    if stack_pages:
        yield PageRun(offset=stack, page_count=stack_pages, secinfo=_DATA, content=_STACK_FILL, label=PageKind.STACK)
    yield PageRun(offset=tcs, page_count=1, secinfo=SECINFO_TCS, content=content)
    yield PageRun(offset=ssa, page_count=_SSA_FRAMES, secinfo=_DATA, label=PageKind.SSA)
    yield PageRun(offset=thread_data, page_count=tls_pages + 1, secinfo=_DATA, label=PageKind.THREAD_DATA)


def _round_up(size: int, alignment: int) -> int:
    return size if alignment <= 1 else -(-size // alignment) * alignment


def _page_up(size: int) -> int:
    return _round_up(size, PAGE_BYTES)


def _refuse(at: int, what: str) -> NoReturn:
    raise Refused(f"{SECTION} at offset {at:#x}: {what}", _HINT)
