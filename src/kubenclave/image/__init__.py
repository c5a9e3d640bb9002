"""Module 2: an enclave application as a small, reproducible OCI image.

A host program and its enclave become the files that they need (``closure``, ``needs``), layers that are the same bytes every time
(``layer``), an OCI archive or layout that carries what the enclave is (``oci``), and documents that say what is in it and how it was built
(``attest``). ``registry`` brings images to registries and back; ``reading`` looks into images of anyone. Nothing is run to find out what
is needed, no container engine takes part, and nothing outside the given system root and files is read. This room knows no cluster.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kubenclave.image.build import BuiltImage, build_image
from kubenclave.image.closure import Absent, Closure, Library, Start, find_closure
from kubenclave.image.dockerfile import dockerfile
from kubenclave.image.enclaves import EnclaveFacts, EnclaveInput, read_enclave_input, read_enclave_inputs
from kubenclave.image.guide import GUIDE_FIGURES, GuideFigures
from kubenclave.image.layer import FileFacts, Role
from kubenclave.image.needs.findings import Finding
from kubenclave.image.needs.surroundings import Surrounding
from kubenclave.image.oci.documents import Compression, LayerSize
from kubenclave.image.reference import Reference, Remote, parse_reference, parse_remote
from kubenclave.image.spec import NON_ROOT_USER, AddedFile, ImageSpec, source_date_epoch
from kubenclave.image.sysroot import Sysroot

if TYPE_CHECKING:
    from kubenclave.image.attest.cosign import SigningKey, read_public_key, read_signing_key
    from kubenclave.image.node_agent import NODE_AGENT_USER, build_node_agent_image
    from kubenclave.image.oci.join import Joined, join_images
    from kubenclave.image.reading.diff import Difference
    from kubenclave.image.reading.door import OpenImage, compare, look_at, open_image
    from kubenclave.image.reading.inspect import Inspection
    from kubenclave.image.reading.source import is_local
    from kubenclave.image.registry.client import Access
    from kubenclave.image.registry.credentials import find_credentials
    from kubenclave.image.registry.door import pull_image, push_image
    from kubenclave.image.registry.pull import Pulled
    from kubenclave.image.registry.push import Pushed

__all__ = [
    "GUIDE_FIGURES",
    "NODE_AGENT_USER",
    "NON_ROOT_USER",
    "Absent",
    "Access",
    "AddedFile",
    "BuiltImage",
    "Closure",
    "Compression",
    "Difference",
    "EnclaveFacts",
    "EnclaveInput",
    "FileFacts",
    "Finding",
    "GuideFigures",
    "ImageSpec",
    "Inspection",
    "Joined",
    "LayerSize",
    "Library",
    "OpenImage",
    "Pulled",
    "Pushed",
    "Reference",
    "Remote",
    "Role",
    "SigningKey",
    "Start",
    "Surrounding",
    "Sysroot",
    "build_image",
    "build_node_agent_image",
    "compare",
    "dockerfile",
    "find_closure",
    "find_credentials",
    "is_local",
    "join_images",
    "look_at",
    "open_image",
    "parse_reference",
    "parse_remote",
    "pull_image",
    "push_image",
    "read_enclave_input",
    "read_enclave_inputs",
    "read_public_key",
    "read_signing_key",
    "source_date_epoch",
]

# What few callers use and takes long to load.
_HOMES = {
    "attest.cosign": ("SigningKey", "read_public_key", "read_signing_key"),
    "node_agent": ("NODE_AGENT_USER", "build_node_agent_image"),
    "oci.join": ("Joined", "join_images"),
    "reading.diff": ("Difference",),
    "reading.door": ("OpenImage", "compare", "look_at", "open_image"),
    "reading.inspect": ("Inspection",),
    "reading.source": ("is_local",),
    "registry.client": ("Access",),
    "registry.credentials": ("find_credentials",),
    "registry.door": ("pull_image", "push_image"),
    "registry.pull": ("Pulled",),
    "registry.push": ("Pushed",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
