import pytest

from kubenclave.errors import UsageError
from kubenclave.image.reference import parse_reference


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("hello", "docker.io/library/hello:latest"),
        ("hello:1.0", "docker.io/library/hello:1.0"),
        ("me/hello:1", "docker.io/me/hello:1"),
        ("docker.io/hello", "docker.io/library/hello:latest"),
        ("localhost/hello", "localhost/hello:latest"),
        ("registry.example:5000/team/hello-enclave:v1_2", "registry.example:5000/team/hello-enclave:v1_2"),
        ("[::1]:5000/hello", "[::1]:5000/hello:latest"),
    ],
)
def test_a_name_is_read_as_container_runtimes_read_it(text, full):
    assert str(parse_reference(text)) == full


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello",
        "hello:",
        "a//b",
        "-hello",
        "hello:-x",
        "he llo",
        "hello\n",
        "../hello",
        "hello:" + "x" * 129,
        "a" * 256,
        "x/" * 400 + "y",
    ],
)
def test_what_no_runtime_takes_is_refused(text):
    with pytest.raises(UsageError):
        parse_reference(text)


def test_a_digest_cannot_be_chosen():
    with pytest.raises(UsageError, match="by digest"):
        parse_reference("hello@sha256:" + "0" * 64)
