"""The archive against the programs that read it, and against a machine that gets in its way."""

import json
import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

MAIN = "import sys; from kubenclave.cli import main; sys.exit(main())"
HELLO = '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }'


def command(*words, prelude="", **more):
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", **more.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-c", prelude + MAIN, "image", "build", *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        **more,
    )


def test_two_builds_under_different_circumstances_are_the_same_bytes(compile_c, tmp_path):
    program = compile_c(HELLO, "one/hello")
    (tmp_path / "two").mkdir()
    other = tmp_path / "two" / "hello"
    other.write_bytes(program.read_bytes())
    other.chmod(0o700)
    os.utime(other, (1, 1))

    first = command("--host", program, "--tag", "hello", "-o", "a.tar", cwd=tmp_path / "one", umask=0o022)
    second = command(
        *("--host", "hello", "--tag", "hello", "-o", "b.tar"),
        cwd=tmp_path / "two",
        umask=0o077,
        env={"LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "USER": "somebody"},
    )

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert (tmp_path / "one" / "a.tar").read_bytes() == (tmp_path / "two" / "b.tar").read_bytes()


def test_skopeo_reads_the_archive_and_copies_it_whole(compile_c, tmp_path):
    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo")
    program = compile_c(HELLO, "hello")
    report = json.loads(command("--host", program, "--tag", "team/hello:1.0", "-o", "hello.tar", "--output", "json", cwd=tmp_path).stdout)

    def skopeo(*words):
        return subprocess.run(["skopeo", *words], check=True, capture_output=True, text=True, cwd=tmp_path).stdout

    seen = json.loads(skopeo("inspect", "oci-archive:hello.tar:1.0"))
    config = json.loads(skopeo("inspect", "--config", "oci-archive:hello.tar"))
    # A copy reads every blob and checks its digest.
    skopeo("copy", "--insecure-policy", "oci-archive:hello.tar", "dir:copy")
    assert seen["Digest"] == report["image"]["digest"]
    assert config["config"]["User"] == "65532:65532"
    assert config["rootfs"]["diff_ids"] == [layer["diff_id"] for layer in report["image"]["layers"]]


def test_a_full_disk_is_an_error_in_words_and_leaves_nothing(compile_c, tmp_path):
    program = compile_c(HELLO, "hello")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
    (tmp_path / "out").mkdir()

    done = command("--host", program, "--tag", "hello", "-o", "out/hello.tar", cwd=tmp_path, prelude=limit)

    assert done.returncode == 6
    assert "error: There is no room for out/hello.tar" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_the_report_names_files_sizes_and_the_guides_figures(compile_c, tmp_path):
    program = compile_c(HELLO, "hello", "-static")

    done = command("--host", program, "--tag", "hello", "-o", "hello.tar", "--", "--name", "x", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert f"({program.stat().st_size} bytes)" in done.stdout
    assert "16.6 MB multi-stage, 1.43 GB single-stage (the guide's, 2020" in done.stdout
    assert "building docker.io/library/hello:latest" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["--host", "gone", "--tag", "x", "-o", "x.tar"], 5, "gone does not exist"),
        (["--host", "/bin/ls", "--tag", "X", "-o", "x.tar"], 2, "'X' is no image name"),
        (["--host", "/bin/ls", "--tag", "x", "-o", "no/x.tar"], 5, "The directory no does not exist"),
        (["--host", "/bin/ls", "--tag", "x", "-o", "x.tar", "--add", "a"], 2, "--add 'a' is not SOURCE:PLACE"),
        (["--host", "/bin/ls", "--tag", "x", "-o", "x.tar", "--enclave", "/bin/ls"], 3, "so it is no enclave of a known SDK"),
        (["--host", "/bin/ls", "--tag", "x", "-o", "x.tar", "--sysroot", "/var/empty-of-libraries"], 5, "which was not found"),
    ],
)
def test_each_mistake_has_its_sentence_and_its_exit_code(tmp_path, words, code, error):
    done = command(*words, cwd=tmp_path)

    assert (done.returncode, done.stderr.count("error: ")) == (code, 1)
    assert error in done.stderr
    assert "hint: " in done.stderr
    assert list(tmp_path.iterdir()) == []
