"""One door to an enclave file: bytes in, everything that is known about the enclave out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from kubenclave.errors import Refused
from kubenclave.sgx.epc import EpcNeed, epc_need
from kubenclave.sgx.measurement import measure
from kubenclave.sgx.sgxs import is_sgxs, read_sgxs
from kubenclave.sgx.sigstruct import Sigstruct, parse_sigstruct, verify_signature

if TYPE_CHECKING:
    from kubenclave.sgx.identity import EnclaveIdentity
    from kubenclave.sgx.pages import EnclaveLayout


@dataclass(frozen=True, kw_only=True)
class Enclave:
    """Hold an enclave and the signature that came with it, if one did.

    Attributes:
        layout: The pages.
        sigstruct: The signature; None where none was given.
    """

    layout: EnclaveLayout
    sigstruct: Sigstruct | None

    @cached_property
    def mrenclave(self) -> bytes:
        """Measure the pages; what the signature says stands in ``sigstruct.mrenclave``."""
        return measure(self.layout)

    @property
    def epc_need(self) -> EpcNeed:
        """Give the EPC that one running instance takes."""
        return epc_need(self.layout.page_count)

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
        data: The enclave file; at present an SGXS stream.
        sigstruct: The 1808 bytes of the SIGSTRUCT beside it, if there is one.

    Raises:
        Refused: The file is of no known format, or damaged; the message names field and offset.
    """
    if not is_sgxs(data):
        raise Refused("the enclave file is not an SGXS stream: it does not begin with ECREATE", "Pack the enclave as SGXS.")
    return Enclave(layout=read_sgxs(data), sigstruct=None if sigstruct is None else parse_sigstruct(sigstruct))
