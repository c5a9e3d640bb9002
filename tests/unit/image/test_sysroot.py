import os

import pytest

from kubenclave.errors import NotFound, Refused, UsageError
from kubenclave.image.sysroot import Sysroot, open_regular


def test_an_absolute_link_starts_again_at_the_root_of_the_system(root):
    system = Sysroot(root({"/usr/lib/libx.so.1.2": b"x", "/usr/lib/libx.so.1": "libx.so.1.2", "/lib": "/usr/lib"}))

    assert system.canonical("/lib/libx.so.1") == "/usr/lib/libx.so.1.2"


def test_no_link_leads_out_of_the_system(root, tmp_path):
    (tmp_path / "outside").write_bytes(b"secret")
    system = Sysroot(root({"/lib/up.so": "../../../../../outside", "/lib/abs.so": str(tmp_path / "outside"), "/lib/dir": "/../.."}))

    assert system.canonical("/lib/up.so") is None
    assert system.canonical("/lib/abs.so") is None
    assert system.canonical("/lib/dir") == "/"
    assert system.canonical("/../../outside") is None


def test_links_that_go_round_are_not_there(root):
    system = Sysroot(root({"/a": "b", "/b": "a", "/self": "self/self"}))

    assert system.canonical("/a") is None
    assert system.canonical("/self") is None


def test_a_file_in_the_middle_of_a_path_is_not_a_directory(root):
    assert Sysroot(root({"/a": b""})).canonical("/a/b") is None


def test_a_name_with_a_null_byte_is_not_there(root):
    assert Sysroot(root({})).canonical("/a\0b") is None


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(Refused, match="not a regular file"):
        open_regular(tmp_path / "pipe")


def test_a_link_put_in_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("/etc/hostname")

    with pytest.raises(Refused, match="became a symbolic link"):
        open_regular(tmp_path / "link")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NotFound, match=r"gone cannot be read: No such file"):
        open_regular(tmp_path / "gone")


def test_a_relative_root_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError):
        Sysroot(tmp_path.relative_to("/"))
