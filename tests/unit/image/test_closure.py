import pytest

from kubenclave.errors import NotFound, Refused
from kubenclave.image.closure import Start, find_closure
from kubenclave.image.sysroot import Sysroot

LIB = "/lib/x86_64-linux-gnu"
LOADER = "/lib64/ld-linux-x86-64.so.2"


@pytest.fixture
def system(root, make_elf):
    """Draw a system with a loader and a C library, and whatever else is given."""

    def make(tree=None):
        base = {
            LOADER: make_elf(soname="ld-linux-x86-64.so.2"),
            f"{LIB}/libc.so.6": make_elf(soname="libc.so.6", needed=["ld-linux-x86-64.so.2"]),
        }
        return root(base | (tree or {}))

    return make


@pytest.fixture
def find(tmp_path):
    def run(program, place, *, at="/app/program", source="program"):
        file = tmp_path / source
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(program)
        return find_closure([Start(source=file, path=at)], Sysroot(place))

    return run


def paths(found):
    return [library.path for library in found.libraries]


def test_a_static_program_needs_nothing(find, system, make_elf):
    assert find(make_elf(), system()).libraries == ()


def test_a_dynamic_program_gets_its_loader_and_what_its_libraries_need(find, system, make_elf):
    place = system({f"{LIB}/liba.so.1": make_elf(soname="liba.so.1", needed=["libc.so.6"])})

    found = find(make_elf(interpreter=LOADER, needed=["liba.so.1"]), place)

    assert paths(found) == [LOADER, f"{LIB}/liba.so.1", f"{LIB}/libc.so.6"]
    by_path = {library.path: library for library in found.libraries}
    assert by_path[LOADER].is_loader
    assert by_path[LOADER].wanted_by == ("/app/program", f"{LIB}/libc.so.6")
    assert by_path[f"{LIB}/libc.so.6"].wanted_by == (f"{LIB}/liba.so.1",)
    assert found.links == {}
    assert found.cached == {}


def test_a_missing_library_is_named_with_who_needs_it(find, system, make_elf):
    place = system({f"{LIB}/liba.so.1": make_elf(needed=["libgone.so.3"])})

    with pytest.raises(NotFound, match=rf"{LIB}/liba.so.1 needs libgone.so.3.*{place}") as caught:
        find(make_elf(needed=["liba.so.1"]), place)
    assert "--sysroot" in caught.value.hint


def test_a_missing_loader_is_named(find, root, make_elf):
    with pytest.raises(NotFound, match=r"/app/program needs /lib/ld-musl-x86_64.so.1"):
        find(make_elf(interpreter="/lib/ld-musl-x86_64.so.1"), root({}))


def test_a_library_for_another_machine_is_passed_over(find, system, make_elf):
    place = system({f"{LIB}/liba.so": make_elf(machine=183), "/usr/lib/liba.so": make_elf()})

    assert paths(find(make_elf(needed=["liba.so"]), place)) == ["/usr/lib/liba.so"]


def test_text_in_a_librarys_place_is_refused_as_the_loader_does(find, system, make_elf):
    place = system({f"{LIB}/liba.so": b"INPUT(liba.so.1)"})

    with pytest.raises(Refused, match=r"liba.so, which /app/program needs, is not an ELF file"):
        find(make_elf(needed=["liba.so"]), place)


def test_origin_moves_with_the_program_into_the_image(find, system, make_elf, tmp_path):
    (tmp_path / "build" / "lib").mkdir(parents=True)
    (tmp_path / "build" / "lib" / "libown.so").write_bytes(make_elf(needed=["libc.so.6"]))

    found = find(make_elf(needed=["libown.so"], runpath="$ORIGIN/../lib"), system(), at="/app/bin/program", source="build/bin/program")

    assert paths(found)[:2] == ["/app/lib/libown.so", f"{LIB}/libc.so.6"]
    assert found.libraries[0].source == tmp_path / "build" / "lib" / "libown.so"
    # The loader walks /app/bin/../lib, so /app/bin must be there.
    assert found.directories == ("/app/bin",)


def test_a_runpath_does_not_serve_the_libraries_libraries_but_an_rpath_does(find, system, make_elf):
    place = system({"/opt/liba.so": make_elf(needed=["libb.so"]), "/opt/libb.so": make_elf()})

    assert paths(find(make_elf(needed=["liba.so"], rpath="/opt"), place)) == ["/opt/liba.so", "/opt/libb.so"]
    with pytest.raises(NotFound, match=r"/opt/liba.so needs libb.so"):
        find(make_elf(needed=["liba.so"], runpath="/opt"), place)


def test_a_library_with_a_runpath_of_its_own_does_not_inherit_an_rpath(find, system, make_elf):
    place = system({"/opt/liba.so": make_elf(needed=["libb.so"], runpath="/other"), "/opt/libb.so": make_elf()})

    with pytest.raises(NotFound, match=r"/opt/liba.so needs libb.so"):
        find(make_elf(needed=["liba.so"], rpath="/opt"), place)


def test_a_runpath_comes_before_the_default_directories(find, system, make_elf):
    place = system({"/opt/liba.so": make_elf(), f"{LIB}/liba.so": make_elf()})

    assert paths(find(make_elf(needed=["liba.so"], runpath="/opt"), place)) == ["/opt/liba.so"]


def test_the_lib_token_means_what_the_distributions_loader_means(find, system, make_elf):
    place = system({"/opt/lib64/liba.so": make_elf()})

    assert paths(find(make_elf(needed=["liba.so"], runpath="/opt/${LIB}"), place)) == ["/opt/lib64/liba.so"]


def test_a_relative_search_path_is_not_followed(find, system, make_elf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "liba.so").write_bytes(make_elf())

    with pytest.raises(NotFound, match=r"needs liba.so"):
        find(make_elf(needed=["liba.so"], runpath="."), system())
    with pytest.raises(NotFound, match=r"needs ./liba.so"):
        find(make_elf(needed=["./liba.so"]), system())


def test_a_file_found_twice_is_one_library_and_a_link(find, system, make_elf):
    place = system({f"{LIB}/libreal.so.1.2": make_elf(), f"{LIB}/liba.so": "libreal.so.1.2", f"{LIB}/libb.so": "libreal.so.1.2"})

    found = find(make_elf(needed=["liba.so", "libb.so"]), place)

    assert paths(found) == [f"{LIB}/liba.so"]
    assert found.links == {f"{LIB}/libb.so": f"{LIB}/liba.so"}


def test_a_library_of_that_soname_is_taken_without_a_search(find, system, make_elf):
    place = system({"/opt/libodd.so": make_elf(soname="liba.so.1"), f"{LIB}/liba.so.1": make_elf()})

    assert paths(find(make_elf(needed=["libodd.so", "liba.so.1"], rpath="/opt"), place)) == ["/opt/libodd.so"]


def test_a_library_of_a_configured_directory_is_put_into_the_cache(find, system, make_elf):
    place = system({"/etc/ld.so.conf": b"/usr/local/lib\n", "/usr/local/lib/liba.so": make_elf()})

    assert find(make_elf(needed=["liba.so", "libc.so.6"]), place).cached == {"liba.so": "/usr/local/lib/liba.so"}


def test_a_program_can_forbid_the_default_directories(find, system, make_elf):
    with pytest.raises(NotFound, match=r"needs libc.so.6"):
        find(make_elf(needed=["libc.so.6"], no_default_libs=True), system())


def test_no_library_outside_the_system_is_read(find, system, make_elf, tmp_path):
    (tmp_path / "liba.so").write_bytes(make_elf())
    place = system({f"{LIB}/liba.so": "../../../liba.so"})

    with pytest.raises(NotFound, match=r"needs liba.so"):
        find(make_elf(needed=["liba.so"]), place)


def test_a_program_of_the_system_keeps_its_origin_inside(system, make_elf, tmp_path):
    (tmp_path / "liba.so").write_bytes(make_elf())
    place = system({"/bin/program": make_elf(needed=["liba.so"], runpath="$ORIGIN/../..")})

    with pytest.raises(NotFound, match=r"needs liba.so"):
        find_closure([Start(source=place / "bin" / "program", path="/app/program")], Sysroot(place))


def test_libraries_that_need_each_other_end(find, system, make_elf):
    place = system({f"{LIB}/liba.so": make_elf(needed=["libb.so"]), f"{LIB}/libb.so": make_elf(needed=["liba.so"])})

    assert paths(find(make_elf(needed=["liba.so"]), place)) == [f"{LIB}/liba.so", f"{LIB}/libb.so"]


def test_a_file_that_asks_for_endless_searching_is_refused(find, system, make_elf, monkeypatch):
    monkeypatch.setattr("kubenclave.image.closure.MAX_PROBES", 50)

    with pytest.raises(Refused, match="more than 50 places to look"):
        find(make_elf(needed=[f"lib{n}.so" for n in range(10)], runpath=":".join(f"/{n}" for n in range(10))), system())


def test_a_script_and_a_program_for_another_machine_are_refused(find, system, make_elf):
    with pytest.raises(Refused, match="is not an ELF program"):
        find(b"#!/bin/sh\n", system())
    with pytest.raises(Refused, match="is not x86-64 code"):
        find(make_elf(machine=183), system())


def test_a_missing_program_is_named(system, tmp_path):
    with pytest.raises(NotFound, match="gone does not exist"):
        find_closure([Start(source=tmp_path / "gone", path="/app/gone")], Sysroot(system()))


def test_a_plugin_is_searched_for_as_if_the_program_loaded_it(system, make_elf, tmp_path):
    place = system({"/opt/libb.so": make_elf()})
    (tmp_path / "program").write_bytes(make_elf(rpath="/opt"))
    (tmp_path / "plugin.so").write_bytes(make_elf(needed=["libb.so"]))
    starts = [Start(source=tmp_path / "program", path="/app/program"), Start(source=tmp_path / "plugin.so", path="/app/plugin.so")]

    assert paths(find_closure(starts, Sysroot(place))) == ["/opt/libb.so"]
