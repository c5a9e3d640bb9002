"""Write a Dockerfile for an Open Enclave application, for those whose builds are Dockerfiles.

Pure. The last stage runs this builder on what the first has built, with the first stage's root as system root; no library is named.
"""

from __future__ import annotations

import re
import shlex
from importlib import resources

from kubenclave.errors import UsageError

_WORD = re.compile(r"[A-Za-z0-9._/@:+-]+")


def dockerfile(*, host: str, enclave: str, tag: str) -> str:
    """Return the Dockerfile.

    Args:
        host: The host program, below the folder in which the application is built.
        enclave: The signed enclave, below the same folder.
        tag: The image's name.

    Raises:
        UsageError: A name holds what a Dockerfile or a shell would read as something else.
    """
    for text in (host, enclave, tag):
        if not _WORD.fullmatch(text) or text.startswith(("/", "-")) or ".." in text.split("/"):
            raise UsageError(f"{text[:80]!r} does not fit into a Dockerfile.", "Use a relative path of letters, digits and . _ / -")
    text = resources.files(__package__).joinpath("dockerfile.txt").read_text("utf-8")
    for name, value in (("HOST", host), ("ENCLAVE", enclave), ("TAG", tag)):
        text = text.replace(f"@{name}@", shlex.quote(value))
    return text
