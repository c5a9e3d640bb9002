"""Decide what is asked of Kubernetes for an enclave application: one Job, as a document. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import UsageError
from kubenclave.kube import LARGEST_QUANTITY, Document
from kubenclave.workload.dialects import TAINT_EFFECT
from kubenclave.workload.epc import size

if TYPE_CHECKING:
    from kubenclave.workload.dialects import Dialect

CONTAINER = "enclave"
# A Job made from a request carries the request's digest, so that the same request finds it again.
REQUEST_ANNOTATION = "kubenclave/request-sha256"
MANAGED_BY = ("app.kubernetes.io/managed-by", "kubenclave")

# RFC 1123 label: Kubernetes names a Job's pods after it and labels them with its name, so 63 characters are the most.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LONGEST_NAME = 63
# Reference grammar of the OCI distribution project (reference/regexp.go), without its length limits per part.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_IMAGE = re.compile(
    rf"(?:{_HOST}/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@[a-z0-9]+:[0-9a-f]{{32,128}})?"
)
# Repository 255 (the same project), tag 128, digest 135 characters.
_LONGEST_IMAGE = 520
# An object in etcd may take 1.5 MiB (its request limit); a tenth of it is more arguments than a program reads.
_LONGEST_ARGUMENTS = 150_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to run: an image with some EPC, once, to its end.

    Args:
        image: Image reference, best with its digest.
        epc_bytes: EPC for the one container.
        dialect: How the cluster offers EPC.
        name: Name of the Job, see ``name_of``.
        namespace: Namespace of the Job.
        arguments: What the image's program is given; its own arguments where empty.
    """

    image: str
    epc_bytes: int
    dialect: Dialect
    name: str
    namespace: str
    arguments: tuple[str, ...] = ()

    @property
    def granted_bytes(self) -> int:
        """Return the EPC in whole units of the dialect: what the scheduler will set aside."""
        return self.dialect.units(self.epc_bytes) * self.dialect.unit_bytes


def name_of(image: str) -> str:
    """Return a name for the Job of an image: the last part of its path.

    Raises:
        UsageError: The text is not an image reference.
    """
    path = _path_of(image)
    name = re.sub(r"[^a-z0-9]+", "-", path.rpartition("/")[2])[:_LONGEST_NAME].strip("-")
    return name or "enclave"


def render(request: Request) -> Document:
    """Return the Job for a request.

    Raises:
        UsageError: The image, the name, the namespace, the amount of EPC or the arguments cannot be what they are.
    """
    _check(request)
    labels = {"app.kubernetes.io/name": request.name, MANAGED_BY[0]: MANAGED_BY[1]}
    spec: dict[str, object] = {
        # The program's end is the answer, good or bad: running it again would only hide it.
        "backoffLimit": 0,
        "completions": 1,
        "parallelism": 1,
        "template": {"metadata": {"labels": labels}, "spec": _pod(request)},
    }
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": request.name,
            "namespace": request.namespace,
            "labels": labels,
            "annotations": {REQUEST_ANNOTATION: digest},
        },
        "spec": spec,
    }


def digest_of(document: Document) -> str:
    """Return the digest of the request that a rendered Job carries."""
    metadata = document["metadata"]
    annotations = metadata["annotations"] if isinstance(metadata, dict) else {}
    return str(annotations[REQUEST_ANNOTATION])


def _pod(request: Request) -> dict[str, object]:
    dialect = request.dialect
    limits = {dialect.resource: str(dialect.units(request.epc_bytes)), **{name: str(count) for name, count in dialect.companions.items()}}
    container: dict[str, object] = {
        "name": CONTAINER,
        "image": request.image,
        "imagePullPolicy": "IfNotPresent",
        "resources": {"limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    if request.arguments:
        container["args"] = list(request.arguments)
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "tolerations": [{"key": dialect.taint_key, "operator": "Exists", "effect": TAINT_EFFECT}],
        "containers": [container],
    }


def _check(request: Request) -> None:
    _path_of(request.image)
    for what, name in (("name", request.name), ("namespace", request.namespace)):
        if _NAME.fullmatch(name) is None:
            raise UsageError(
                f"{name[:80]!r} cannot be the {what} of a Job",
                "use at most 63 lower-case letters, digits and hyphens, with a letter or digit at both ends",
            )
    if not 1 <= request.granted_bytes <= LARGEST_QUANTITY:
        raise UsageError(f"{size(request.epc_bytes)} of EPC cannot be asked for", "ask for 1 byte to 2^63-1 bytes")
    _check_arguments(request.arguments)


def _check_arguments(arguments: tuple[str, ...]) -> None:
    try:
        joined = "\n".join(arguments).encode()
    except UnicodeEncodeError as exc:
        raise UsageError(
            "an argument is not UTF-8 text, which is all that Kubernetes can hold", "pass such bytes in a file instead"
        ) from exc
    if len(joined) > _LONGEST_ARGUMENTS or b"\0" in joined:
        raise UsageError(f"the arguments hold a NUL or more than {_LONGEST_ARGUMENTS} bytes", "give the program less on its command line")


def _path_of(image: str) -> str:
    match = _IMAGE.fullmatch(image) if len(image) <= _LONGEST_IMAGE else None
    if match is None:
        raise UsageError(f"{image[:80]!r} is not an image reference", "write it as [registry/]path[:tag][@digest]")
    return match["path"]
