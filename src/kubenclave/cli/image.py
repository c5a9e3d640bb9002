"""``kubenclave image``: images of enclave programs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kubenclave.cli.progress import step
from kubenclave.cli.show import OutputOption, show
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.image import AddedFile, BuiltImage, GuideFigures


def build(
    *arguments: Annotated[
        str, Parameter(help="The program's arguments, after --. Without any it gets the paths of the enclave files, in their order.")
    ],
    host: Annotated[Path, Parameter(help="The program that a container starts: static, or dynamic with its libraries found for it.")],
    tag: Annotated[str, Parameter(help="The image's name, as in hello-enclave:1.0.")],
    archive: Annotated[Path, Parameter(name=["-o", "--archive"], help="The file to write: an OCI archive.")],
    enclave: Annotated[
        tuple[Path, ...],
        Parameter(help="An enclave as SGXS stream; its signature (.sig) lies beside it. Can be given again.", show_default=False),
    ] = (),
    add: Annotated[
        tuple[str, ...], Parameter(help="A further file, as SOURCE:/PLACE/IN/IMAGE. Can be given again.", show_default=False)
    ] = (),
    sysroot: Annotated[Path, Parameter(help="The root of the system whose libraries the program gets.")] = Path("/"),
    user: Annotated[str, Parameter(help="Numeric uid or uid:gid of the process.")] = "65532:65532",
    output: OutputOption = "table",
) -> None:
    """Build an image of a host program and its enclaves: these, the libraries they need, and nothing else."""
    from kubenclave.image import (  # noqa: PLC0415 - loaded when it runs
        GUIDE_FIGURES,
        ImageSpec,
        build_image,
        parse_reference,
        read_enclave_input,
        source_date_epoch,
    )

    reference = parse_reference(tag)
    epoch_seconds = source_date_epoch(os.environ)
    files = tuple(_added(text) for text in add)
    with step(f"building {reference}") as report:
        spec = ImageSpec(
            reference=reference,
            host=host,
            enclaves=tuple(read_enclave_input(path) for path in enclave),
            files=files,
            command=arguments or None,
            sysroot=sysroot,
            user=user,
            epoch_seconds=epoch_seconds,
        )
        image = build_image(spec, archive, report)
    if output == "json":
        show(_Report(image=image, guide=GUIDE_FIGURES), output=output)
        return
    show(image.files, output=output)
    print()  # noqa: T201 - an empty line between two tables of the result
    show(_summary(image, GUIDE_FIGURES), output=output)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    image: BuiltImage
    guide: GuideFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class _Summary:
    image: str
    digest: str
    archive: Path
    enclave_epc_bytes: int | None
    compressed_bytes: int
    uncompressed_bytes: int
    guide: str


def _summary(image: BuiltImage, guide: GuideFigures) -> _Summary:
    return _Summary(
        image=image.reference,
        digest=image.digest,
        archive=image.archive,
        enclave_epc_bytes=image.epc_bytes or None,
        compressed_bytes=image.compressed_bytes,
        uncompressed_bytes=image.uncompressed_bytes,
        guide=f"{guide.multi_stage_bytes / 1e6:.1f} MB multi-stage, {guide.single_stage_bytes / 1e9:.2f} GB single-stage ({guide.remark})",
    )


def _added(text: str) -> AddedFile:
    from kubenclave.image import AddedFile  # noqa: PLC0415

    source, colon, path = text.rpartition(":")
    if not colon or not source:
        raise UsageError(f"--add {text!r} is not SOURCE:PLACE.", "Write it as in --add ca.pem:/etc/ssl/ca.pem.")
    return AddedFile(source=Path(source), path=path)
