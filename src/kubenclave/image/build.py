"""Build an image: decide its content (``content``), write its layers and documents (``oci``), attach what is said about it (``attest``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.image.content import image_content
from kubenclave.image.oci import documents
from kubenclave.image.oci.write import named, open_sink, write_layer_blob
from kubenclave.image.sysroot import Sysroot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from kubenclave.image.closure import Absent
    from kubenclave.image.layer import Entry, FileFacts, Report
    from kubenclave.image.needs.findings import Finding
    from kubenclave.image.oci.documents import Attached, Compression, Descriptor, LayerSize, RunConfig
    from kubenclave.image.oci.write import Sink
    from kubenclave.image.reference import Reference
    from kubenclave.image.spec import ImageSpec

    Attach = Callable[[Sink, Descriptor, Sequence[FileFacts]], list[Attached]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """Hold an image that lies in a file or layout directory: its name, its manifest's digest, what is in it and how large it is.

    ``compressed_bytes`` is the sum of the layers as a registry keeps them, ``uncompressed_bytes`` as a node unpacks them, ``saved_bytes``
    what was left out by stripping.
    """

    reference: str
    digest: str
    archive: Path
    files: tuple[FileFacts, ...]
    layers: tuple[LayerSize, ...]
    compressed_bytes: int
    uncompressed_bytes: int
    saved_bytes: int
    epc_bytes: int
    annotations: dict[str, str]
    attached: tuple[Attached, ...]
    absent: tuple[Absent, ...]
    findings: tuple[Finding, ...]


def build_image(spec: ImageSpec, archive: Path, report: Report, *, layout: bool = False) -> BuiltImage:
    """Build an image and write it as an OCI archive or layout directory; it is there whole or not at all.

    Args:
        spec: What the image is made of.
        archive: The file, or the directory if ``layout``, to write.
        report: Told in a sentence what is being done.
        layout: Write a layout directory.

    Raises:
        NotFound: An input, a library or the archive's directory is not there.
        Refused: An input is damaged or unfit for an image.
        UsageError: The user is not written as numbers, a place is not absolute, or something is where the layout is to be.
        HostUnfit: The disk is full or the archive cannot be written.
    """
    report(f"finding the libraries of {spec.host.name}")
    content = image_content(spec)
    sysroot = Sysroot(spec.sysroot.absolute().resolve())

    def attach(sink: Sink, image: Descriptor, files: Sequence[FileFacts]) -> list[Attached]:
        attached: list[Attached] = []
        if not spec.attest and spec.signing_key is None:
            return attached
        from kubenclave.image.attest.attach import about_image, signature_of  # noqa: PLC0415 - its libraries cost 0.1 s

        if spec.attest:
            attached += about_image(sink, image, files, spec=spec, content=content, sysroot=sysroot, version=own_version())
        if spec.signing_key is not None:
            attached.append(signature_of(sink, image, spec.reference, spec.signing_key))
        return attached

    return write_image(
        archive,
        reference=spec.reference,
        run=content.run,
        layers=content.layers,
        annotations=content.annotations,
        compression=spec.compression,
        epoch_seconds=spec.epoch_seconds,
        layout=layout,
        report=report,
        attach=attach,
        saved_bytes=content.saved_bytes,
        epc_bytes=sum(item.facts.epc_bytes for item in spec.enclaves),
        absent=content.absent,
        findings=content.findings,
    )


def write_image(
    archive: Path,
    *,
    reference: Reference,
    run: RunConfig,
    layers: Sequence[tuple[str, Sequence[Entry]]],
    annotations: Mapping[str, str],
    compression: Compression,
    epoch_seconds: int,
    report: Report,
    layout: bool = False,
    attach: Attach = lambda _sink, _image, _files: [],
    saved_bytes: int = 0,
    epc_bytes: int = 0,
    absent: tuple[Absent, ...] = (),
    findings: tuple[Finding, ...] = (),
) -> BuiltImage:
    """Write an image whose content is decided, and sum up what was written.

    Raises:
        HostUnfit: The disk is full or the place may not be written to.
        NotFound: The directory of ``archive`` or an input file is not there.
        Refused: An input file changed while it was read or does not fit the format.
        UsageError: Something is where a layout directory is to be.
    """
    sizes: list[LayerSize] = []
    files: list[FileFacts] = []
    with open_sink(archive, layout=layout, epoch_seconds=epoch_seconds) as sink:
        for comment, entries in layers:
            report(f"packing {comment}")
            layer, layer_files = write_layer_blob(sink, comment, entries, compression, epoch_seconds=epoch_seconds, report=report)
            sizes.append(layer)
            files += layer_files
        config = sink.blob(documents.CONFIG, documents.config(run, sizes, epoch_seconds))
        image = sink.blob(documents.MANIFEST, documents.manifest(config, sizes, annotations))
        image = named(image, tag=reference.tag, name=str(reference), platform=documents.PLATFORM)
        attached = attach(sink, image, files)
        sink.end([image, *(item.descriptor for item in attached)])
    return BuiltImage(
        reference=str(reference),
        digest=image.digest,
        archive=archive,
        files=tuple(files),
        layers=tuple(sizes),
        compressed_bytes=sum(layer.compressed_bytes for layer in sizes),
        uncompressed_bytes=sum(layer.uncompressed_bytes for layer in sizes),
        saved_bytes=saved_bytes,
        epc_bytes=epc_bytes,
        annotations=dict(annotations),
        attached=tuple(attached),
        absent=absent,
        findings=findings,
    )


def own_version() -> str:
    """Return the version of kubenclave that is installed."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - costs 20 ms, and few images need it

    try:
        return version("kubenclave")
    except PackageNotFoundError:
        return "unknown"
