"""``kubenclave enclave``: what an enclave file is, claims and weighs; signing and packing."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kubenclave.cli.show import OutputOption, show, write
from kubenclave.errors import Refused, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kubenclave.sgx import Enclave, Sigstruct

DIFFERENT = 3
"""Exit code of ``diff`` where the two are not the same, as where anything else is answered with no."""

_FileArgument = Annotated[
    Path, Parameter(help="An Open Enclave or Intel SGX SDK ELF file, an SGXS stream (its .sig beside it), or a SIGSTRUCT.")
]


def inspect(
    file: _FileArgument,
    *,
    html: Annotated[Path | None, Parameter(help="Also write a picture of the address space to this file: one HTML page.")] = None,
    epc_limit: Annotated[str | None, Parameter(help="EPC of the machine it is meant for, such as 168Mi; more is a finding.")] = None,
    vm_size: Annotated[str | None, Parameter(help="The same by the name of an Azure VM size, such as Standard_DC4s_v2.")] = None,
    output: OutputOption = "table",
) -> None:
    """Show an enclave's identity, signature, pages and EPC, and what to know before running it."""
    from kubenclave.sgx import describe  # noqa: PLC0415 - loaded when it runs

    limit_bytes = _epc_limit(epc_limit, vm_size)
    enclave = _read(file)
    report = describe(enclave, epc_limit_bytes=limit_bytes)
    if html is not None:
        from kubenclave.cli.enclave_files import write_file  # noqa: PLC0415
        from kubenclave.sgx import draw_picture  # noqa: PLC0415

        write_file(html, draw_picture(enclave, report, name=file.name).encode())
    if output == "json":
        show(report, output=output)
    else:
        from kubenclave.cli.enclave_tables import show_report  # noqa: PLC0415

        show_report(report)


def measure(file: _FileArgument, *, output: OutputOption = "table") -> None:
    """Measure the pages and compare with what the SIGSTRUCT signs; exit code 3 where they differ."""
    enclave = _read(file)
    signed = None if enclave.sigstruct is None else enclave.sigstruct.mrenclave
    same = None if signed is None else signed == enclave.mrenclave
    show(_Measured(mrenclave=enclave.mrenclave, signed_mrenclave=signed, is_what_is_signed=same), output=output)
    if same is False:
        what = f"{file}: the pages measure {enclave.mrenclave.hex()}, but the SIGSTRUCT signs {signed.hex() if signed else ''}"
        raise Refused(what, "The file was changed after it was signed, or damaged; sign it again or get the original.")


def sign(
    file: _FileArgument,
    *,
    key: Annotated[Path | None, Parameter(help="The signer's RSA-3072 key with exponent 3, PEM.")] = None,
    key_command: Annotated[
        str | None,
        Parameter(help="A command that signs: a SHA-256 digest on its stdin, the raw RSASSA-PKCS1-v1_5 signature on its stdout."),
    ] = None,
    dump_digest: Annotated[
        Path | None, Parameter(help="First of two steps: write the digest to be signed to this file, and no more.")
    ] = None,
    signature: Annotated[Path | None, Parameter(help="Second of two steps: the raw signature of that digest.")] = None,
    public_key: Annotated[Path | None, Parameter(help="The signer's public key, PEM; needed wherever the key itself is not given.")] = None,
    prod_id: Annotated[int | None, Parameter(help="ISVPRODID. Like all below: as it was signed before, if not given.")] = None,
    svn: Annotated[int | None, Parameter(help="ISVSVN.")] = None,
    allow_debug: Annotated[bool, Parameter(help="Let a host launch the enclave in debug mode.")] = False,
    no_debug: Annotated[bool, Parameter(help="Let no host launch it in debug mode.")] = False,
    date: Annotated[str | None, Parameter(help="Day of the signature, such as 2026-01-31 [default: SOURCE_DATE_EPOCH, or today].")] = None,
    result: Annotated[
        Path | None, Parameter(name=["-o", "--result"], help="Where to write [default: the file itself; .sig for SGXS].")
    ] = None,
    output: OutputOption = "table",
) -> None:
    """Sign an enclave: in its file, or for an SGXS stream in a .sig file beside it. The same key and date give the same bytes."""
    from kubenclave.cli.enclave_files import write_file  # noqa: PLC0415 - loaded when it runs
    from kubenclave.sgx import EnclaveFormat, with_choices, with_signatures  # noqa: PLC0415
    from kubenclave.sgx.signing import digest_to_sign, redraft  # noqa: PLC0415

    _check_one_way(key=key, key_command=key_command, dump_digest=dump_digest, signature=signature)
    debug = _debug_choice(allow=allow_debug, forbid=no_debug)
    day = _date(date, os.environ, two_steps=dump_digest is not None or signature is not None)
    data, sigstruct = _read_bytes(file)
    data, enclave = with_choices(data, sigstruct, isv_prod_id=prod_id, isv_svn=svn, allow_debug=debug)
    drafts = {
        block.sigstruct_at or 0: redraft(block, date=day, isv_prod_id=prod_id, isv_svn=svn, allow_debug=debug)
        for block in (enclave, *enclave.other_blocks)
    }
    if dump_digest is not None:
        write_file(dump_digest, digest_to_sign(_only(drafts.values())))
        return
    if signature is not None:
        _only(drafts.values())
    signed = {
        at: _signed(draft, key=key, key_command=key_command, signature=signature, public_key=public_key) for at, draft in drafts.items()
    }
    first = signed[enclave.sigstruct_at or 0]
    if enclave.format is EnclaveFormat.SGXS:
        target = result or file.with_suffix(".sig")
        write_file(target, first.to_bytes())
    else:
        target = result or file
        write_file(target, with_signatures(data, signed))
    show(_Signed.of(target, first), output=output)


def keygen(
    result: Annotated[Path, Parameter(name=["-o", "--result"], help="The file to write the private key to; never one that is there.")],
    *,
    public_key: Annotated[Path | None, Parameter(help="Also write the public key to this file.")] = None,
) -> None:
    """Make a signing key as SGX demands it: RSA-3072 with exponent 3, unencrypted PEM that only its owner can read."""
    from kubenclave.cli.enclave_files import write_file  # noqa: PLC0415 - loaded when it runs
    from kubenclave.sgx import generate_signing_key, public_key_pem, signing_key_pem  # noqa: PLC0415

    key = generate_signing_key()
    write_file(result, signing_key_pem(key), mode=0o600, replace=False)
    if public_key is not None:
        write_file(public_key, public_key_pem(key), replace=False)


def diff(
    first: _FileArgument,
    second: Annotated[Path, Parameter(help="The file to compare it with.")],
    *,
    output: OutputOption = "table",
) -> int:
    """Show what changed between two builds; exit code 0 where they are the same, 3 where they differ."""
    from kubenclave.sgx import compare  # noqa: PLC0415 - loaded when it runs

    difference = compare(_read(first), _read(second))
    if output == "json":
        show(difference, output=output)
    elif difference.is_same:
        write(f"the same{f', but for the pages: {difference.unknown}' if difference.unknown else ''}\n")
    else:
        for rows in (difference.fields, difference.pages):
            if rows:
                show(rows, output=output)
                write("\n")
        if difference.first_page is not None:
            from kubenclave.cli.enclave_tables import FirstPageRows  # noqa: PLC0415 - a table needs it

            show(FirstPageRows.of(difference.first_page), output=output)
        if difference.unknown:
            write(f"the pages were not compared: {difference.unknown}\n")
    return 0 if difference.is_same else DIFFERENT


def pack(
    elf: Annotated[Path, Parameter(help="A static, position-independent x86-64 ELF file without relocations.")],
    *,
    result: Annotated[Path, Parameter(name=["-o", "--result"], help="The SGXS stream to write.")],
    heap: Annotated[str | None, Parameter(help="Heap, such as 4Mi [default: none].")] = None,
    stack: Annotated[str, Parameter(help="Stack of each thread.")] = "16Ki",
    threads: Annotated[int, Parameter(help="Threads that can be inside at once.")] = 1,
    output: OutputOption = "table",
) -> None:
    """Lay out a freestanding ELF program as an enclave: its pages, threads, stacks and heap, as an SGXS stream."""
    from kubenclave.cli.enclave_files import read_file, write_file  # noqa: PLC0415 - loaded when it runs
    from kubenclave.local.spec import parse_epc  # noqa: PLC0415
    from kubenclave.sgx import epc_need, lay_out, write_sgxs  # noqa: PLC0415
    from kubenclave.sgx import measure as measured  # noqa: PLC0415
    from kubenclave.sgx.pages import PAGE_BYTES  # noqa: PLC0415

    heap_bytes = sum(parse_epc(heap)) if heap else 0
    stack_bytes = sum(parse_epc(stack))
    layout = lay_out(read_file(elf), heap_pages=heap_bytes // PAGE_BYTES, stack_pages=stack_bytes // PAGE_BYTES, threads=threads)
    write_file(result, b"".join(write_sgxs(layout)))
    need = epc_need(layout.page_count)
    packed = _Packed(
        file=result, mrenclave=measured(layout), pages=layout.page_count, threads=threads, epc_bytes=need.epc_bytes, epc_mib=need.epc_mib
    )
    show(packed, output=output)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    mrenclave: bytes
    signed_mrenclave: bytes | None
    is_what_is_signed: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packed:
    file: Path
    mrenclave: bytes
    pages: int
    threads: int
    epc_bytes: int
    epc_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signed:
    file: Path
    mrenclave: bytes
    mrsigner: bytes
    isv_prod_id: int
    isv_svn: int
    debug_launch_possible: bool

    @classmethod
    def of(cls, file: Path, sigstruct: Sigstruct) -> _Signed:
        return cls(
            file=file,
            mrenclave=sigstruct.mrenclave,
            mrsigner=sigstruct.mrsigner,
            isv_prod_id=sigstruct.isv_prod_id,
            isv_svn=sigstruct.isv_svn,
            debug_launch_possible=sigstruct.debug_allowed,
        )


def _read(file: Path) -> Enclave:
    from kubenclave.sgx import read_enclave  # noqa: PLC0415 - loaded when it runs

    try:
        return read_enclave(*_read_bytes(file))
    except Refused as exc:
        raise Refused(f"{file}: {exc.what}", exc.hint) from exc


def _read_bytes(file: Path) -> tuple[bytes, bytes | None]:
    """Read a file, and for an SGXS stream the signature beside it."""
    from kubenclave.cli.enclave_files import read_file, signature_beside  # noqa: PLC0415 - loaded when it runs
    from kubenclave.sgx.sgxs import is_sgxs  # noqa: PLC0415

    data = read_file(file)
    return data, signature_beside(file) if is_sgxs(data) else None


def _epc_limit(epc_limit: str | None, vm_size: str | None) -> int | None:
    if epc_limit is not None and vm_size is not None:
        raise UsageError("--epc-limit and --vm-size are both given", "Give one of them.")
    if epc_limit is not None:
        from kubenclave.local.spec import parse_epc  # noqa: PLC0415 - loaded when it is asked for

        return sum(parse_epc(epc_limit))
    if vm_size is not None:
        from kubenclave.sgx import vm_size_epc_bytes  # noqa: PLC0415

        return vm_size_epc_bytes(vm_size)
    return None


def _check_one_way(**ways: Path | str | None) -> None:
    given = [f"--{name.replace('_', '-')}" for name, value in ways.items() if value is not None]
    if len(given) != 1:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in ways)
        what = f"{' and '.join(given)} are given together" if given else "nothing says how to sign"
        raise UsageError(what, f"Give one of {names}.")


def _debug_choice(*, allow: bool, forbid: bool) -> bool | None:
    if allow and forbid:
        raise UsageError("--allow-debug and --no-debug are both given", "Give one of them, or none to leave it as it was signed before.")
    return True if allow else False if forbid else None


def _date(option: str | None, environment: Mapping[str, str], *, two_steps: bool) -> dt.date:
    epoch = environment.get("SOURCE_DATE_EPOCH")
    try:
        if option is not None:
            return dt.date.fromisoformat(option)
        if epoch is not None:
            return dt.datetime.fromtimestamp(int(epoch), tz=dt.UTC).date()
    except (ValueError, OverflowError, OSError) as exc:
        what = f"the date {option!r} is none" if option is not None else f"SOURCE_DATE_EPOCH {epoch!r} is no time"
        raise UsageError(what, "Give a date such as 2026-01-31, or seconds since 1970.") from exc
    if two_steps:
        raise UsageError("signing in two steps needs --date", "The date is signed too; give the same in both steps.")
    return dt.datetime.now(tz=dt.UTC).date()


def _only(drafts: Iterable[Sigstruct]) -> Sigstruct:
    """Take the one draft that all metadata blocks of a file share.

    Raises:
        Refused: They differ, so one signature is not enough.
    """
    first, *others = {draft.signed_bytes: draft for draft in drafts}.values()
    if others:
        what = f"the metadata blocks of this file need {len(others) + 1} different signatures"
        raise Refused(what, "Sign it in one step, with --key or --key-command.")
    return first


def _signed(draft: Sigstruct, *, key: Path | None, key_command: str | None, signature: Path | None, public_key: Path | None) -> Sigstruct:
    from kubenclave.cli.enclave_files import MAX_SMALL_BYTES, read_file, run_key_command  # noqa: PLC0415 - loaded when it runs
    from kubenclave.sgx.signing import complete, digest_to_sign, load_public_modulus, load_signing_key  # noqa: PLC0415
    from kubenclave.sgx.signing import sign as sign_draft  # noqa: PLC0415

    if key is not None:
        return sign_draft(draft, load_signing_key(read_file(key, MAX_SMALL_BYTES)))
    if public_key is None:
        raise UsageError("the signer's public key is not given", "Give it with --public-key: openssl rsa -in KEY.pem -pubout")
    modulus = load_public_modulus(read_file(public_key, MAX_SMALL_BYTES))
    raw = read_file(signature, MAX_SMALL_BYTES) if signature is not None else run_key_command(key_command or "", digest_to_sign(draft))
    return complete(draft, modulus=modulus, signature=int.from_bytes(raw, "big"))
