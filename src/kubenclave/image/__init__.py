"""Module 2: an enclave application as a small, reproducible OCI image.

A host program and its enclave become the files that they need (``closure``), layers that are the same bytes every time (``layer``), and an
OCI archive that carries what the enclave is (``oci``). Nothing is run to find out what is needed, no container engine takes part, and
nothing outside the given system root and files is read. This room knows no cluster.
"""

from __future__ import annotations

from kubenclave.image.build import (
    NON_ROOT_USER,
    AddedFile,
    BuiltImage,
    ImageSpec,
    build_image,
    source_date_epoch,
)
from kubenclave.image.closure import Closure, Library, Start, find_closure
from kubenclave.image.enclaves import EnclaveFacts, EnclaveInput, read_enclave_input
from kubenclave.image.guide import GUIDE_FIGURES, GuideFigures
from kubenclave.image.layer import FileSize, Role
from kubenclave.image.node_agent import NODE_AGENT_USER, build_node_agent_image
from kubenclave.image.oci import LayerSize
from kubenclave.image.reference import Reference, parse_reference
from kubenclave.image.sysroot import Sysroot

__all__ = [
    "GUIDE_FIGURES",
    "NODE_AGENT_USER",
    "NON_ROOT_USER",
    "AddedFile",
    "BuiltImage",
    "Closure",
    "EnclaveFacts",
    "EnclaveInput",
    "FileSize",
    "GuideFigures",
    "ImageSpec",
    "LayerSize",
    "Library",
    "Reference",
    "Role",
    "Start",
    "Sysroot",
    "build_image",
    "build_node_agent_image",
    "find_closure",
    "parse_reference",
    "read_enclave_input",
    "source_date_epoch",
]
