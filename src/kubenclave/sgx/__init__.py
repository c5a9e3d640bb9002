"""What an enclave file is, claims and weighs: its pages, measurement, signature and EPC need.

Bytes in, values out: this room opens no file but its own tables, asks no clock and no network, logs nothing and knows no
Kubernetes. It is a documented Python API; the names below are its public ones::

    enclave = read_enclave(Path("enclave.signed.so").read_bytes())
    enclave.verified_identity().mrenclave.hex()
    enclave.epc_need.epc_mib
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubenclave.sgx.difference import Difference, compare
    from kubenclave.sgx.embedding import with_choices, with_signatures
    from kubenclave.sgx.enclave import Enclave, EnclaveFormat, read_enclave
    from kubenclave.sgx.epc import EpcNeed, epc_need
    from kubenclave.sgx.findings import Finding
    from kubenclave.sgx.identity import EnclaveIdentity
    from kubenclave.sgx.layout import lay_out
    from kubenclave.sgx.measurement import measure
    from kubenclave.sgx.open_enclave import OpenEnclaveProperties
    from kubenclave.sgx.pages import EnclaveLayout, PageKind, PageRun
    from kubenclave.sgx.picture import draw_picture
    from kubenclave.sgx.report import EnclaveReport, describe
    from kubenclave.sgx.sgxs import read_sgxs, write_sgxs
    from kubenclave.sgx.signing import (
        complete,
        digest_to_sign,
        draft_sigstruct,
        generate_signing_key,
        load_public_modulus,
        load_signing_key,
        public_key_pem,
        redraft,
        sign,
        signing_key_pem,
    )
    from kubenclave.sgx.sigstruct import Sigstruct, parse_sigstruct, verify_signature
    from kubenclave.sgx.tables import vm_size_epc_bytes

__all__ = [
    "Difference",
    "Enclave",
    "EnclaveFormat",
    "EnclaveIdentity",
    "EnclaveLayout",
    "EnclaveReport",
    "EpcNeed",
    "Finding",
    "OpenEnclaveProperties",
    "PageKind",
    "PageRun",
    "Sigstruct",
    "compare",
    "complete",
    "describe",
    "digest_to_sign",
    "draft_sigstruct",
    "draw_picture",
    "epc_need",
    "generate_signing_key",
    "lay_out",
    "load_public_modulus",
    "load_signing_key",
    "measure",
    "parse_sigstruct",
    "public_key_pem",
    "read_enclave",
    "read_sgxs",
    "redraft",
    "sign",
    "signing_key_pem",
    "verify_signature",
    "vm_size_epc_bytes",
    "with_choices",
    "with_signatures",
    "write_sgxs",
]

_HOMES = {
    "difference": ("Difference", "compare"),
    "embedding": ("with_choices", "with_signatures"),
    "enclave": ("Enclave", "EnclaveFormat", "read_enclave"),
    "epc": ("EpcNeed", "epc_need"),
    "findings": ("Finding",),
    "identity": ("EnclaveIdentity",),
    "layout": ("lay_out",),
    "measurement": ("measure",),
    "open_enclave": ("OpenEnclaveProperties",),
    "pages": ("EnclaveLayout", "PageKind", "PageRun"),
    "picture": ("draw_picture",),
    "report": ("EnclaveReport", "describe"),
    "sgxs": ("read_sgxs", "write_sgxs"),
    "signing": (
        "complete",
        "digest_to_sign",
        "draft_sigstruct",
        "generate_signing_key",
        "load_public_modulus",
        "load_signing_key",
        "public_key_pem",
        "redraft",
        "sign",
        "signing_key_pem",
    ),
    "sigstruct": ("Sigstruct", "parse_sigstruct", "verify_signature"),
    "tables": ("vm_size_epc_bytes",),
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
