"""List what is in an image as a CycloneDX bill of materials: each file with its hash, below the Debian package that it came in.

Pure: values in, JSON out, the same for the same values. Uses cyclonedx-python-lib, the format's own library.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from kubenclave.image.oci.documents import Json, canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kubenclave.image.attest.dpkg import Package
    from kubenclave.image.layer import FileFacts

SBOM_TYPE = "application/vnd.cyclonedx+json"
# Serial numbers of the same image are the same: a name-based UUID (RFC 9562, version 5) below the namespace for URLs.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:kubenclave:image")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Name the image that a document is about."""

    name: str
    digest: str


def sbom(
    subject: Subject,
    files: Iterable[FileFacts],
    packages: Mapping[str, Package],
    *,
    enclaves: Mapping[str, Mapping[str, str]],
    epoch_seconds: int,
    version: str,
) -> bytes:
    """Return the bill of materials of an image.

    Args:
        subject: The image.
        files: Its files.
        packages: The package of a file by its path, where one is known.
        enclaves: What is known of an enclave, by the path of its file.
        epoch_seconds: The time that it bears.
        version: The version of the program that made it.
    """
    algorithm, _, value = subject.digest.partition(":")
    bom = Bom(serial_number=uuid.uuid5(_NAMESPACE, subject.digest), version=1)
    bom.metadata.timestamp = datetime.fromtimestamp(epoch_seconds, UTC)
    bom.metadata.component = Component(
        name=subject.name,
        type=ComponentType.CONTAINER,
        bom_ref=subject.digest,
        hashes=[HashType(alg=HashAlgorithm("SHA-256"), content=value)] if algorithm == "sha256" else [],
    )
    bom.metadata.tools.components.add(Component(name="kubenclave", version=version, type=ComponentType.APPLICATION, bom_ref="kubenclave"))
    owned: dict[Package | None, list[Component]] = {}
    for file in files:
        owned.setdefault(packages.get(file.path), []).append(_file(file, enclaves.get(file.path, {})))
    for package, components in owned.items():
        for component in components if package is None else [_package(package, components)]:
            bom.components.add(component)
    bom.register_dependency(bom.metadata.component, bom.components)
    # Through the library's model and output, then written as every other document is: sorted, without blanks.
    parsed: Json = json.loads(JsonV1Dot6(bom).output_as_string())
    return canonical(parsed)


def _file(file: FileFacts, facts: Mapping[str, str]) -> Component:
    known = {"kubenclave:role": file.role.value, "kubenclave:size": str(file.size_bytes)} | {
        f"kubenclave:enclave:{name}": value for name, value in facts.items() if name != "path"
    }
    return Component(
        name=file.path,
        type=ComponentType.FILE,
        bom_ref=f"file:{file.path}",
        hashes=[HashType(alg=HashAlgorithm("SHA-256"), content=file.sha256)],
        properties=[Property(name=name, value=value) for name, value in known.items()],
    )


def _package(package: Package, files: Iterable[Component]) -> Component:
    qualifiers = {"arch": package.architecture, "distro": package.distribution}
    purl = PackageURL(
        type="deb",
        namespace=package.vendor,
        name=package.name,
        version=package.version,
        qualifiers={name: value for name, value in qualifiers.items() if value},
    )
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=purl.to_string(),
        purl=purl,
        components=files,
        properties=[Property(name="kubenclave:debian-source", value=package.source)],
    )
