"""Links of a hostile system root: the kernel itself watches that nothing outside is opened while an image is built."""

import ctypes
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from kubenclave.errors import KubenclaveError
from kubenclave.image import ImageSpec, Surrounding, build_image, parse_reference

pytestmark = pytest.mark.integration

IN_ACCESS, IN_OPEN = 0x1, 0x20
EVENT = struct.Struct("iIII")
LIBRARIES = Path("/lib/x86_64-linux-gnu")


class Watch:
    """Names the files of a folder that anybody opened or read since the last look (inotify(7))."""

    def __init__(self, folder):
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0 or libc.inotify_add_watch(self._descriptor, os.fsencode(folder), IN_OPEN | IN_ACCESS) < 0:
            pytest.skip(f"needs inotify: {os.strerror(ctypes.get_errno())}")

    def seen(self):
        names, data = set(), b""
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return names
        at = 0
        while at < len(data):
            *_, size = EVENT.unpack_from(data, at)
            names.add(data[at + EVENT.size : at + EVENT.size + size].rstrip(b"\0").decode())
            at += EVENT.size + size
        return names - {""}

    def close(self):
        os.close(self._descriptor)


@pytest.fixture
def outside(tmp_path):
    """A folder beside the system root, with what would be taken if a link led there."""
    place = tmp_path / "outside"
    place.mkdir()
    shutil.copy(LIBRARIES / "libm.so.6", place)
    for name in ("ld.so.conf", "ca-certificates.crt", "hosts", "status", "x.list", "Zone", "secret"):
        (place / name).write_text("secret of the machine\n")
    watch = Watch(place)
    yield place, watch
    watch.close()


@pytest.fixture
def system(tmp_path, outside):
    """A system root in which everything that a build looks at is a link out of it, by an absolute path or by many steps up."""
    secret, _ = outside
    place = tmp_path / "system"
    links = {
        "etc/ld.so.conf": secret / "ld.so.conf",
        "etc/ssl/certs/ca-certificates.crt": secret / "ca-certificates.crt",
        "etc/hosts": secret / "hosts",
        "var/lib/dpkg/status": secret / "status",
        "var/lib/dpkg/info/x.list": secret / "x.list",
        "usr/share/zoneinfo": secret,
        "usr/lib/locale": secret,
        "lib/x86_64-linux-gnu/libm.so.6": secret / "libm.so.6",
    }
    for number, (path, target) in enumerate(links.items()):
        file = place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(target if number % 2 else Path("../" * 30) / target.relative_to("/"))
    (place / "lib64").mkdir()
    shutil.copy("/lib64/ld-linux-x86-64.so.2", place / "lib64")
    shutil.copy(LIBRARIES / "libc.so.6", place / "lib/x86_64-linux-gnu")
    return place


def test_the_watch_sees_what_is_opened(outside):
    place, watch = outside

    (place / "secret").read_bytes()

    assert watch.seen() == {"secret"}
    assert watch.seen() == set()


def test_nothing_outside_the_system_root_is_opened_when_it_is_wanted_by_the_loader(compile_c, system, outside, tmp_path):
    _, watch = outside
    program = compile_c("#include <math.h>\nint main(int n, char **w) { return (int)pow(n, n); }", "host", "-lm", "-fno-builtin")
    spec = ImageSpec(reference=parse_reference("x:1"), host=program, sysroot=system, attest=True)

    with pytest.raises(KubenclaveError, match=r"needs libm\.so\.6"):
        build_image(spec, tmp_path / "x.tar", lambda _: None)

    assert watch.seen() == set()
    assert not (tmp_path / "x.tar").exists()


@pytest.mark.parametrize("surroundings", [(), *((one,) for one in Surrounding)], ids=lambda given: "".join(given) or "nothing")
def test_nothing_outside_the_system_root_is_opened_for_its_surroundings(compile_c, system, outside, tmp_path, surroundings):
    _, watch = outside
    program = compile_c("int main(void) { return 0; }", "host")
    words = ["--host", program, "--tag", "x:1", "--sysroot", system, "--attest", "-o", tmp_path / "x.tar"]
    for one in surroundings:
        words += ["--with", one.value]
    main = "import sys; from kubenclave.cli import main; sys.exit(main())"

    done = subprocess.run([sys.executable, "-c", main, "image", "build", *words], capture_output=True, text=True, check=False)

    assert watch.seen() == set()
    assert done.returncode in {0, 3, 5}, done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode == 0) == (tmp_path / "x.tar").exists()
