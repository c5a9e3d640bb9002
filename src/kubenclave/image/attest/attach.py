"""Attach documents to an image: write them as referrers of it (OCI image-spec v1.1, manifest.md, ``subject``)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from kubenclave.image.attest import cosign
from kubenclave.image.attest.dpkg import packages_of
from kubenclave.image.attest.provenance import PREDICATE, PROVENANCE_TYPE, provenance
from kubenclave.image.attest.sbom import SBOM_TYPE, Subject, sbom
from kubenclave.image.content import ANNOTATION_PREFIX
from kubenclave.image.layer import CheckedFile, CutFile, File
from kubenclave.image.oci import documents
from kubenclave.image.oci.documents import Attached

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kubenclave.image.attest.dpkg import Package
    from kubenclave.image.content import Content
    from kubenclave.image.layer import FileFacts
    from kubenclave.image.oci.documents import Descriptor, Json
    from kubenclave.image.oci.write import Sink
    from kubenclave.image.reference import Reference
    from kubenclave.image.spec import ImageSpec
    from kubenclave.image.sysroot import Sysroot


def about_image(
    sink: Sink, image: Descriptor, files: Sequence[FileFacts], *, spec: ImageSpec, content: Content, sysroot: Sysroot, version: str
) -> list[Attached]:
    """Write the bill of materials and the provenance of an image.

    Raises:
        Refused: The system's package database is damaged.
    """
    subject = Subject(name=f"{spec.reference.registry}/{spec.reference.repository}", digest=image.digest)
    packages = _packages(content, sysroot)
    materials = sbom(subject, files, packages, enclaves=_enclaves(content.annotations), epoch_seconds=spec.epoch_seconds, version=version)
    statement = provenance(subject, files, packages, parameters=_parameters(spec), version=version)
    created = {documents.CREATED: documents.rfc3339(spec.epoch_seconds)}
    return [
        Attached(kind="SBOM", descriptor=_attach(sink, image, SBOM_TYPE, materials, annotations=created)),
        Attached(
            kind="provenance",
            descriptor=_attach(sink, image, PROVENANCE_TYPE, statement, annotations=created | {"in-toto.io/predicate-type": PREDICATE}),
        ),
    ]


def signature_of(sink: Sink, image: Descriptor, reference: Reference, key: cosign.SigningKey) -> Attached:
    """Write a signature of an image's digest where cosign looks for it."""
    signed = cosign.payload(repository=f"{reference.registry}/{reference.repository}", digest=image.digest)
    blob = sink.blob(cosign.SIMPLE_SIGNING, signed)
    blob = replace(blob, annotations={cosign.SIGNATURE_ANNOTATION: cosign.sign(key, signed)})
    # cosign reads signatures as it reads images, so the configuration is that of an image whose one layer is the payload.
    diff_id = f"sha256:{hashlib.sha256(signed).hexdigest()}"
    config = sink.blob(
        documents.CONFIG,
        documents.canonical(
            {
                "architecture": "",
                "config": {},
                "created": documents.rfc3339(0),
                "os": "",
                "rootfs": {"diff_ids": [diff_id], "type": "layers"},
            }
        ),
    )
    manifest = documents.artifact(cosign.SIGNATURE_TYPE, [blob], image, config_of=config, annotations={})
    written = replace(sink.blob(documents.MANIFEST, manifest), artifact_type=cosign.SIGNATURE_TYPE)
    return Attached(kind="signature", descriptor=replace(written, annotations={documents.REF_NAME: documents.signature_tag(image.digest)}))


def _attach(sink: Sink, image: Descriptor, kind: str, data: bytes, *, annotations: Mapping[str, str]) -> Descriptor:
    config = sink.blob(documents.EMPTY, documents.EMPTY_CONTENT)
    manifest = documents.artifact(kind, [sink.blob(kind, data)], image, config_of=config, annotations=annotations)
    return replace(sink.blob(documents.MANIFEST, manifest), artifact_type=kind, annotations=annotations)


def _packages(content: Content, sysroot: Sysroot) -> dict[str, Package]:
    """Return the package of each file of the image that came from the system, by its path in the image."""
    origins: dict[str, str] = {}
    for _, entries in content.layers:
        for entry in entries:
            source = _source(entry) if isinstance(entry, File) else None
            if source is not None and source.is_relative_to(sysroot.root):
                origins[entry.path] = f"/{source.relative_to(sysroot.root)}"
    found = packages_of(origins.values(), sysroot)
    return {path: found[origin] for path, origin in origins.items() if origin in found}


def _source(entry: File) -> Path | None:
    if isinstance(entry.source, CutFile | CheckedFile):
        return entry.source.path
    return None if isinstance(entry.source, bytes) else entry.source


def _enclaves(annotations: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return what the annotations say of each enclave, by the path of its file."""
    numbered: dict[str, dict[str, str]] = {}
    for name, value in annotations.items():
        number, _, field = name.removeprefix(f"{ANNOTATION_PREFIX}.").partition(".")
        numbered.setdefault(number, {})[field] = value
    return {facts["path"]: facts for facts in numbered.values()}


def _parameters(spec: ImageSpec) -> dict[str, Json]:
    """Return what was asked for. Names of files without the directories of the machine that built it; values of variables stay out."""
    return {
        "added": [f"{item.source.name}:{item.path}" for item in spec.files],
        "allowMissing": list(spec.allow_missing),
        "command": None if spec.command is None else list(spec.command),
        "compression": spec.compression.value,
        "enclaves": [name for enclave in spec.enclaves for name, _ in enclave.files],
        "entrypoint": None if spec.entrypoint is None else list(spec.entrypoint),
        "host": spec.host.name,
        "libraries": list(spec.libraries),
        "sourceDateEpoch": spec.epoch_seconds,
        "strip": spec.strip,
        "surroundings": [one.value for one in spec.surroundings],
        "user": spec.user,
        "variables": sorted(spec.environment or {}),
        "workingDirectory": spec.working_directory,
    }
