"""Facts that change without code: whose signing keys are known, how much EPC a VM size has.

Reads the data files beside it, each of which names its source and date; nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TypedDict

from kubenclave.errors import NotFound
from kubenclave.sgx.epc import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSigner:
    """Name the holder of a signing key.

    Attributes:
        name: Who it is.
        is_public_key: Whether the private key is published, so that anybody can sign with it.
    """

    name: str
    is_public_key: bool


def known_signer(mrsigner: bytes) -> KnownSigner | None:
    """Find who signs with the key of this MRSIGNER, if it is one that is known."""
    return _signers().get(mrsigner.hex())


def vm_size_epc_bytes(vm_size: str) -> int:
    """Give the EPC that an Azure VM size has by its documentation.

    Raises:
        NotFound: No such VM size with SGX is known.
    """
    sizes = _vm_sizes()
    for name, epc_bytes in sizes.items():
        if name.casefold() == vm_size.casefold():
            return epc_bytes
    raise NotFound(f"no VM size {vm_size!r} with SGX is known", f"known are: {', '.join(sizes)}")


class _SignerRow(TypedDict):
    mrsigner: str
    name: str
    public_key: bool
    source: str


class _SignerTable(TypedDict):
    signers: list[_SignerRow]


class _SizeTable(TypedDict):
    epc_mib: dict[str, int]


@cache
def _signers() -> dict[str, KnownSigner]:
    table: _SignerTable = json.loads(_text("known_signers.json"))
    return {row["mrsigner"]: KnownSigner(name=row["name"], is_public_key=row["public_key"]) for row in table["signers"]}


@cache
def _vm_sizes() -> dict[str, int]:
    table: _SizeTable = json.loads(_text("vm_sizes.json"))
    return {name: mib * MIB for name, mib in table["epc_mib"].items()}


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
