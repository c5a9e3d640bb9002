"""``kubenclave image``: images of enclave programs. What speaks with registries is in ``image_registry``."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from kubenclave.cli.image_registry import RegistryOptions, push_to
from kubenclave.cli.progress import say, step
from kubenclave.cli.show import OutputOption, show, write
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.image import AddedFile, BuiltImage, GuideFigures, Pushed, Reference, SigningKey

SurroundingName = Literal["ca", "users", "nss", "resolv", "tz", "locale"]
CompressionName = Literal["gzip", "zstd"]


def build(
    *arguments: Annotated[
        str, Parameter(help="The program's arguments, after --. Without any it gets the paths of the enclave files, in their order.")
    ],
    host: Annotated[Path, Parameter(help="The program that a container starts: static, or dynamic with its libraries found for it.")],
    tag: Annotated[str, Parameter(help="The image's name, as in hello-enclave:1.0.")],
    archive: Annotated[Path | None, Parameter(name=["-o", "--archive"], help="Write an OCI archive to this file.")] = None,
    layout: Annotated[Path | None, Parameter(help="Write an OCI layout to this new directory.")] = None,
    push: Annotated[bool, Parameter(help="Bring the image to its registry.")] = False,
    enclave: Annotated[
        tuple[Path, ...],
        Parameter(
            help="An enclave file, or a directory of them; the signature (.sig) of an SGXS stream lies beside it. Can be given again.",
            show_default=False,
        ),
    ] = (),
    add: Annotated[
        tuple[str, ...], Parameter(help="A further file or directory, as SOURCE:/PLACE/IN/IMAGE. Can be given again.", show_default=False)
    ] = (),
    with_: Annotated[
        tuple[SurroundingName, ...],
        Parameter(
            name="--with",
            help="What else the program reads of the system: certificate authorities (ca), /etc/passwd (users), name services (nss), "
            "/etc/hosts (resolv), time zones (tz), locales (locale). Can be given again.",
            show_default=False,
            show_choices=False,
        ),
    ] = (),
    library: Annotated[
        tuple[str, ...], Parameter(help="A library that the program opens by name. Can be given again.", show_default=False)
    ] = (),
    allow_missing: Annotated[
        tuple[str, ...], Parameter(help="A library that may be missing. Can be given again.", show_default=False)
    ] = (),
    sysroot: Annotated[Path, Parameter(help="The root of the system whose libraries the program gets.")] = Path("/"),
    env: Annotated[tuple[str, ...], Parameter(help="A variable, as NAME=VALUE. Can be given again.", show_default=False)] = (),
    user: Annotated[str, Parameter(help="Numeric uid or uid:gid of the process.")] = "65532:65532",
    entrypoint: Annotated[
        tuple[str, ...], Parameter(help="What a container starts instead of the program, word by word.", show_default=False)
    ] = (),
    workdir: Annotated[str, Parameter(help="Where it starts.")] = "/app",
    strip: Annotated[bool, Parameter(help="Leave symbols out of the program and the libraries, never of an enclave.")] = False,
    compression: Annotated[CompressionName, Parameter(help="How layers are compressed; zstd is smaller, gzip older.")] = "gzip",
    attest: Annotated[bool, Parameter(help="Attach an SBOM (CycloneDX) and a provenance statement (SLSA).")] = False,
    sign_key: Annotated[Path | None, Parameter(help="Sign the image as cosign does, with this ECDSA P-256 key in PEM.")] = None,
    registry: RegistryOptions = RegistryOptions(),
    output: OutputOption = "table",
) -> None:
    """Build an image of a host program and its enclaves: these, what they need, and nothing else."""
    from kubenclave.image import (  # noqa: PLC0415 - loaded when it runs
        GUIDE_FIGURES,
        Compression,
        ImageSpec,
        Surrounding,
        build_image,
        parse_reference,
        read_enclave_inputs,
        source_date_epoch,
    )

    if [archive is not None, layout is not None, push].count(True) == 0 or (archive is not None and layout is not None):
        raise UsageError(
            "The image is to be written to one place.", "Give -o FILE or --layout DIRECTORY, and --push where a registry is to have it."
        )
    reference = parse_reference(tag)
    spec = ImageSpec(
        reference=reference,
        host=host,
        enclaves=tuple(item for path in enclave for item in read_enclave_inputs(path)),
        files=tuple(_added(text) for text in add),
        libraries=library,
        allow_missing=allow_missing,
        surroundings=tuple(Surrounding(name) for name in with_),
        entrypoint=entrypoint or None,
        command=arguments or (() if entrypoint else None),
        environment=dict(_variable(text) for text in env),
        working_directory=workdir,
        sysroot=sysroot,
        user=user,
        strip=strip,
        compression=Compression(compression),
        attest=attest,
        signing_key=_signing_key(sign_key),
        epoch_seconds=source_date_epoch(os.environ),
    )
    with tempfile.TemporaryDirectory(prefix="kubenclave-") as folder:
        place = archive or layout or Path(folder) / "layout"
        with step(f"building {reference}") as report:
            image = build_image(spec, place, report, layout=archive is None)
        pushed = _pushed(place, reference, registry) if push else None
    for finding in image.findings:
        say(f"note: {finding}")
    report_ = _Report(image=image, pushed=pushed, guide=GUIDE_FIGURES)
    if output == "json":
        show(report_, output=output)
        return
    show([_File(path=file.path, role=file.role.value, size_bytes=file.size_bytes) for file in image.files], output=output)
    write("\n")
    show(_summary(report_), output=output)


def node_agent(
    *,
    archive: Annotated[Path, Parameter(name=["-o", "--archive"], help="The file to write: an OCI archive.")],
    tag: Annotated[str, Parameter(help="The image's name.")] = "kubenclave/node:local",
    output: OutputOption = "table",
) -> None:
    """Build the image of the node agent from this installation: the running Python, the locked packages, the agent."""
    from kubenclave.image import build_node_agent_image, parse_reference, source_date_epoch  # noqa: PLC0415

    reference = parse_reference(tag)
    with step(f"building {reference}") as report:
        image = build_node_agent_image(reference, archive, report, epoch_seconds=source_date_epoch(os.environ))
    show(
        _AgentSummary(
            image=image.reference,
            digest=image.digest,
            archive=image.archive,
            files=len(image.files),
            compressed_bytes=image.compressed_bytes,
            uncompressed_bytes=image.uncompressed_bytes,
        ),
        output=output,
    )


def dockerfile(
    *,
    host: Annotated[str, Parameter(help="The host program, below the folder in which CMake builds.")],
    enclave: Annotated[str, Parameter(help="The signed enclave, below the same folder.")],
    tag: Annotated[str, Parameter(help="The image's name.")],
) -> None:
    """Write a multi-stage Dockerfile for an Open Enclave application, whose last stage packs it with this builder."""
    from kubenclave.image import dockerfile as text  # noqa: PLC0415

    write(text(host=host, enclave=enclave, tag=tag))


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: str
    role: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    image: BuiltImage
    pushed: Pushed | None
    guide: GuideFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class _Summary:
    image: str
    digest: str
    place: Path | str
    enclave_epc_bytes: int | None
    compressed_bytes: int
    uncompressed_bytes: int
    saved_by_strip_bytes: int | None
    attached: tuple[str, ...]
    guide: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _AgentSummary:
    image: str
    digest: str
    archive: Path
    files: int
    compressed_bytes: int
    uncompressed_bytes: int


def _summary(report: _Report) -> _Summary:
    image, guide = report.image, report.guide
    return _Summary(
        image=image.reference,
        digest=image.digest,
        place=image.archive if report.pushed is None else report.pushed.reference,
        enclave_epc_bytes=image.epc_bytes or None,
        compressed_bytes=image.compressed_bytes,
        uncompressed_bytes=image.uncompressed_bytes,
        saved_by_strip_bytes=image.saved_bytes or None,
        attached=tuple(item.kind for item in image.attached),
        guide=f"{guide.multi_stage_bytes / 1e6:.1f} MB multi-stage, {guide.single_stage_bytes / 1e9:.2f} GB single-stage ({guide.remark})",
    )


def _pushed(place: Path, reference: Reference, registry: RegistryOptions) -> Pushed:
    return push_to(place, str(reference), registry, name=None)


def _signing_key(path: Path | None) -> SigningKey | None:
    if path is None:
        return None
    from kubenclave.image import read_signing_key  # noqa: PLC0415 - a key alone is worth its cryptography

    return read_signing_key(path)


def _added(text: str) -> AddedFile:
    from kubenclave.image import AddedFile  # noqa: PLC0415

    source, colon, path = text.rpartition(":")
    if not colon or not source:
        raise UsageError(f"--add {text!r} is not SOURCE:PLACE.", "Write it as in --add ca.pem:/etc/ssl/ca.pem.")
    return AddedFile(source=Path(source), path=path)


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        # The text could be a secret that was meant for somewhere else.
        raise UsageError("A variable is not NAME=VALUE.", "Write it as in --env SGX_AESM_ADDR=1.")
    return name, value
