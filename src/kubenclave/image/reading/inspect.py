"""Tell what an image says of itself and, if asked, whether that is true of what is in it.

Reads through a ``Source``; shows nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError, Refused
from kubenclave.image.content import ANNOTATION_PREFIX
from kubenclave.image.enclaves import enclave_facts
from kubenclave.image.reading.files import image_path, read_tree
from kubenclave.image.reading.source import read_document

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric import ec

    from kubenclave.image.reading.image import Artifact, Image
    from kubenclave.image.reading.source import Source

# Annotations are anyone's text: more enclaves than this are not listed.
MAX_ENCLAVES = 256
_SBOM = "application/vnd.cyclonedx+json"
_STATEMENT = "application/vnd.in-toto+json"
_SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
_SIGNATURE = "dev.cosignproject.cosign/signature"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveNote:
    """Hold what an image's annotations say of one enclave; ``checked`` is None if nobody looked, else what was found."""

    path: str
    mrenclave: str
    mrsigner: str
    isvprodid: str
    isvsvn: str
    debug_allowed: str
    epc_bytes: int | None
    threads: str
    format: str
    checked: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNote:
    """Hold one layer as the manifest and the configuration tell of it."""

    comment: str
    digest: str
    media_type: str
    compressed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactNote:
    """Hold something attached to an image, and in a few words what it says. ``signed``: it is a signature by the key that was given."""

    kind: str
    digest: str
    says: str
    signed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Hold what an image is."""

    image: str
    digest: str
    index_digest: str | None
    created: str
    platform: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: tuple[str, ...]
    user: str
    working_directory: str
    compressed_bytes: int
    file_count: int | None
    layers: tuple[LayerNote, ...]
    enclaves: tuple[EnclaveNote, ...]
    attached: tuple[ArtifactNote, ...]


def inspect(
    source: Source, image: Image, artifacts: Sequence[Artifact], *, check: bool = False, key: ec.EllipticCurvePublicKey | None = None
) -> Inspection:
    """Tell what an image is.

    Args:
        source: Where it lies.
        image: The image.
        artifacts: What is attached to it.
        check: Read the layers too, measure the enclaves again and compare.
        key: Check signatures with this key; without a signature that it made, the image is refused.

    Raises:
        NotFound: A blob is not there.
        Refused: A blob is damaged, an enclave is not what the annotations say, or no signature is by the key.
    """
    notes = enclave_notes(image.manifest.annotations)
    file_count = None
    if check:
        paths = {path for note in notes for path in (image_path(note.path), _signature_path(note.path))}
        tree = read_tree(source, image, keep=paths)
        file_count = len(tree.files)
        notes = tuple(_checked(note, tree.contents) for note in notes)
    told = tuple(_told(source, item, image, key) for item in artifacts)
    if key is not None and not any(note.signed for note in told):
        raise Refused(
            f"{image.name} has no signature by the key.", "Check that it is the signer's public key, and the image the right one."
        )
    config = image.config
    return Inspection(
        image=image.name,
        digest=image.descriptor.digest,
        index_digest=None if image.top == image.descriptor else image.top.digest,
        created=config.created,
        platform=f"{config.os}/{config.architecture}",
        entrypoint=config.entrypoint,
        command=config.command,
        environment=config.environment,
        user=config.user,
        working_directory=config.working_directory,
        compressed_bytes=sum(layer.size_bytes for layer in image.manifest.layers),
        file_count=file_count,
        layers=tuple(
            LayerNote(comment=comment, digest=layer.digest, media_type=layer.media_type, compressed_bytes=layer.size_bytes)
            for layer, comment in zip(image.manifest.layers, _comments(image), strict=True)
        ),
        enclaves=notes,
        attached=told,
    )


def enclave_notes(annotations: Mapping[str, str]) -> tuple[EnclaveNote, ...]:
    """Return what an image's annotations say of its enclaves, in their order."""
    notes = []
    for number in range(MAX_ENCLAVES):
        prefix = f"{ANNOTATION_PREFIX}.{number}."
        if f"{prefix}path" not in annotations:
            break
        facts = {name.removeprefix(prefix): value for name, value in annotations.items() if name.startswith(prefix)}
        epc = facts.get("epc-bytes", "")
        notes.append(
            EnclaveNote(
                path=facts["path"],
                mrenclave=facts.get("mrenclave", ""),
                mrsigner=facts.get("mrsigner", ""),
                isvprodid=facts.get("isvprodid", ""),
                isvsvn=facts.get("isvsvn", ""),
                debug_allowed=facts.get("debug-allowed", ""),
                epc_bytes=int(epc) if epc.isascii() and epc.isdigit() and len(epc) <= 20 else None,  # noqa: PLR2004 - digits of 2**64
                threads=facts.get("threads", ""),
                format=facts.get("format", ""),
            )
        )
    return tuple(notes)


def _comments(image: Image) -> Sequence[str]:
    layers = len(image.manifest.layers)
    return image.config.comments if len(image.config.comments) == layers else [""] * layers


def _signature_path(path: str) -> str:
    return image_path(path.rpartition(".")[0] + ".sig")


def _checked(note: EnclaveNote, contents: Mapping[str, bytes]) -> EnclaveNote:
    """Measure an enclave that lies in the image, and refuse the image if it is another than the annotations say."""
    data = contents.get(image_path(note.path))
    if data is None:
        raise Refused(f"The annotations tell of an enclave {note.path}, which is not in the image.", "Do not trust this image.")
    # An ELF file holds its signature in itself.
    beside = None if data.startswith(b"\x7fELF") else contents.get(_signature_path(note.path))
    try:
        facts = enclave_facts(data, beside)
    except KubenclaveError as exc:
        raise Refused(f"{note.path} in the image: {exc.what}", "Do not trust this image.") from exc
    identity = facts.identity
    measured = {
        "mrenclave": identity.mrenclave.hex(),
        "mrsigner": identity.mrsigner.hex(),
        "isvprodid": str(identity.isv_prod_id),
        "isvsvn": str(identity.isv_svn),
        "debug_allowed": "true" if identity.debug_allowed else "false",
        "epc_bytes": facts.epc_bytes,
    }
    wrong = [f"{name} is {value}, not {getattr(note, name)}" for name, value in measured.items() if getattr(note, name) != value]
    if wrong:
        raise Refused(f"{note.path} in the image is not what the annotations say: {'; '.join(wrong)}.", "Do not trust this image.")
    return replace(note, checked="measured again: as annotated")


def _told(source: Source, artifact: Artifact, image: Image, key: ec.EllipticCurvePublicKey | None) -> ArtifactNote:
    kinds = {layer.media_type for layer in artifact.manifest.layers}
    note = ArtifactNote(kind=artifact.kind, digest=artifact.descriptor.digest, says="")
    if _SIMPLE_SIGNING in kinds:
        if key is None:
            return replace(note, says="not checked: no key was given")
        signer = _signed_as(source, artifact, image, key)
        return replace(note, says="not by the key" if signer is None else f"signed by the key, as {signer}", signed=signer is not None)
    if kinds & {_SBOM, _STATEMENT}:
        return replace(note, says=_document(read_document(source, artifact.manifest.layers[0]), image))
    return note


def _document(data: bytes, image: Image) -> str:
    """Say in a few words what an SBOM or a statement holds, and whether it is about this image."""
    try:
        parsed = json.loads(data)
        if parsed.get("bomFormat") == "CycloneDX":
            about = parsed["metadata"]["component"]["bom-ref"]
            packages = [item for item in parsed["components"] if "purl" in item]
            files = sum(len(item.get("components", ())) for item in packages) + len(parsed["components"]) - len(packages)
            says = f"CycloneDX {parsed['specVersion']}: {files} files, {len(packages)} packages"
        else:
            about = f"sha256:{parsed['subject'][0]['digest']['sha256']}"
            definition = parsed["predicate"]["buildDefinition"]
            says = f"{parsed['predicateType']}: {len(definition['resolvedDependencies'])} inputs, built by {definition['buildType']}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "of a form that is not known here"
    return says if about == image.descriptor.digest else f"{says}; about another image"


def _signed_as(source: Source, artifact: Artifact, image: Image, key: ec.EllipticCurvePublicKey) -> str | None:
    """Return the name under which the key signed this image; None if it did not."""
    from kubenclave.image.attest.cosign import verify  # noqa: PLC0415 - only a signature needs it

    for layer in artifact.manifest.layers:
        data = read_document(source, layer)
        try:
            verify(key, data, layer.annotations.get(_SIGNATURE, ""))
            critical = json.loads(data)["critical"]
            if critical["image"]["docker-manifest-digest"] in (image.descriptor.digest, image.top.digest):
                return str(critical["identity"]["docker-reference"])
        except (Refused, ValueError, LookupError, TypeError, RecursionError):
            continue
    return None
