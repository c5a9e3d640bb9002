"""State how an image was built: an in-toto statement with SLSA provenance, naming every input by its digest.

Pure. Formats: in-toto attestation framework, Statement v1; SLSA provenance v1. Nothing in it depends on the machine or the time of the
build, so that the same inputs give the same statement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.image.oci.documents import Json, canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kubenclave.image.attest.dpkg import Package
    from kubenclave.image.attest.sbom import Subject
    from kubenclave.image.layer import FileFacts

PROVENANCE_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
# What the parameters below mean is told by docs/reference/images.md.
BUILD_TYPE = "urn:kubenclave:image-build:v1"
BUILDER = "urn:kubenclave:image-builder"


def provenance(
    subject: Subject, files: Iterable[FileFacts], packages: Mapping[str, Package], *, parameters: Mapping[str, Json], version: str
) -> bytes:
    """Return the statement.

    Args:
        subject: The image.
        files: Its files, as they are in it.
        packages: The package of a file by its path, where one is known.
        parameters: What the user asked for.
        version: The version of the program that built it.
    """
    algorithm, _, value = subject.digest.partition(":")
    return canonical(
        {
            "_type": STATEMENT,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": dict(parameters),
                    "resolvedDependencies": [_dependency(file, packages.get(file.path)) for file in files],
                },
                "runDetails": {"builder": {"id": BUILDER, "version": {"kubenclave": version}}},
            },
            "predicateType": PREDICATE,
            "subject": [{"digest": {algorithm: value}, "name": subject.name}],
        }
    )


def _dependency(file: FileFacts, package: Package | None) -> Json:
    known: dict[str, Json] = {"annotations": {"role": file.role.value}, "digest": {"sha256": file.sha256}, "name": file.path}
    if package is None:
        return known
    return known | {"uri": f"pkg:deb/{package.vendor}/{package.name}@{package.version}?arch={package.architecture}"}
