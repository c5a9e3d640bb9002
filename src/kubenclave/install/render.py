"""Turn the plain YAML in ``deploy/`` into the objects to apply. Pure.

The YAML is the one source: it can be applied as it is. What differs from case to case is a few words of it, which are exchanged here and,
by the same words, in the Helm chart's template.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError
from kubenclave.kube import documents_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubenclave.install.tolerations import Toleration
    from kubenclave.kube import Document

DEFAULT_IMAGE = "kubenclave/node:local"

_IMAGE = f"image: {DEFAULT_IMAGE}\n"
_DIALECT = "--dialect=openenclave\n"
# Nothing else in the rules is an empty map.
_LARGEST = "expression: '{}'\n"
# Nor an empty list.
_FURTHER = "expression: '[]'\n"
# Before the tolerations that every agent has.
_TOLERATIONS = "      tolerations:\n"
# The last argument in every agent's YAML; further ones follow it.
_LAST_ARGUMENT = "            - --host-root=/host\n"
# What the agent needs to see what the processes of containers map: the capability, and the host's processes and log names, read-only.
_MAPPED = (
    ("              drop: [ALL]\n", "              add: [SYS_PTRACE]\n"),
    (
        "          volumeMounts:\n",
        (
            "            - name: proc\n              mountPath: /host/proc\n              readOnly: true\n"
            "            - name: container-logs\n              mountPath: /host/var/log/containers\n              readOnly: true\n"
        ),
    ),
    (
        "      volumes:\n",
        (
            "        - name: proc\n          hostPath:\n            path: /proc\n            type: Directory\n"
            "        - name: container-logs\n          hostPath:\n            path: /var/log/containers\n            type: Directory\n"
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What differs from one installation to another.

    Args:
        image: The agent's image.
        dialect: The names by which EPC is offered; empty for resource claims.
        arguments: Further arguments of the agent.
        mapped: Whether the agent looks at what containers map of the device, which takes a capability and the host's processes.
        largest: For the admission rules: by dialect, the most units that one node has.
        tolerations: What agent and EPC pods tolerate besides the dialects' taints.
    """

    image: str
    dialect: str
    arguments: tuple[str, ...] = ()
    mapped: bool = False
    largest: Mapping[str, int] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()


def render(text: str, source: str, words: Words) -> tuple[Document, ...]:
    """Return the objects in a file of ``deploy/`` with the words of an installation.

    Args:
        text: The file.
        source: Its name, for messages.
        words: What stands in for what the file has.

    Raises:
        KubenclaveError: The file holds an agent, but not the words that are to be exchanged.
        Refused: It is not YAML.
    """
    if "kind: DaemonSet\n" in text:
        text = _agent(text, source, words)
    text = text.replace(_LARGEST, f"expression: '{json.dumps(dict(words.largest))}'\n")
    text = text.replace(_FURTHER, f"expression: '{json.dumps([toleration.document for toleration in words.tolerations])}'\n")
    return documents_of(text, source)


def _agent(text: str, source: str, words: Words) -> str:
    # A JSON string is a YAML string, whatever is in it.
    arguments = [*words.arguments, *(["--mapped"] if words.mapped else [])]
    more = [(_LAST_ARGUMENT, "".join(f"            - {json.dumps(argument)}\n" for argument in arguments))]
    more += _MAPPED if words.mapped else ()
    if words.tolerations:
        more.append((_TOLERATIONS, "".join(f"        - {json.dumps(toleration.document)}\n" for toleration in words.tolerations)))
    for word in (_IMAGE, *(place for place, _ in more)):
        if text.count(word) != 1:
            raise KubenclaveError(f"{source} does not hold {word.strip()!r} once", "restore the file from the repository")
    for place, added in more:
        text = text.replace(place, place + added)
    return text.replace(_IMAGE, f"image: {json.dumps(words.image)}\n").replace(_DIALECT, f"--dialect={words.dialect}\n")
