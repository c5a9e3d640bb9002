"""One door to an enclave file: bytes in, everything that is known about the enclave out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

from kubenclave.errors import Refused
from kubenclave.sgx import intel_sdk, open_enclave, sdk_metadata
from kubenclave.sgx.elf import MAGIC, read_elf
from kubenclave.sgx.epc import EpcNeed, epc_need
from kubenclave.sgx.measurement import measure
from kubenclave.sgx.sgxs import SgxsStream, check_sgxs, is_sgxs
from kubenclave.sgx.sigstruct import HEADER, Sigstruct, parse_sigstruct, verify_signature

if TYPE_CHECKING:
    from kubenclave.sgx.elf import ElfFile
    from kubenclave.sgx.identity import EnclaveIdentity
    from kubenclave.sgx.open_enclave import OpenEnclaveProperties
    from kubenclave.sgx.pages import EnclaveLayout


class EnclaveFormat(StrEnum):
    """The kinds of file that hold an enclave or its signature."""

    OPEN_ENCLAVE = "Open Enclave ELF"
    INTEL_SDK = "Intel SGX SDK ELF"
    SGXS = "SGXS stream"
    SIGSTRUCT = "SIGSTRUCT"


@dataclass(frozen=True, kw_only=True)
class Enclave:
    """Hold an enclave as a file describes it, and the signature that came with it, if one did.

    Attributes:
        format: The kind of file.
        version: Version of that form: of the Open Enclave releases that write it, of the SDK's metadata; empty where there is none.
        known_pages: The pages; None where the file does not hold them or its rules are not supported, and ``layout_gap`` says why.
        layout_gap: Why there are none.
        sigstruct: The signature; None where there is none.
        sigstruct_at: Where in the file the signature stands or would stand; None where it is a file of its own.
        properties: What ``.oeinfo`` says; None in other files.
        elf: The ELF file that the pages come from; None in other files.
        other_blocks: The enclave as further metadata blocks of an SDK file describe it.
    """

    format: EnclaveFormat
    version: str = ""
    known_pages: EnclaveLayout | SgxsStream | None
    layout_gap: str = ""
    sigstruct: Sigstruct | None
    sigstruct_at: int | None = None
    properties: OpenEnclaveProperties | None = None
    elf: ElfFile | None = None
    other_blocks: tuple[Enclave, ...] = ()

    @cached_property
    def known_layout(self) -> EnclaveLayout | None:
        """Give the pages with their content, which for an SGXS stream takes memory of its own; None where they are not known."""
        return self.known_pages.layout() if isinstance(self.known_pages, SgxsStream) else self.known_pages

    @property
    def layout(self) -> EnclaveLayout:
        """Give the pages of an enclave that has them.

        Raises:
            Refused: The file does not tell the pages.
        """
        if self.known_layout is None:
            raise self._unknown()
        return self.known_layout

    @property
    def _pages(self) -> EnclaveLayout | SgxsStream:
        if self.known_pages is None:
            raise self._unknown()
        return self.known_pages

    def _unknown(self) -> Refused:
        what = f"the pages of this enclave are not known: {self.layout_gap}"
        return Refused(what, "Its identity can be read; measuring it takes the tools that built it.")

    @cached_property
    def mrenclave(self) -> bytes:
        """Measure the pages; what the signature says stands in ``sigstruct.mrenclave``.

        Raises:
            Refused: The file does not tell the pages.
        """
        pages = self._pages
        return pages.mrenclave if isinstance(pages, SgxsStream) else measure(pages)

    @property
    def thread_count(self) -> int:
        """Count the threads that can be inside at once from the start.

        Raises:
            Refused: The file does not tell the pages.
        """
        return self._pages.thread_count

    @property
    def epc_need(self) -> EpcNeed:
        """Give the EPC that one instance takes once it is built.

        Raises:
            Refused: The file does not tell the pages.
        """
        return epc_need(self._pages.page_count)

    @property
    def max_epc_need(self) -> EpcNeed:
        """Give the EPC that one instance takes when it has asked for all pages that it may ask for (SGX2).

        Raises:
            Refused: The file does not tell the pages.
        """
        return epc_need(self.layout.max_page_count)

    def verified_identity(self) -> EnclaveIdentity:
        """Give the identity after checking what EINIT checks: the signature, and that it is one of these pages.

        Raises:
            Refused: There is no signature, it does not verify, or it signs another measurement.
        """
        if self.sigstruct is None:
            raise Refused("the enclave has no signature", "Give the SIGSTRUCT (.sig) beside the enclave, or sign it.")
        verify_signature(self.sigstruct)
        if self.sigstruct.mrenclave != self.mrenclave:
            what = f"the enclave measures {self.mrenclave.hex()}, but its signature is over {self.sigstruct.mrenclave.hex()}"
            raise Refused(what, "One of the two files is damaged or belongs to another build; build and sign the enclave again.")
        return self.sigstruct.identity


def read_enclave(data: bytes, sigstruct: bytes | None = None) -> Enclave:
    """Read an enclave file, recognised by its content.

    Args:
        data: The file: an Open Enclave or Intel SGX SDK ELF file, an SGXS stream, or a bare SIGSTRUCT.
        sigstruct: The 1808 bytes of the SIGSTRUCT beside an SGXS stream, if there is one.

    Raises:
        Refused: The file is of no known format, or damaged; the message names field and offset.
    """
    if sigstruct is not None and not is_sgxs(data):
        raise Refused("a signature was given with a file that is not an SGXS stream", "ELF files hold their own; give the file alone.")
    if data.startswith(MAGIC):
        return _read_elf_enclave(data)
    if is_sgxs(data):
        parsed = None if sigstruct is None else parse_sigstruct(sigstruct)
        return Enclave(format=EnclaveFormat.SGXS, known_pages=check_sgxs(data), sigstruct=parsed)
    if data.startswith(HEADER):
        gap = "a SIGSTRUCT holds their measurement alone"
        return Enclave(format=EnclaveFormat.SIGSTRUCT, known_pages=None, layout_gap=gap, sigstruct=parse_sigstruct(data), sigstruct_at=0)
    what = f"the file of {len(data)} bytes is neither an ELF file nor an SGXS stream nor a SIGSTRUCT"
    raise Refused(f"{what}: at offset 0 it has {data[:8].hex() or 'nothing'}", "Give an enclave file.")


def _read_elf_enclave(data: bytes) -> Enclave:
    elf = read_elf(data)
    section = elf.section(open_enclave.SECTION)
    if section is not None:
        properties = open_enclave.read_properties(elf, section)
        gap = open_enclave.measurement_gap(elf, properties)
        return Enclave(
            format=EnclaveFormat.OPEN_ENCLAVE,
            version=properties.releases,
            known_pages=None if gap else open_enclave.open_enclave_layout(elf, section, properties),
            layout_gap=gap,
            sigstruct=None if properties.sigstruct is None else parse_sigstruct(properties.sigstruct, at=properties.sigstruct_at),
            sigstruct_at=properties.sigstruct_at,
            properties=properties,
            elf=elf,
        )
    section = elf.section(sdk_metadata.SECTION)
    if section is not None:
        blocks = [_sdk_block(elf, metadata) for metadata in sdk_metadata.read_metadata(elf, section)]
        first = next((block for block in blocks if block.known_pages is not None), blocks[0])
        others = tuple(block for block in blocks if block is not first)
        return Enclave(
            format=first.format,
            version=first.version,
            known_pages=first.known_pages,
            layout_gap=first.layout_gap,
            sigstruct=first.sigstruct,
            sigstruct_at=first.sigstruct_at,
            elf=elf,
            other_blocks=others,
        )
    what = f"the ELF file has neither a section {open_enclave.SECTION} nor {sdk_metadata.SECTION}, so it is no enclave of a known SDK"
    raise Refused(what, "A freestanding ELF program becomes an enclave with `kubenclave enclave pack`.")


def _sdk_block(elf: ElfFile, metadata: sdk_metadata.SdkMetadata) -> Enclave:
    gap = intel_sdk.sdk_measurement_gap(metadata)
    return Enclave(
        format=EnclaveFormat.INTEL_SDK,
        version=".".join(str(number) for number in metadata.version),
        known_pages=None if gap else intel_sdk.sdk_layout(elf, metadata),
        layout_gap=gap,
        sigstruct=None if metadata.sigstruct is None else parse_sigstruct(metadata.sigstruct, at=metadata.sigstruct_at),
        sigstruct_at=metadata.sigstruct_at,
        elf=elf,
    )
