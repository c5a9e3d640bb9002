"""Programs made with the C compiler, and images unpacked and entered."""

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile

import pytest


@pytest.fixture
def compile_c(tmp_path):
    """Compile C text to a file, its directory made on the way."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")

    def run(text, path, *options):
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        source = target.with_name(f"{target.name}.c")
        source.write_text(text)
        subprocess.run(["gcc", "-o", target, source, *options], check=True, cwd=tmp_path)
        return target

    return run


@pytest.fixture
def unpack(tmp_path):
    """Unpack an archive's layers into an empty directory, as a runtime would."""

    def run(archive):
        place = tmp_path / f"{archive.stem}.rootfs"
        place.mkdir()
        with tarfile.open(archive) as outer:

            def blob(digest):
                return outer.extractfile(f"blobs/{digest.replace(':', '/')}").read()

            index = json.load(outer.extractfile("index.json"))
            manifest = json.loads(blob(index["manifests"][0]["digest"]))
            for layer in manifest["layers"]:
                with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob(layer["digest"])))) as inner:
                    inner.extractall(place)  # noqa: S202 - an archive of our own making
        return place

    return run


@pytest.fixture
def inside():
    """Run a command with an unpacked image as its whole world, as another user than root, without a variable.

    ``proc`` mounts /proc there, which every container has and the loader needs for $ORIGIN; the mount ends with the command.
    """
    if os.geteuid() != 0:
        pytest.skip("entering an image needs root")

    def run(place, *command, proc=False):
        words = ["chroot", "--userspec=65532:65532", place, *command]
        if proc:
            (place / "proc").mkdir(exist_ok=True)
            words = ["unshare", "--mount", "sh", "-c", 'mount --bind /proc "$0/proc" && exec "$@"', place, *words]
        done = subprocess.run(words, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
