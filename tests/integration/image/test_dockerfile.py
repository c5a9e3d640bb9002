"""The Dockerfile that is written, carried out by buildah with stand-ins for what needs a network, and its packing command run for real."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kubenclave.image import AddedFile, ImageSpec, build_image, dockerfile, parse_reference

pytestmark = pytest.mark.integration

MAIN = "import sys; from kubenclave.cli import main; sys.exit(main())"
HOST = "#include <stdio.h>\nint main(int count, char **words) { puts(words[1]); return 0; }"


TEXT = dockerfile(host="host/app", enclave="enclave/app.sgxs", tag="team/app:1")


STAND_INS = {
    "apt-get": "exit 0",
    "cmake": 'test "$1" = -S && mkdir -p build/host && echo built > build/host/app; exit 0',
    "pip": 'test -f "${3%\\[cli\\]}"',
    "kubenclave": 'test -f /target/src/build/host/app && echo "$*" > /out/image.tar',
}


@pytest.fixture
def base(tmp_path):
    """Make an image of busybox, and of stand-ins for the programs of others that the Dockerfile runs."""
    busybox = Path("/bin/busybox")
    if shutil.which("buildah") is None or os.geteuid() != 0 or not busybox.exists():
        pytest.skip("needs buildah, busybox-static and root")
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy(busybox, folder / "busybox")
    for name in ("sh", "mkdir", "rm", "echo", "test", "true"):
        (folder / name).symlink_to("busybox")
    for name, text in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    (tmp_path / "openenclaverc").write_text("true\n")
    added = (
        AddedFile(source=folder, path="/bin"),
        AddedFile(source=tmp_path / "openenclaverc", path="/opt/openenclave/share/openenclave/openenclaverc"),
    )
    spec = ImageSpec(reference=parse_reference("base:1"), host=busybox, files=added, user="0:0", environment={"PATH": "/bin"})
    return build_image(spec, tmp_path / "base.tar", lambda _: None).archive


def run_buildah(text, folder, base):
    buildah = ["buildah", "--root", folder / "root", "--runroot", folder / "run", "--storage-driver", "vfs"]
    pulled = subprocess.run([*buildah, "pull", f"oci-archive:{base}"], capture_output=True, text=True, check=True).stdout.strip()
    context = folder / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(text)
    (context / "packages.sh").write_text("true\n")
    (context / "kubenclave-1-py3-none-any.whl").write_text("a wheel")
    more = [word for name in ("BUILD_BASE", "PACK_BASE") for word in ("--build-arg", f"{name}={pulled}")]
    words = [*buildah, "bud", "--isolation", "chroot", "--pull-never", *more, "-t", f"oci-archive:{folder}/result.tar", context]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)


def test_buildah_carries_out_every_step_with_stand_ins_for_the_programs_of_others(base, tmp_path, unpack):
    done = run_buildah(TEXT, tmp_path, base)

    assert done.returncode == 0, done.stdout + done.stderr
    written = (unpack(tmp_path / "result.tar") / "image.tar").read_text()
    assert written.startswith("image build --sysroot /target --host /target/src/build/host/app --enclave")


def test_buildah_would_have_told_a_mistake(base, tmp_path):
    done = run_buildah(TEXT.replace("WORKDIR /src", "WORKDIRECTORY /src"), tmp_path, base)

    assert done.returncode != 0
    assert "WORKDIRECTORY" in done.stdout + done.stderr


def test_its_packing_command_packs(compile_c, unpack, inside, tmp_path, enclave_files):
    target, out = tmp_path / "target", tmp_path / "out"
    out.mkdir()
    for path in ("/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6", "/etc/ssl/certs/ca-certificates.crt"):
        if not Path(path).exists():
            pytest.skip(f"needs {path}")
        (target / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path[1:])
    compile_c(HOST, "target/src/build/host/app")
    enclave_files(target / "src/build/enclave", "app")
    command = re.search(r"&& (kubenclave image build.*)$", TEXT.replace("\\\n", " "), re.MULTILINE)[1]
    words = [word.replace("/target", str(target)).replace("/out/", f"{out}/") for word in shlex.split(command)]

    done = subprocess.run([sys.executable, "-c", MAIN, *words[1:]], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert inside(unpack(out / "image.tar"), "/app/app", "/app/app.sgxs") == "/app/app.sgxs\n"


def test_the_command_line_writes_it():
    words = ["image", "dockerfile", "--host", "host/app", "--enclave", "enclave/app.sgxs", "--tag", "team/app:1"]

    assert subprocess.run([sys.executable, "-c", MAIN, *words], capture_output=True, text=True, check=True).stdout == TEXT


def test_the_node_agents_image_is_a_command(tmp_path):
    words = ["image", "node-agent", "-o", str(tmp_path / "agent.tar"), "--tag", "agent:1"]

    done = subprocess.run([sys.executable, "-c", MAIN, *words], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "docker.io/library/agent:1" in done.stdout
    assert (tmp_path / "agent.tar").stat().st_size > 10_000_000
