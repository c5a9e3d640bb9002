from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubenclave.errors import HostUnfit
from kubenclave.local import programs, toolchain
from kubenclave.local.checkout import project_file
from kubenclave.local.places import places


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26, 8)),
        ("go version go1.27 linux/amd64", (1, 27, 0)),
        ("go version go1.27rc1 linux/amd64", (1, 27, 0)),
        ("gccgo (Debian) 12.2.0", None),
        ("", None),
    ],
)
def test_a_go_version_is_read_from_what_go_prints(text, expected):
    assert toolchain.version_of(text) == expected


def test_the_needed_version_is_the_modules_own():
    assert toolchain.needed_version(project_file("local/go.mod").read_text()) >= (1, 26, 0)


def test_an_old_go_is_not_used_and_said_so(tmp_path, monkeypatch):
    go = tmp_path / "bin/go"
    go.parent.mkdir()
    go.write_text("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    go.chmod(0o755)
    installed = tmp_path / "cache/go" / ".".join(map(str, toolchain.needed_version(project_file("local/go.mod").read_text()))) / "go/bin/go"
    installed.parent.mkdir(parents=True)
    installed.write_text("#!/bin/sh\necho go version go1.99.0 linux/amd64\n")
    installed.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}:/usr/bin:/bin")
    said: list[str] = []

    assert toolchain.find_go(tmp_path / "cache", said.append) == installed
    assert any("1.19.8" in line for line in said)


def test_a_full_disk_is_named_before_anything_is_built(tmp_path, monkeypatch):
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr(programs, "_NEEDED_DISK_BYTES", usage.f_bavail * usage.f_frsize * 2)
    with pytest.raises(HostUnfit) as caught:
        programs.build(tmp_path, lambda _text: None)
    assert "disk" in caught.value.what
    assert not programs.is_built(tmp_path)


def test_a_build_that_fails_leaves_nothing_that_could_be_taken_for_built(tmp_path, monkeypatch):
    go = tmp_path / "go"
    go.write_text(
        '#!/bin/sh\n[ "$1" = version ] && echo go version go1.99.0 linux/amd64 && exit\n'
        '[ "$1" = list ] && exit\necho no space left on device >&2\nexit 1\n'
    )

    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    with pytest.raises(HostUnfit) as caught:
        programs.build(tmp_path / "cache", lambda _text: None)

    assert "disk is full" in caught.value.what
    assert not programs.is_built(tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache/k8s").iterdir()] == [".lock"]


def test_the_key_changes_with_the_pinned_modules(monkeypatch, tmp_path):
    before = programs.key()
    copy = tmp_path / "local"
    for name in ("go.mod", "go.sum", "main.go", "shim/main.go", "pause/main.go"):
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(project_file(f"local/{name}").read_bytes())
    (copy / "go.sum").write_text("changed\n")
    monkeypatch.setattr(programs, "project_file", lambda name: tmp_path / name)
    assert programs.key() != before


def test_no_toolchain_is_fetched_behind_the_users_back():
    assert programs._environment()["GOTOOLCHAIN"] == "local"


def test_paths_follow_the_xdg_specification():
    found = places({"HOME": "/home/u", "XDG_CACHE_HOME": "/big/cache", "XDG_STATE_HOME": "relative/is/ignored"})
    assert found.cache == Path("/big/cache/kubenclave")
    assert found.state == Path("/home/u/.local/state/kubenclave")


def test_an_interrupted_build_leaves_nothing_that_could_be_taken_for_built(tmp_path, monkeypatch):
    go = tmp_path / "go"
    go.write_text(
        '#!/bin/sh\n[ "$1" = version ] && echo go version go1.99.0 linux/amd64 && exit\n'
        '[ "$1" = list ] && printf "%020d\\n" $(seq 20) && exit\nseq 20 >&2\n'
    )
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def interrupted(news: str) -> None:
        if news.startswith("compiled"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        programs.build(tmp_path / "cache", interrupted)

    assert not programs.is_built(tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache/k8s").iterdir()] == [".lock"]
