"""What a person should know about an enclave before running it. Pure: an enclave in, findings out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kubenclave.sgx.epc import MIB
from kubenclave.sgx.pages import SECINFO_W, SECINFO_X
from kubenclave.sgx.sigstruct import FLAG_DEBUG
from kubenclave.sgx.tables import known_signer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.sgx.enclave import Enclave
    from kubenclave.sgx.open_enclave import OpenEnclaveProperties
    from kubenclave.sgx.sigstruct import Sigstruct
    from kubenclave.sgx.tables import KnownSigner

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Say one thing about an enclave.

    Attributes:
        severity: ``error``: the processor will not start it. ``warning``: it will, and that may be unwanted. ``note``: worth knowing.
        name: The kind of finding, for programs.
        text: What was found.
    """

    severity: Severity
    name: str
    text: str


def find(enclave: Enclave, *, signature_fault: str, epc_limit_bytes: int | None) -> tuple[Finding, ...]:
    """Find what there is to say, gravest first.

    Args:
        enclave: The enclave.
        signature_fault: What is wrong with its signature, as ``verify_signature`` says; empty where nothing is.
        epc_limit_bytes: EPC of the machine it is meant for; None asks for no comparison.
    """
    signer = None if enclave.sigstruct is None else known_signer(enclave.sigstruct.mrsigner)
    found = [*_of_signature(enclave.sigstruct, signature_fault, signer), *_of_pages(enclave, epc_limit_bytes)]
    if enclave.properties is not None and enclave.sigstruct is not None:
        found += _of_properties(enclave.properties, enclave.sigstruct)
    order: tuple[Severity, ...] = ("error", "warning", "note")
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def _of_signature(sigstruct: Sigstruct | None, fault: str, signer: KnownSigner | None) -> Iterator[Finding]:
    if sigstruct is None:
        yield Finding(severity="warning", name="unsigned", text="The enclave is not signed, and EINIT starts none without a SIGSTRUCT.")
        return
    if fault:
        yield Finding(severity="error", name="signature-invalid", text=f"The signature does not verify: {fault}.")
    if sigstruct.debug_allowed:
        why = "DEBUG is set in its attributes" if sigstruct.flags & FLAG_DEBUG else "its attribute mask leaves DEBUG open"
        yield Finding(
            severity="warning",
            name="debug-possible",
            text=f"A host can launch the enclave in debug mode and read its memory: {why}.",
        )
    if signer is not None and signer.is_public_key:
        yield Finding(
            severity="warning",
            name="test-signer",
            text=f"It is signed with {signer.name}, which is published: anybody can sign with it, so MRSIGNER says nothing.",
        )
    if sigstruct.isv_svn == 0:
        yield Finding(severity="note", name="isv-svn-zero", text="ISVSVN is 0: no earlier version can be told apart and shut out.")


def _of_pages(enclave: Enclave, epc_limit_bytes: int | None) -> Iterator[Finding]:
    if enclave.known_pages is None:
        yield Finding(severity="note", name="not-measured", text=f"The pages are not known: {enclave.layout_gap}.")
        return
    for block in (enclave, *enclave.other_blocks):
        if block.known_pages is not None and block.sigstruct is not None and block.sigstruct.mrenclave != block.mrenclave:
            which = f" of metadata {block.version}" if enclave.other_blocks else ""
            text = f"The pages measure {block.mrenclave.hex()}, but the SIGSTRUCT{which} signs {block.sigstruct.mrenclave.hex()}."
            yield Finding(severity="error", name="measurement-differs", text=text)
    both = SECINFO_W | SECINFO_X
    count = sum(run.page_count for run in enclave.layout.runs if run.secinfo & both == both)
    if count:
        text = f"{count} pages are writable and executable: whoever can write to them can run code in the enclave."
        yield Finding(severity="warning", name="writable-executable", text=text)
    if epc_limit_bytes is not None:
        yield from _of_epc(enclave.epc_need.epc_bytes, enclave.max_epc_need.epc_bytes, epc_limit_bytes)


def _of_epc(first_bytes: int, most_bytes: int, limit_bytes: int) -> Iterator[Finding]:
    if most_bytes > limit_bytes:
        takes = f"it takes {first_bytes / MIB:.1f}" if first_bytes > limit_bytes else f"it may grow to {most_bytes / MIB:.1f}"
        text = (
            f"The machine has {limit_bytes / MIB:.1f} MiB of EPC and {takes} MiB: "
            "a node does not offer that much, and without a limit its pages are swapped."
        )
        yield Finding(severity="warning", name="epc-above-limit", text=text)


def _of_properties(properties: OpenEnclaveProperties, sigstruct: Sigstruct) -> Iterator[Finding]:
    """Compare what was asked of the signer with what was signed; the processor enforces the latter."""
    pairs = (
        ("ISVPRODID", properties.isv_prod_id, sigstruct.isv_prod_id),
        ("ISVSVN", properties.isv_svn, sigstruct.isv_svn),
        ("ATTRIBUTES", properties.attributes, sigstruct.flags),
        ("ISVFAMILYID", properties.isv_family_id.hex(), sigstruct.isv_family_id.hex()),
        ("ISVEXTPRODID", properties.isv_ext_prod_id.hex(), sigstruct.isv_ext_prod_id.hex()),
    )
    differing = [f"{name} {asked} there and {signed} signed" for name, asked, signed in pairs if asked != signed]
    if differing:
        text = f".oeinfo disagrees with the SIGSTRUCT, which is what counts: {', '.join(differing)}."
        yield Finding(severity="warning", name="oeinfo-disagrees", text=text)
