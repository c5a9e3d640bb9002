import io
import os
import tarfile

import pytest

from kubenclave.errors import Refused
from kubenclave.image.layer import Directory, File, Link, Role, arrange, write_layer


def file(path, source=b"x", **more):
    return File(path=path, source=source, role=Role.FILE, **more)


def write(entries, report=lambda _: None):
    stream = io.BytesIO()
    sizes = write_layer(arrange(entries), stream.write, epoch_seconds=5, report=report)
    return sizes, stream.getvalue()


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getmembers()


def test_files_come_sorted_with_their_directories_before_them():
    names = [entry.path for entry in arrange([file("/b/x"), file("/a"), Link(path="/b/c/l", target="/a"), Directory(path="/z")])]

    assert names == ["/a", "/b", "/b/c", "/b/c/l", "/b/x", "/z"]


def test_nothing_of_this_machine_or_its_user_is_in_a_layer(tmp_path):
    source = tmp_path / "program"
    source.write_bytes(b"content")
    source.chmod(0o4711)
    os.utime(source, (1, 1))

    _, data = write([file("/app/program", source, executable=True), file("/app/data", source), Link(path="/l", target="app")])

    found = {member.name: member for member in members(data)}
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime, tuple(m.pax_headers)) for m in found.values()} == {(0, 0, "", "", 5, ())}
    assert {name: member.mode for name, member in found.items()} == {"app": 0o755, "app/program": 0o755, "app/data": 0o644, "l": 0o777}


def test_the_sizes_of_files_are_told(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")

    sizes, _ = write([file("/b", tmp_path / "f"), file("/a", b"12")])

    assert [(size.path, size.size_bytes) for size in sizes] == [("/a", 2), ("/b", 5)]


def test_the_same_file_twice_is_one_and_another_in_its_place_is_refused():
    assert len(arrange([file("/a"), file("/a")])) == 1
    with pytest.raises(Refused, match="Two different files would be /a"):
        arrange([file("/a"), file("/a", b"y")])


def test_a_file_cannot_be_a_directory_too():
    with pytest.raises(Refused, match="/a would be both a file and the directory of /a/b"):
        arrange([file("/a/b"), file("/a")])


@pytest.mark.parametrize(
    "path", ["/a\nb", "/a\x1b[31m", "/a\x00", "/a\udcff", "/a\u202eb", "a", "/", "//", "//a", "/a/../b", "/a/", "/./a", ""]
)
def test_a_hostile_path_is_refused(path):
    with pytest.raises(Refused):
        arrange([file(path)])


def test_a_path_that_the_format_cannot_hold_is_refused():
    with pytest.raises(Refused, match="too long"):
        write([file("/" + "x" * 300)])


def test_a_path_in_any_script_is_kept():
    _, data = write([file("/данные/hello world")])

    assert [member.name for member in members(data)] == ["данные", "данные/hello world"]


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path):
    source = tmp_path / "large"
    with source.open("wb") as out:
        out.truncate(40 * 1024 * 1024)

    def shrink(_):
        os.truncate(source, 10)

    with pytest.raises(Refused, match="/large changed while it was read"):
        write([file("/large", source)], report=shrink)


def test_a_file_that_is_written_to_while_it_is_read_is_refused(tmp_path):
    source = tmp_path / "large"
    with source.open("wb") as out:
        out.truncate(40 * 1024 * 1024)

    with pytest.raises(Refused, match="/large changed while it was read"):
        write([file("/large", source)], report=lambda _: os.utime(source, (1, 1)))
