"""Podman loads what is built, in both compressions, and runs it: a second runtime beside containerd. Without network."""

import os
import shutil
import subprocess
import tempfile

import pytest

from kubenclave.image import AddedFile, Compression, ImageSpec, build_image, parse_reference

pytestmark = pytest.mark.integration

# Not every machine may raise its limits to Podman's own.
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
PROGRAM = """
#include <stdio.h>
int main(void) {
  char text[64] = "";
  FILE *file = fopen("/app/data", "r");
  if (file == NULL || fgets(text, sizeof text, file) == NULL) return 1;
  puts(text);
  return 0;
}
"""


@pytest.fixture
def podman(tmp_path):
    """Podman with a storage of its own."""
    if shutil.which("podman") is None or shutil.which("runc") is None or os.geteuid() != 0:
        pytest.skip("needs podman, runc and root")
    # Podman takes no path of more than 50 characters here.
    with tempfile.TemporaryDirectory(prefix="podman-", dir="/tmp") as short:
        place = ["--root", tmp_path / "storage", "--runroot", short, "--tmpdir", short, "--storage-driver", "vfs"]
        words = ["podman", *place, "--cgroup-manager", "cgroupfs", "--runtime", "runc"]

        def run(*more):
            done = subprocess.run([*words, *more], capture_output=True, text=True, check=False, timeout=120)
            assert done.returncode == 0, done.stderr
            return done.stdout

        yield run
        run("rmi", "--all", "--force")


@pytest.mark.parametrize("layout", [False, True], ids=["archive", "layout"])
@pytest.mark.parametrize("compression", list(Compression))
def test_podman_runs_what_it_read(podman, compile_c, tmp_path, compression, layout):
    (tmp_path / "data").write_text("read by the program")
    spec = ImageSpec(
        reference=parse_reference("team/hello:1"),
        host=compile_c(PROGRAM, "hello"),
        files=(AddedFile(source=tmp_path / "data", path="/app/data"),),
        compression=compression,
    )
    image = build_image(spec, tmp_path / "image", lambda _: None, layout=layout)

    podman("pull", "--quiet", f"{'oci' if layout else 'oci-archive'}:{image.archive}:1")

    (number,) = podman("images", "--quiet").split()
    assert podman("inspect", "--format", "{{.Config.User}} {{len .RootFS.Layers}}", number).split() == ["65532:65532", "2"]

    said = podman("run", "--rm", "--network", "none", *LIMITS, "--pull", "never", number)
    assert said == "read by the program\n"
