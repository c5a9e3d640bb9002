#!/usr/bin/env python3
"""Build the example: compile enclave and host with gcc, pack the enclave as SGXS, sign it.

    python examples/hello-enclave/build.py OUTPUT_DIRECTORY [--key KEY.pem] [--date YYYY-MM-DD]

writes ``hello`` (the host program), ``hello.sgxs`` (the enclave) and ``hello.sig`` (its SIGSTRUCT). The same sources, key and date give
the same bytes, wherever they are built. ``build`` does the same for a caller in Python.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kubenclave.errors import HostUnfit, KubenclaveError, NotFound, UsageError
from kubenclave.sgx import (
    Enclave,
    draft_sigstruct,
    generate_signing_key,
    lay_out,
    load_signing_key,
    measure,
    read_enclave,
    sign,
    signing_key_pem,
    write_sgxs,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

SOURCES: Final = Path(__file__).resolve().parent
KEY_FILE: Final = "signing-key.pem"
DEFAULT_DATE: Final = dt.date(2026, 1, 1)
"""Fixed, so that two builds are equal; SOURCE_DATE_EPOCH or ``--date`` change it."""

HEAP_PAGES: Final = 1024
STACK_PAGES: Final = 4
THREADS: Final = 1
ISV_PROD_ID: Final = 1
ISV_SVN: Final = 1

COMPILER_SECONDS: Final = 120
_WARNINGS: Final = ("-Wall", "-Wextra", "-Werror")
_ENCLAVE_FLAGS: Final = (
    *("-std=c11", "-Os", "-I.", "-ffreestanding", "-fPIE", "-fvisibility=hidden"),
    # No vector registers, so that the enclave needs no more state than it saves; and nothing that expects a C library.
    *("-mgeneral-regs-only", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none"),
    *("-s", "-nostdlib", "-static-pie", "-Wl,-e,enclave_entry", "-Wl,--no-dynamic-linker", "-Wl,--build-id=none"),
    # Code, constants and data on pages of their own; a relocation in code is an error.
    *("-Wl,-z,separate-code", "-Wl,-z,max-page-size=4096", "-Wl,-z,norelro", "-Wl,-z,noexecstack", "-Wl,-z,text"),
)
# The simulation changes the segment base that stack protectors read, so the host has none.
_HOST_FLAGS: Final = ("-std=gnu11", "-Os", "-s", "-static", "-fno-stack-protector", "-Wl,--build-id=none", "-Wl,-z,noexecstack")


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Name what was built.

    Attributes:
        host: The host program, static and stripped.
        enclave_file: The enclave as an SGXS stream.
        signature_file: Its SIGSTRUCT.
        key_file: The signer's private key.
        enclave: The two files above, read back.
    """

    host: Path
    enclave_file: Path
    signature_file: Path
    key_file: Path
    enclave: Enclave


def build(output: Path, *, key_file: Path | None = None, date: dt.date = DEFAULT_DATE) -> Built:
    """Compile, pack and sign into ``output``, which is made if missing; each file appears whole or not at all.

    Args:
        output: The directory to write into.
        key_file: The signer's RSA-3072 key in PEM form; without it the one in ``output`` is used, or made there.
        date: The signing date.

    Raises:
        HostUnfit: gcc or the C library's static files are missing, or the directory cannot be written.
        NotFound: The key file is not there.
        Refused: The key is not one that SGX accepts.
    """
    # gcc runs in another directory.
    output = output.resolve()
    try:
        output.mkdir(parents=True, exist_ok=True)
        # Beside the results, so that renaming them into place cannot cross a file system.
        with tempfile.TemporaryDirectory(prefix=".build-", dir=output) as scratch_name:
            scratch = Path(scratch_name)
            _compile("host", _HOST_FLAGS, scratch / "hello")
            _compile("enclave", _ENCLAVE_FLAGS, scratch / "enclave.elf")
            key_file, key = _signing_key(key_file, output)
            layout = lay_out((scratch / "enclave.elf").read_bytes(), heap_pages=HEAP_PAGES, stack_pages=STACK_PAGES, threads=THREADS)
            draft = draft_sigstruct(mrenclave=measure(layout), date=date, isv_prod_id=ISV_PROD_ID, isv_svn=ISV_SVN)
            stream, signature = b"".join(write_sgxs(layout)), sign(draft, key).to_bytes()
            (scratch / "hello.sgxs").write_bytes(stream)
            (scratch / "hello.sig").write_bytes(signature)
            host, enclave_file, signature_file = (_publish(scratch / name, output) for name in ("hello", "hello.sgxs", "hello.sig"))
    except OSError as exc:
        raise HostUnfit(f"the example could not be built in {output}: {exc}", "Choose a directory that you can write to.") from exc
    enclave = read_enclave(stream, signature)
    return Built(host=host, enclave_file=enclave_file, signature_file=signature_file, key_file=key_file, enclave=enclave)


def _compile(part: str, flags: Sequence[str], result: Path) -> None:
    """Run gcc on the sources of one part, from the example's directory, so that no path of this machine gets into the result."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise HostUnfit("gcc is not installed, and the example is written in C", "Install it: apt-get install gcc libc6-dev")
    sources = sorted(str(path.relative_to(SOURCES)) for path in (SOURCES / part).iterdir() if path.suffix in {".c", ".S"})
    command = [compiler, *_WARNINGS, *flags, "-o", str(result), *sources]
    try:
        done = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, errors="replace", timeout=COMPILER_SECONDS, check=False)
    except subprocess.TimeoutExpired as exc:
        raise HostUnfit(f"gcc did not finish the {part} within {COMPILER_SECONDS} s", "Try again on a less busy machine.") from exc
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line or "cannot find" in line]
        reason = (lines or done.stderr.splitlines() or [f"exit code {done.returncode}"])[0]
        raise HostUnfit(f"gcc could not build the {part}: {reason}", "Install gcc and the C library for static linking: libc6-dev")


def _signing_key(key_file: Path | None, output: Path) -> tuple[Path, RSAPrivateKey]:
    if key_file is not None and not key_file.is_file():
        raise NotFound(f"the signing key {key_file} is not there", "Leave --key out to get a new key, or give the path of yours.")
    path = key_file or output / KEY_FILE
    if path.is_file():
        return path, load_signing_key(path.read_bytes())
    key = generate_signing_key()
    # Readable by nobody else from its first moment on, and never half written under its name.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(signing_key_pem(key))
    unfinished.replace(path)
    return path, key


def _publish(file: Path, output: Path) -> Path:
    file.chmod(0o755 if file.name == "hello" else 0o644)
    return file.replace(output / file.name)


def signing_date(option: str | None, environment: Mapping[str, str]) -> dt.date:
    """Choose the signing date: the option, else SOURCE_DATE_EPOCH, else a fixed one.

    Raises:
        UsageError: The option is no date, or SOURCE_DATE_EPOCH no number of seconds.
    """
    epoch = environment.get("SOURCE_DATE_EPOCH")
    try:
        if option is not None:
            return dt.date.fromisoformat(option)
        if epoch is not None:
            return dt.datetime.fromtimestamp(int(epoch), tz=dt.UTC).date()
    except (ValueError, OverflowError, OSError) as exc:
        what = f"the date {option!r} is not of the form YYYY-MM-DD" if option is not None else f"SOURCE_DATE_EPOCH {epoch!r} is not a time"
        raise UsageError(what, "Give a date such as 2026-01-31, or seconds since 1970.") from exc
    return DEFAULT_DATE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; exit codes are those of kubenclave."""
    parser = argparse.ArgumentParser(description="Build the example enclave and its host program.")
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIRECTORY")
    parser.add_argument("--key", type=Path, help=f"signer's RSA-3072 key in PEM form (default: {KEY_FILE} in the output, made if missing)")
    parser.add_argument("--date", help=f"signing date (default: SOURCE_DATE_EPOCH, or {DEFAULT_DATE.isoformat()})")
    options = parser.parse_args(arguments)
    try:
        built = build(options.output, key_file=options.key, date=signing_date(options.date, os.environ))
        identity, need = built.enclave.verified_identity(), built.enclave.epc_need
    except KubenclaveError as exc:
        print(f"error: {exc.what}\nhint: {exc.hint}", file=sys.stderr)  # noqa: T201 - this is the program's report
        return exc.exit_code
    files = (built.host, built.enclave_file, built.signature_file)
    lines = [f"{file.stat().st_size:>9,} bytes  {file}" for file in files]
    lines += [f"MRENCLAVE {identity.mrenclave.hex()}", f"MRSIGNER {identity.mrsigner.hex()}"]
    lines += [f"EPC need: {need.pages} pages, {need.epc_bytes:,} bytes, so ask for {need.epc_mib} MiB"]
    print("\n".join(lines))  # noqa: T201 - as above
    return 0


if __name__ == "__main__":
    sys.exit(main())
