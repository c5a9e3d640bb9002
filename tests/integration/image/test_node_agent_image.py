"""The node agent's image in an empty root file system."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kubenclave.image import build_node_agent_image, parse_reference

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).parents[3]
MAIN = "import sys, kubenclave; print(kubenclave.__file__); from kubenclave.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return build_node_agent_image(parse_reference("kubenclave-node:test"), tmp_path_factory.mktemp("node") / "node.tar", lambda _: None)


def test_the_interpreter_starts_with_nothing_but_the_image(image, unpack, inside):
    place = unpack(image.archive)

    modules = "ssl, grpclib.server, grpclib.health.service, structlog, google.protobuf.message"
    told = inside(place, "/app/bin/python3", "-I", "-c", f"import sys, {modules}; print(sys.prefix, sys.flags.isolated)")

    assert told == "/app 1\n"
    # Protobuf's own C library is there, not its slow fallback.
    implementation = "from google.protobuf.internal import api_implementation as a; print(a.Type())"
    assert inside(place, "/app/bin/python3", "-I", "-c", implementation) == "upb\n"


def test_every_distribution_that_the_lock_names_can_be_imported(image, unpack, inside):
    tops = {file.path.partition("/site-packages/")[2].partition("/")[0].removesuffix(".py") for file in image.files}
    packages = sorted(name for name in tops if name.isidentifier() and not name.startswith("_"))

    assert {"grpclib", "structlog", "google"} <= set(packages)
    inside(unpack(image.archive), "/app/bin/python3", "-I", "-c", f"import prometheus_client.exposition, {', '.join(packages)}")


def test_the_agent_starts_and_explains_itself(image, unpack, inside):
    assert "usage: " in inside(unpack(image.archive), "/app/bin/python3", "-I", "-m", "kubenclave.node", "--help")


def test_modules_are_loaded_from_their_compiled_form_without_a_look_at_the_source(image, unpack, inside):
    place = unpack(image.archive)
    command = ["/app/bin/python3", "-I", "-c", "import asyncio.base_events as a, grpclib.server as s; print(a.__cached__, s.__cached__)"]
    paths = inside(place, *command).split()
    for path in paths:
        cached = place / path[1:]
        cached.parent.parent.joinpath(cached.name.partition(".")[0] + ".py").write_text("this is no Python")

    assert inside(place, *command).split() == paths


def test_nothing_of_the_command_line_is_in_the_agents_image(image):
    paths = [file.path for file in image.files]

    assert not [
        path for path in paths if any(name in path for name in ("cyclopts", "/rich/", "elftools", "cryptography", "kubenclave/image"))
    ]
    assert [path for path in paths if path.endswith("kubenclave/node/__main__.py")]


def test_it_is_at_most_20_mb_and_the_same_bytes_twice(image, tmp_path):
    again = build_node_agent_image(parse_reference("kubenclave-node:test"), tmp_path / "again.tar", lambda _: None)

    assert image.compressed_bytes <= 20_000_000
    assert again.archive.read_bytes() == image.archive.read_bytes()


def test_a_package_installed_from_its_wheel_builds_the_same_image_as_the_checkout(image, tmp_path):
    """Every file of the recipe, its lock among them, is in the wheel: the checkout is not looked at."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, PROJECT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel], check=True)
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": str(tmp_path / "site")}
    words = ["image", "node-agent", "--tag", "kubenclave-node:test", "-o", tmp_path / "node.tar", "--output", "json"]

    done = subprocess.run([sys.executable, "-c", MAIN, *words], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    assert done.returncode == 0, done.stderr
    place, _, report = done.stdout.partition("\n")
    assert Path(place).is_relative_to(tmp_path / "site")
    assert json.loads(report)["digest"] == image.digest
