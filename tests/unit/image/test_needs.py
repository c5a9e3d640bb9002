"""What a program needs beside its libraries: what is opened by name, surroundings, findings."""

import io
import os
import posixpath
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import NotFound, Refused, UsageError
from kubenclave.image import AddedFile, ImageSpec, Surrounding
from kubenclave.image.content import image_content
from kubenclave.image.layer import CutFile, Directory, File, Link, Role
from kubenclave.image.needs import words as words_module
from kubenclave.image.needs.rules import opened, rules
from kubenclave.image.needs.surroundings import surrounding_entries
from kubenclave.image.needs.words import NO_WORDS, imported, read_words
from kubenclave.image.reference import parse_reference
from kubenclave.image.sysroot import Sysroot
from kubenclave.image.tree import tree_entries

LIB = "/lib/x86_64-linux-gnu"
LOADER = "/lib64/ld-linux-x86-64.so.2"
OPEN_ENCLAVE = (
    "libsgx_enclave_common.so.1",
    "libsgx_dcap_ql.so.1",
    "libsgx_dcap_quoteverify.so.1",
    "libsgx_quote_ex.so.1",
    "libdcap_quoteprov.so",
)


def strings(*texts):
    return b"\0" + b"".join(text.encode() + b"\0" for text in texts)


@pytest.fixture
def content(tmp_path, root, make_elf):
    """Decide the content of an image of a program with these strings in it, in a system with these libraries."""

    def run(*texts, installed=None, needed=("libc.so.6",), tree=None, **more):
        base = {LOADER: make_elf(soname="ld-linux-x86-64.so.2"), f"{LIB}/libc.so.6": make_elf(soname="libc.so.6")}
        base |= {f"{LIB}/{name}": data for name, data in (installed or {}).items()}
        place = root(base | (tree or {}), name="system")
        host = tmp_path / "host"
        # Names of functions stand where imports do, the rest where constants do.
        names = [text for text in texts if text.isidentifier()]
        data = make_elf(interpreter=LOADER, needed=list(needed), names=names, tail=strings(*(text for text in texts if text not in names)))
        host.write_bytes(data)
        return image_content(ImageSpec(reference=parse_reference("x"), host=host, sysroot=place, **more))

    return run


def entries(found):
    return {entry.path: entry for _, layer in found.layers for entry in layer}


# --- opened by name ------------------------------------------------------------------------------------------------------------------


def test_every_row_of_the_table_says_what_breaks_and_where_that_is_written():
    assert len(rules()) >= 10
    for rule in rules():
        assert rule.breaks
        assert rule.source
        assert rule.found_by in ("name", "import")
        # What a library of the system is searched for begins so.
        assert rule.found_by == "import" or rule.name.startswith(("libsgx_", "libdcap_"))
        assert rule.purpose in ("launch", "quote", "verify", "provider", "thread")


def test_what_an_open_enclave_host_opens_by_name_is_in_its_image(content, make_elf):
    libraries = {name: make_elf(soname=name) for name in OPEN_ENCLAVE}

    found = content(*OPEN_ENCLAVE, installed=libraries)

    # libsgx_quote_ex is opened only where SGX_AESM_ADDR says so.
    assert {f"{LIB}/{name}" for name in OPEN_ENCLAVE} - {f"{LIB}/libsgx_quote_ex.so.1"} <= entries(found).keys()
    assert f"{LIB}/libsgx_quote_ex.so.1" not in entries(found)


def test_with_the_aesm_service_quotes_come_from_outside(content, make_elf):
    libraries = {name: make_elf(soname=name) for name in OPEN_ENCLAVE}

    found = content(*OPEN_ENCLAVE, installed=libraries, environment={"SGX_AESM_ADDR": "1"})

    assert f"{LIB}/libsgx_quote_ex.so.1" in entries(found)
    assert f"{LIB}/libsgx_dcap_ql.so.1" not in entries(found)
    assert any("/var/run/aesmd" in finding.hint for finding in found.findings)


@pytest.mark.parametrize(
    ("name", "breaks"),
    [
        ("libsgx_enclave_common.so.1", "no enclave can be created"),
        ("libsgx_dcap_ql.so.1", "no quote can be made"),
        ("libsgx_dcap_quoteverify.so.1", "quotes of others cannot be verified"),
        ("libdcap_quoteprov.so", "no collateral"),
        ("libdcap_quoteprov.so.1", "no collateral"),
        ("libsgx_qe3.signed.so.1", "quoting enclave"),
    ],
)
def test_one_that_is_missing_is_an_error_that_says_who_wants_it_and_what_breaks(content, name, breaks):
    with pytest.raises(NotFound) as caught:
        content(name)

    assert f"/app/host opens {name} by name, which was not found; without it, " in caught.value.what
    assert breaks in caught.value.what
    assert f"--allow-missing {name}" in caught.value.hint

    allowed = content(name, allow_missing=(name,))
    assert [absent.name for absent in allowed.absent] == [name]
    assert any(name in finding.what for finding in allowed.findings)


def test_a_needed_library_may_be_missing_on_purpose_too(content):
    with pytest.raises(NotFound, match="needs libgone"):
        content(needed=["libgone.so.1"])
    assert content(needed=["libgone.so.1"], allow_missing=("libgone.so.1",)).absent[0].wanted_by == "/app/host"


def test_what_is_needed_in_some_places_only_is_a_finding(content):
    found = content("libsgx_launch.so.1")

    assert [absent.name for absent in found.absent] == ["libsgx_launch.so.1"]


def test_a_library_opened_by_name_brings_what_it_needs_and_opens_itself(content, make_elf):
    libraries = {
        "libsgx_dcap_ql.so.1": make_elf(needed=["libsgx_qe3_logic.so"], soname="libsgx_dcap_ql.so.1"),
        "libsgx_qe3_logic.so": make_elf(soname="libsgx_qe3_logic.so", tail=strings("libsgx_qe3.signed.so.1", "libdcap_quoteprov.so.1")),
        "libdcap_quoteprov.so.1": make_elf(soname="libdcap_quoteprov.so.1", needed=["libsgx_default_qcnl_wrapper.so.1"]),
        "libsgx_default_qcnl_wrapper.so.1": make_elf(soname="libsgx_default_qcnl_wrapper.so.1"),
        # Nothing reads an enclave: what stands in it is not wanted.
        "libsgx_qe3.signed.so.1": make_elf(needed=["libgone.so"], tail=strings("libsgx_dcap_quoteverify.so.1")),
    }

    found = content("libsgx_dcap_ql.so.1", installed=libraries, strip=True)

    assert {f"{LIB}/{name}" for name in libraries} <= entries(found).keys()
    enclave = entries(found)[f"{LIB}/libsgx_qe3.signed.so.1"]
    assert (enclave.role, enclave.executable, isinstance(enclave.source, CutFile)) == (Role.ENCLAVE, False, False)
    assert any("Intel's" in finding.what and "sgx_default_qcnl.conf" in finding.hint for finding in found.findings)


def test_either_name_of_the_provider_will_do_for_who_tries_both(content, make_elf):
    both = ("libdcap_quoteprov.so.1", "libdcap_quoteprov.so")
    azure = {"libdcap_quoteprov.so": make_elf(soname="libdcap_quoteprov.so", tail=strings("AZDCAP_DEBUG_LOG_LEVEL"))}

    found = content(*both, installed=azure)

    assert f"{LIB}/libdcap_quoteprov.so" in entries(found)
    assert found.absent == ()
    assert any("not Intel's" in finding.what for finding in found.findings)


def test_a_program_that_ends_threads_gets_what_glibc_opens_then(content, make_elf):
    libraries = {"libgcc_s.so.1": make_elf(soname="libgcc_s.so.1")}

    assert f"{LIB}/libgcc_s.so.1" in entries(content("pthread_cancel", installed=libraries))
    assert f"{LIB}/libgcc_s.so.1" not in entries(content("nothing of the kind", installed=libraries))


def test_a_library_can_be_asked_for_by_name(content, make_elf):
    installed = {"libplug.so": make_elf(needed=["libdeep.so"]), "libdeep.so": make_elf()}

    assert {f"{LIB}/libplug.so", f"{LIB}/libdeep.so"} <= entries(content(installed=installed, libraries=("libplug.so",))).keys()
    assert f"{LIB}/libplug.so" not in entries(content(installed=installed))
    with pytest.raises(NotFound, match="was not found"):
        content(libraries=("libgone.so",))


def test_names_of_other_libraries_are_a_finding_for_a_program_that_opens_any(content):
    assert any("libplug.so.3" in finding.what for finding in content("dlopen", "libplug.so.3").findings)
    assert not any("libplug.so.3" in finding.what for finding in content("libplug.so.3").findings)


@pytest.mark.parametrize("at", [0, 1, 100, (1 << 20) - 200, (1 << 20) - 20, (1 << 20) - 5, (1 << 20), (1 << 20) + 1, (2 << 20) - 3])
def test_a_word_is_found_wherever_it_stands(at):
    data = bytes(at) + strings("libsgx_dcap_ql.so.1", "/etc/ssl/certs/ca-certificates.crt") + bytes(1000)

    found = read_words(io.BytesIO(data))

    assert found.libraries == {"libsgx_dcap_ql.so.1"}
    assert found.paths == {"/etc/ssl/certs/ca-certificates.crt"}


@pytest.mark.parametrize("text", ["libsgx.so.1abc", "lib.so", "xlibc", "/etc/ssl"])
def test_parts_of_other_words_are_none(text):
    assert read_words(io.BytesIO(strings(text))) == NO_WORDS


def test_imports_are_whole_names():
    assert imported([b"getaddrinfo_x", b"my_getaddrinfo", b"localtime_r", b""]) == {"localtime_r"}


def test_a_huge_file_is_read_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(words_module, "MAX_SCANNED_BYTES", 1 << 20)

    assert read_words(io.BytesIO(bytes(2 << 20) + strings("libx.so.1"))) == NO_WORDS


@given(st.binary(max_size=500))
def test_any_bytes_have_words_or_none(data):
    found = read_words(io.BytesIO(data))

    assert opened(found, is_program=True, environment=()) is not None


# --- surroundings --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "switch"),
    [
        ("SSL_CTX_set_default_verify_paths", "ca"),
        ("/etc/pki/tls/certs/ca-bundle.crt", "ca"),
        ("getpwnam_r", "users"),
        ("getaddrinfo", "nss"),
        ("res_query", "resolv"),
        ("localtime_r", "tz"),
        ("/usr/share/zoneinfo", "tz"),
        ("newlocale", "locale"),
    ],
)
def test_a_sign_of_a_need_suggests_its_switch_until_it_is_given(content, word, switch):
    assert any(f"--with {switch}." in finding.hint for finding in content(word).findings)
    tree = {
        "/etc/ssl/certs/ca-certificates.crt": b"certificates",
        "/usr/share/zoneinfo/UTC": b"TZif",
        "/usr/lib/locale/C.utf8/LC_CTYPE": b"x",
    }
    given_ = content(word, tree=tree, surroundings=(Surrounding(switch),))
    assert not any(f"--with {switch}." in finding.hint for finding in given_.findings)


def test_nothing_of_the_system_is_in_an_image_unasked(content):
    assert set(entries(content("getaddrinfo"))) == {"/app", "/app/host", "/lib64", LOADER, "/lib", LIB, f"{LIB}/libc.so.6"}


def surroundings(place, *wanted, user="65532:65532"):
    return {entry.path: entry for entry in surrounding_entries(wanted, Sysroot(place), user)}


def test_certificates_lie_where_go_and_where_openssl_look(root):
    found = surroundings(root({"/etc/pki/tls/certs/ca-bundle.crt": b"certificates"}), Surrounding.CA)

    bundle = found["/etc/ssl/certs/ca-certificates.crt"]
    assert bundle.source.read_bytes() == b"certificates"
    for link in (entry for entry in found.values() if isinstance(entry, Link)):
        assert posixpath.normpath(posixpath.join(posixpath.dirname(link.path), link.target)) == bundle.path


@pytest.mark.parametrize("user", ["65532:65532", "0:0", "1000:0", "65534:65534"])
def test_the_images_user_has_a_name_and_the_files_are_well_formed(root, user):
    found = surroundings(root({}), Surrounding.USERS, user=user)
    passwd = [line.split(":") for line in found["/etc/passwd"].source.decode().splitlines()]
    group = [line.split(":") for line in found["/etc/group"].source.decode().splitlines()]

    assert all(len(row) == 7 for row in passwd)
    assert all(len(row) == 4 for row in group)
    assert user.split(":")[0] in [row[2] for row in passwd]
    assert {row[3] for row in passwd} <= {row[2] for row in group}
    assert len({row[2] for row in passwd}) == len(passwd)


def test_zones_are_taken_whole_without_their_doubles(root):
    tree = {"/usr/share/zoneinfo/Europe/Paris": b"TZif", "/usr/share/zoneinfo/right/UTC": b"x", "/usr/share/zoneinfo/Zulu": "Europe/Paris"}
    tree["/usr/share/zoneinfo/localtime"] = "/etc/localtime"

    found = surroundings(root(tree), Surrounding.TZ)

    assert {path for path, entry in found.items() if not isinstance(entry, Directory)} == {
        "/usr/share/zoneinfo/Europe/Paris",
        "/usr/share/zoneinfo/Zulu",
    }


def test_old_name_service_modules_come_with_nss(content, make_elf):
    libraries = {"libnss_files.so.2": make_elf(), "libnss_dns.so.2": make_elf(needed=["libresolv.so.2"]), "libresolv.so.2": make_elf()}

    found = entries(content(installed=libraries, surroundings=(Surrounding.NSS,)))

    assert {f"{LIB}/{name}" for name in libraries} | {"/etc/nsswitch.conf"} <= found.keys()


@pytest.mark.parametrize("one", [Surrounding.CA, Surrounding.TZ, Surrounding.LOCALE])
def test_what_the_system_does_not_have_is_said(root, one):
    with pytest.raises(NotFound, match=r"Th(ere is no|ere are no)"):
        surroundings(root({}), one)


def test_hosts_and_resolv_are_there_when_asked_for(root):
    assert set(surroundings(root({}), Surrounding.RESOLV)) == {"/etc/hosts", "/etc/resolv.conf"}


# --- directories ---------------------------------------------------------------------------------------------------------------------


def test_a_directory_is_added_with_its_links_and_modes(root, content, tmp_path):
    place = root({"/d/x": b"1", "/d/sub/y": b"2", "/d/l": "sub/y", "/d/up": "sub/../x"}, name="tree")
    (place / "d/x").chmod(0o4711)
    (place / "d/empty").mkdir()

    found = entries(content(files=(AddedFile(source=place / "d", path="/data"), AddedFile(source=place / "d", path="/more/"))))

    assert {"/data/x", "/data/sub/y", "/data/l", "/data/up", "/data/empty", "/more/d/x"} <= found.keys()
    assert (found["/data/x"].executable, found["/data/sub/y"].executable) == (True, False)
    assert found["/data/l"].target == "sub/y"


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "../d2/x", "sub/../../.."])
def test_a_link_out_of_an_added_directory_is_refused(root, target):
    place = root({"/d/link": target, "/d2/x": b""})

    with pytest.raises(Refused, match="leads out of"):
        tree_entries(place / "d", "/data")


def test_a_link_to_itself_is_kept_as_it_is_and_never_followed(root):
    place = root({"/d/loop": "loop"})

    assert Link(path="/data/loop", target="loop") in tree_entries(place / "d", "/data")


def test_very_deep_directories_do_not_overflow(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)

    try:
        assert len(tree_entries(tmp_path, "/data")) == 1201
    finally:
        # Deeper than Python's own way of removing directories goes.
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)


def test_added_code_gets_its_libraries(content, make_elf, tmp_path):
    (tmp_path / "plugin.so").write_bytes(make_elf(needed=["libextra.so"]))

    found = content(installed={"libextra.so": make_elf()}, files=(AddedFile(source=tmp_path / "plugin.so", path="/app/plugins/"),))

    assert f"{LIB}/libextra.so" in entries(found)


@pytest.mark.parametrize("data", [b"\x7fELF and no more", b"\x7fELF\x01\x01\x01" + bytes(60), b"#!/bin/sh\n", b""])
def test_an_added_file_that_is_no_code_is_data(content, tmp_path, data):
    (tmp_path / "f").write_bytes(data)

    assert "/app/f" in entries(content(files=(AddedFile(source=tmp_path / "f", path="/app/"),)))


# --- the rest of a specification -----------------------------------------------------------------------------------------------------


def test_how_an_image_starts_can_be_said(content):
    found = content(entrypoint=("/app/host", "--flag"), command=(), environment={"A": "1=2"}, working_directory="/srv/here", user="7:8")

    assert found.run.entrypoint == ("/app/host", "--flag")
    assert (found.run.environment, found.run.working_directory, found.run.user) == (("A=1=2",), "/srv/here", "7:8")
    assert isinstance(entries(found)["/srv/here"], Directory)


@pytest.mark.parametrize(
    "wrong",
    [
        {"environment": {"": "x"}},
        {"environment": {"A B": "x"}},
        {"environment": {"A": "x\0y"}},
        {"working_directory": "relative"},
        {"user": "root"},
    ],
)
def test_what_cannot_be_is_a_usage_error(content, wrong):
    with pytest.raises(UsageError):
        content(**wrong)


def test_stripping_takes_symbols_from_programs_and_libraries_and_from_nothing_else(content, make_elf, tmp_path):
    debug = b"debug information" * 50
    (tmp_path / "added.so").write_bytes(make_elf(tail=debug))
    added = AddedFile(source=tmp_path / "added.so", path="/app/added.so")

    found = content(installed={"liba.so": make_elf(soname="liba.so", tail=debug)}, needed=["liba.so"], files=(added,), strip=True)

    # The strings of the host are what no segment holds, too.
    assert found.saved_bytes == len(debug) + len(strings())
    assert isinstance(entries(found)[f"{LIB}/liba.so"].source, CutFile)
    assert not isinstance(entries(found)["/app/added.so"].source, CutFile)


def test_an_entry_of_memory_is_left_alone_by_stripping():
    from kubenclave.image.strip import stripped  # noqa: PLC0415

    entry = File(path="/e", source=b"an enclave", role=Role.ENCLAVE)
    assert stripped([entry]) == [entry]
