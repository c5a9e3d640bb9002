"""Turn the plain YAML in ``deploy/`` into the objects to apply. Pure.

The YAML is the one source: it can be applied as it is. What differs from case to case is a few words of it, which are exchanged here and,
by the same words, in the Helm chart's template.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError
from kubenclave.kube import documents_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenclave.kube import Document

DEFAULT_IMAGE = "kubenclave/node:local"

_IMAGE = f"image: {DEFAULT_IMAGE}\n"
_DIALECT = "--dialect=openenclave\n"
# The last argument in every agent's YAML; further ones follow it.
_LAST_ARGUMENT = "            - --host-root=/host\n"


def render(text: str, source: str, *, image: str, dialect: str, arguments: Sequence[str] = ()) -> tuple[Document, ...]:
    """Return the objects in a file of ``deploy/`` with the image, the dialect and further arguments of the agent.

    Args:
        text: The file.
        source: Its name, for messages.
        image: The agent's image.
        dialect: Stands in for ``openenclave``; nothing happens where the file names no dialect.
        arguments: Further arguments of the agent.

    Raises:
        KubenclaveError: The file holds an agent, but not the words that are to be exchanged.
        Refused: It is not YAML.
    """
    if "kind: DaemonSet\n" in text:
        for word in (_IMAGE, _LAST_ARGUMENT):
            if text.count(word) != 1:
                raise KubenclaveError(f"{source} does not hold {word.strip()!r} once", "restore the file from the repository")
        # A JSON string is a YAML string, whatever is in it.
        more = "".join(f"            - {json.dumps(argument)}\n" for argument in arguments)
        text = text.replace(_IMAGE, f"image: {json.dumps(image)}\n").replace(_LAST_ARGUMENT, _LAST_ARGUMENT + more)
        text = text.replace(_DIALECT, f"--dialect={dialect}\n")
    return documents_of(text, source)
