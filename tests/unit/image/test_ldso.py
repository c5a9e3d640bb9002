import struct

import pytest

from kubenclave.errors import Refused
from kubenclave.image.ldso import MAX_CONF_BYTES, cache_file, configured_directories
from kubenclave.image.sysroot import Sysroot


def test_included_files_are_read_in_order_where_they_are_named(root):
    system = Sysroot(
        root(
            {
                "/etc/ld.so.conf": b"/first\ninclude ld.so.conf.d/*.conf # all\n/last\n",
                "/etc/ld.so.conf.d/b.conf": b"/b\n",
                "/etc/ld.so.conf.d/a.conf": b"# a comment\n/a=libc6\n\n",
                "/etc/ld.so.conf.d/.hidden.conf": b"/hidden\n",
                "/etc/ld.so.conf.d/no.txt": b"/no\n",
            }
        )
    )

    assert configured_directories(system) == ("/first", "/a", "/b", "/last")


def test_files_that_include_each_other_are_read_once(root):
    system = Sysroot(root({"/etc/ld.so.conf": b"/a\ninclude other\n", "/etc/other": b"include ld.so.conf\n/b\n"}))

    assert configured_directories(system) == ("/a", "/b")


def test_a_system_without_configuration_has_no_directories(root):
    assert configured_directories(Sysroot(root({}))) == ()


def test_an_endless_configuration_is_refused(root):
    with pytest.raises(Refused, match="longer than"):
        configured_directories(Sysroot(root({"/etc/ld.so.conf": b"x" * (MAX_CONF_BYTES + 1)})))


def test_more_directories_than_any_system_has_are_refused(root):
    lines = "".join(f"/{n}\n" for n in range(2000)).encode()

    with pytest.raises(Refused, match="than any distribution has"):
        configured_directories(Sysroot(root({"/etc/ld.so.conf": lines})))


def test_files_that_include_ever_further_files_are_refused(root):
    tree = {f"/etc/{n}": f"include {n + 1}\n".encode() for n in range(20)}

    with pytest.raises(Refused, match="than any distribution has"):
        configured_directories(Sysroot(root({"/etc/ld.so.conf": b"include 0\n", **tree})))


def test_the_cache_names_each_library_in_the_order_of_the_loaders_search():
    data = cache_file({"liba.so.9": "/x/liba.so.9", "liba.so.10": "/y/liba.so.10", "libz.so": "/z/libz.so"})

    magic, count, strings_bytes = struct.unpack_from("<20sII", data)
    entries = [struct.unpack_from("<iIIIQ", data, 48 + 24 * n) for n in range(count)]

    def text(place):
        return data[place : data.index(b"\0", place)].decode()

    assert magic == b"glibc-ld.so.cache1.1"
    assert len(data) == 48 + 24 * count + strings_bytes
    # Descending, digits by value: 10 is above 9.
    assert [(text(key), text(value)) for _, key, value, _, _ in entries] == [
        ("libz.so", "/z/libz.so"),
        ("liba.so.10", "/y/liba.so.10"),
        ("liba.so.9", "/x/liba.so.9"),
    ]
