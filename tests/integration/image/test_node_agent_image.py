"""The node agent's image in an empty root file system."""

import pytest

from kubenclave.image import build_node_agent_image, parse_reference

pytestmark = pytest.mark.integration


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
