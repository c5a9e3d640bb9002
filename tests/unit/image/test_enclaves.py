"""Enclave files and what lies beside them: one, a directory of them, signed in every way and in none."""

import datetime as dt
import hashlib
import importlib.util
import os
import sys
import tracemalloc
from pathlib import Path

import pytest

from kubenclave.errors import NotFound, Refused
from kubenclave.image import ImageSpec, build_image, look_at, open_image, parse_reference, read_enclave_input, read_enclave_inputs
from kubenclave.image.enclaves import MAX_ENCLAVES, enclave_facts
from kubenclave.sgx import (
    EnclaveLayout,
    PageRun,
    draft_sigstruct,
    generate_signing_key,
    measure,
    read_enclave,
    redraft,
    sign,
    with_signatures,
    write_sgxs,
)

DAY = dt.date(2026, 1, 2)


@pytest.fixture(scope="module")
def key():
    return generate_signing_key()


@pytest.fixture(scope="module")
def unsigned_elf():
    """An Open Enclave file, as the tests of the room ``sgx`` write it."""
    spec = importlib.util.spec_from_file_location("sgx_conftest", Path(__file__).parents[1] / "sgx/conftest.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["sgx_conftest"] = module
    spec.loader.exec_module(module)
    return module.open_enclave_file()


@pytest.fixture(scope="module")
def signed_elf(unsigned_elf, key):
    enclave = read_enclave(unsigned_elf)
    return with_signatures(unsigned_elf, {enclave.sigstruct_at: sign(redraft(enclave, date=DAY, isv_prod_id=9), key)})


def stream_of(content, key, *, isv_svn=1):
    run = PageRun(offset=0, page_count=len(content) // 4096, secinfo=0x203, content=content)
    layout = EnclaveLayout(elrange_bytes=1 << 28, ssa_frame_pages=1, runs=(run,))
    draft = draft_sigstruct(mrenclave=measure(layout), date=DAY, isv_svn=isv_svn)
    return b"".join(write_sgxs(layout)), sign(draft, key).to_bytes()


@pytest.fixture
def folder(tmp_path, signed_elf, key):
    """A directory of three enclaves: an ELF file and two streams, written in another order than that of their names."""
    place = tmp_path / "enclaves"
    place.mkdir()
    for name, content, svn in (("z", b"z" * 4096, 3), ("b", b"b" * 8192, 2)):
        stream, signature = stream_of(content, key, isv_svn=svn)
        (place / f"{name}.sgxs").write_bytes(stream)
        (place / f"{name}.sig").write_bytes(signature)
    (place / "a.signed.so").write_bytes(signed_elf)
    (place / ".hidden").write_text("left by an editor")
    return place


def test_a_directory_of_enclaves_is_packed_whole_and_each_says_what_it_is(folder, tmp_path, make_elf):
    (tmp_path / "host").write_bytes(make_elf())
    spec = ImageSpec(reference=parse_reference("many:1"), host=tmp_path / "host", enclaves=read_enclave_inputs(folder))

    image = build_image(spec, tmp_path / "image.tar", lambda _: None)

    names = ["a.signed.so", "b.sgxs", "b.sig", "z.sgxs", "z.sig"]
    assert [file.path for file in image.files if file.role == "enclave"] == [f"/app/{name}" for name in names]
    facts = [
        {name: image.annotations[f"kubenclave.enclave.{number}.{name}"] for name in ("path", "format", "isvsvn")} for number in range(3)
    ]
    assert facts == [
        {"path": "/app/a.signed.so", "format": "open-enclave", "isvsvn": "3"},
        {"path": "/app/b.sgxs", "format": "sgxs", "isvsvn": "2"},
        {"path": "/app/z.sgxs", "format": "sgxs", "isvsvn": "3"},
    ]
    assert not [name for name in image.annotations if name.startswith("kubenclave.enclave.3.")]
    assert image.epc_bytes == sum(int(image.annotations[f"kubenclave.enclave.{number}.epc-bytes"]) for number in range(3))
    with open_image(str(image.archive)) as opened:
        read_back = look_at(opened, check=True)
    assert [enclave.path for enclave in read_back.enclaves] == ["/app/a.signed.so", "/app/b.sgxs", "/app/z.sgxs"]
    assert read_back.command == tuple(f"/app/{name}" for name in names)


def test_an_empty_directory_holds_no_enclave(tmp_path):
    (tmp_path / "enclaves").mkdir()
    (tmp_path / "enclaves" / "alone.sig").write_bytes(b"")

    with pytest.raises(NotFound, match="holds no enclave"):
        read_enclave_inputs(tmp_path / "enclaves")


@pytest.mark.parametrize("make", [lambda path: path.write_text("read me"), Path.mkdir, os.mkfifo], ids=["text", "directory", "pipe"])
def test_what_is_no_enclave_in_a_directory_of_them_is_named(folder, make):
    make(folder / "other")

    with pytest.raises(Refused, match=r"enclaves/other"):
        read_enclave_inputs(folder)


def test_a_directory_of_more_files_than_any_program_has_enclaves_is_refused_before_one_is_read(tmp_path):
    for number in range(MAX_ENCLAVES + 1):
        (tmp_path / f"{number}.so").touch()

    with pytest.raises(Refused, match=f"more than {MAX_ENCLAVES} files"):
        read_enclave_inputs(tmp_path)


def test_an_unsigned_elf_enclave_is_told_how_to_be_signed(tmp_path, unsigned_elf):
    file = tmp_path / "enclave.so"
    file.write_bytes(unsigned_elf)

    with pytest.raises(NotFound, match=r"enclave\.so is an enclave without a signature\.$") as caught:
        read_enclave_input(file)
    assert f"kubenclave enclave sign {file} --key" in caught.value.hint
    assert "--dump-digest" in caught.value.hint


def test_a_signature_beside_an_unsigned_elf_enclave_is_said_not_to_help(tmp_path, unsigned_elf, signed_elf):
    file = tmp_path / "enclave.so"
    file.write_bytes(unsigned_elf)
    # Even the right one: no loader of such a file looks there.
    (tmp_path / "enclave.sig").write_bytes(read_enclave(signed_elf).sigstruct.to_bytes())

    with pytest.raises(NotFound, match=r"without a signature\. enclave\.sig beside it does not help: .* reads the signature in it"):
        read_enclave_input(file)


def test_a_signed_elf_enclave_is_packed_alone_whatever_lies_beside_it(tmp_path, signed_elf):
    file = tmp_path / "enclave.so"
    file.write_bytes(signed_elf)
    (tmp_path / "enclave.sig").write_bytes(b"of something else")

    read = read_enclave_input(file)

    ((name, source),) = read.files
    assert (name, source.path, source.sha256) == ("enclave.so", file, hashlib.sha256(signed_elf).digest())
    assert read.facts.identity.isv_prod_id == 9


@pytest.mark.parametrize("ending", [".sgxs", ".sig"])
@pytest.mark.parametrize("change", [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data + b"x"], ids=["a bit", "longer"])
def test_a_file_that_is_no_more_what_was_measured_is_not_packed(folder, tmp_path, make_elf, change, ending):
    (tmp_path / "host").write_bytes(make_elf())
    enclave = read_enclave_input(folder / "b.sgxs")
    changed = folder / f"b{ending}"
    before = changed.stat()
    changed.write_bytes(change(changed.read_bytes()))
    # Not even its times tell.
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(Refused, match=rf"/app/b\{ending} changed while it was read"):
        build_image(
            ImageSpec(reference=parse_reference("x:1"), host=tmp_path / "host", enclaves=(enclave,)), tmp_path / "x.tar", lambda _: None
        )
    assert not (tmp_path / "x.tar").exists()


def test_the_same_enclave_from_two_places_is_packed_once(folder, tmp_path, make_elf):
    (tmp_path / "host").write_bytes(make_elf())
    (tmp_path / "other").mkdir()
    for file in folder.glob("b.*"):
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    enclaves = (read_enclave_input(folder / "b.sgxs"), read_enclave_input(tmp_path / "other" / "b.sgxs"))

    spec = ImageSpec(reference=parse_reference("x:1"), host=tmp_path / "host", enclaves=enclaves)
    image = build_image(spec, tmp_path / "x.tar", lambda _: None)

    assert [file.path for file in image.files if file.role == "enclave"] == ["/app/b.sgxs", "/app/b.sig"]


def test_a_bare_signature_is_no_enclave(tmp_path, key):
    (tmp_path / "enclave.css").write_bytes(stream_of(bytes(4096), key)[1])

    with pytest.raises(Refused, match="a SIGSTRUCT holds their measurement alone"):
        read_enclave_input(tmp_path / "enclave.css")


def test_the_facts_of_a_large_stream_take_no_second_copy_of_it(key):
    stream, signature = stream_of(bytes(range(256)) * (16 << 12), key)

    tracemalloc.start()
    facts = enclave_facts(stream, signature)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert facts.epc_bytes > 16 << 20
    # Some pieces of a mebibyte are under way at a time.
    assert peak_bytes < 12 << 20 < len(stream)


def test_a_directory_of_enclaves_is_in_memory_one_after_the_other(tmp_path, key):
    for number in range(4):
        stream, signature = stream_of(bytes([number + 1]) * (6 << 20), key)
        (tmp_path / f"{number}.sgxs").write_bytes(stream)
        (tmp_path / f"{number}.sig").write_bytes(signature)

    tracemalloc.start()
    found = read_enclave_inputs(tmp_path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len({enclave.facts.identity.mrenclave for enclave in found}) == 4
    assert peak_bytes < len(stream) + (12 << 20) < 4 * len(stream)
