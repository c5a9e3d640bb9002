"""What an enclave file is, claims and weighs: its pages, measurement, signature and EPC need.

Bytes in, values out: this room opens no file, asks no clock and no network, logs nothing and knows no Kubernetes. It is a documented
Python API; the names below are its public ones::

    enclave = read_enclave(sgxs_bytes, sigstruct_bytes)
    enclave.verified_identity().mrenclave.hex()
    enclave.epc_need.epc_mib
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubenclave.sgx.enclave import Enclave, read_enclave
    from kubenclave.sgx.epc import EpcNeed, epc_need
    from kubenclave.sgx.identity import EnclaveIdentity
    from kubenclave.sgx.layout import lay_out
    from kubenclave.sgx.measurement import measure
    from kubenclave.sgx.pages import EnclaveLayout, PageRun
    from kubenclave.sgx.sgxs import read_sgxs, write_sgxs
    from kubenclave.sgx.signing import complete, draft_sigstruct, generate_signing_key, load_signing_key, sign, signing_key_pem
    from kubenclave.sgx.sigstruct import Sigstruct, parse_sigstruct, verify_signature

__all__ = [
    "Enclave",
    "EnclaveIdentity",
    "EnclaveLayout",
    "EpcNeed",
    "PageRun",
    "Sigstruct",
    "complete",
    "draft_sigstruct",
    "epc_need",
    "generate_signing_key",
    "lay_out",
    "load_signing_key",
    "measure",
    "parse_sigstruct",
    "read_enclave",
    "read_sgxs",
    "sign",
    "signing_key_pem",
    "verify_signature",
    "write_sgxs",
]

_HOMES = {
    "enclave": ("Enclave", "read_enclave"),
    "epc": ("EpcNeed", "epc_need"),
    "identity": ("EnclaveIdentity",),
    "layout": ("lay_out",),
    "measurement": ("measure",),
    "pages": ("EnclaveLayout", "PageRun"),
    "sgxs": ("read_sgxs", "write_sgxs"),
    "signing": ("complete", "draft_sigstruct", "generate_signing_key", "load_signing_key", "sign", "signing_key_pem"),
    "sigstruct": ("Sigstruct", "parse_sigstruct", "verify_signature"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: the node agent uses this room without its crypto and ELF libraries (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return __all__
