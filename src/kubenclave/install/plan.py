"""Decide what is installed: how EPC is offered, which objects that takes, and what this cluster is too old for. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from kubenclave.errors import Refused, UsageError

Mode = Literal["device-plugin", "extended-resource", "dra"]
MODES: tuple[Mode, ...] = get_args(Mode)

# The plain YAML in the folder deploy/.
_AGENT_FILES: dict[Mode, str] = {
    "device-plugin": "node-agent.yaml",
    "extended-resource": "node-agent-extended-resource.yaml",
    "dra": "node-agent-dra.yaml",
}
_VALIDATING_FILE = "admission.yaml"
_MUTATING_FILE = "admission-mutating.yaml"
_CLAIMS_FILE = "admission-claims.yaml"
# The dialects by which each way can offer EPC, its usual one first. A resource claim has no dialect.
DIALECTS: dict[Mode, tuple[str, ...]] = {"device-plugin": ("openenclave", "azure"), "extended-resource": ("intel",), "dra": ()}

# ValidatingAdmissionPolicy is part of admissionregistration.k8s.io/v1 from 1.30 (KEP-3488), MutatingAdmissionPolicy from 1.36 (KEP-3962).
_VALIDATING_SINCE = (1, 30)
_MUTATING_SINCE = (1, 36)
# extended-resource: a policy must hold the agent to its own node, and its token must name that node (KEP-4193, on from 1.30).
# dra: consumable capacity (KEP-5075) is on from 1.36.
_MODE_SINCE: dict[Mode, tuple[int, int]] = {"device-plugin": (1, 26), "extended-resource": (1, 30), "dra": (1, 36)}
_VERSION = re.compile(r"v?(?P<major>[0-9]{1,4})\.(?P<minor>[0-9]{1,4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be installed.

    Args:
        mode: How EPC is offered.
        dialect: The names it is offered by; empty for resource claims.
        files: What is applied, by name in the folder ``deploy/``.
        lost: What the cluster is too old for, in sentences.
    """

    mode: Mode
    dialect: str
    files: tuple[str, ...]
    lost: tuple[str, ...]


def plan(mode: str | None, dialect: str | None, *, version: str, admission: bool) -> Plan:
    """Decide what to install on a cluster of a version.

    Args:
        mode: How EPC is to be offered; None takes the dialect's way.
        dialect: The names to offer it by; None takes the mode's usual ones, or those of the 2020 guide.
        version: The API server's, such as v1.37.2.
        admission: Whether the admission policies are wanted.

    Raises:
        UsageError: Mode and dialect do not go together.
        Refused: The cluster is too old for the mode, or its version is no version.
    """
    chosen, names = _choose(mode, dialect)
    have = _version(version)
    if have < _MODE_SINCE[chosen]:
        raise Refused(
            f"mode {chosen} needs Kubernetes {_dotted(_MODE_SINCE[chosen])} or newer, this is {version}",
            "use mode device-plugin" if have >= _MODE_SINCE["device-plugin"] else "use a newer Kubernetes",
        )
    files, lost = [_AGENT_FILES[chosen]], []
    if admission and have >= _VALIDATING_SINCE:
        files.append(_VALIDATING_FILE)
    elif admission:
        lost.append(f"no admission rules (Kubernetes {_dotted(_VALIDATING_SINCE)} or newer has them): pods that ask wrongly stay Pending")
    if admission and have >= _MUTATING_SINCE:
        files.append(_MUTATING_FILE)
    elif admission:
        lost.append(
            f"nothing is added to pods (Kubernetes {_dotted(_MUTATING_SINCE)} or newer does): each brings its toleration and, "
            "in Intel's dialect, asks for sgx.intel.com/enclave itself"
        )
    if admission and chosen == "dra":
        files.append(_CLAIMS_FILE)
    return Plan(mode=chosen, dialect=names, files=tuple(files), lost=tuple(lost))


def _choose(wanted: str | None, dialect: str | None) -> tuple[Mode, str]:
    if wanted is None:
        for candidate in MODES:
            if dialect is None or dialect in DIALECTS[candidate]:
                return candidate, dialect or DIALECTS[candidate][0]
        known = ", ".join(name for names in DIALECTS.values() for name in names)
        raise UsageError(f"the node agent does not offer EPC in dialect {dialect!r}", f"choose one of {known}")
    mode = next((known for known in MODES if known == wanted), None)
    if mode is None:
        raise UsageError(f"the node agent does not offer EPC in mode {wanted!r}", f"choose one of {', '.join(MODES)}")
    if dialect is None:
        return mode, next(iter(DIALECTS[mode]), "")
    if dialect not in DIALECTS[mode]:
        fitting = " or ".join(DIALECTS[mode])
        raise UsageError(
            f"mode {mode} does not offer EPC in dialect {dialect}", f"use --dialect {fitting}" if fitting else "leave --dialect out"
        )
    return mode, dialect


def _version(text: str) -> tuple[int, int]:
    match = _VERSION.match(text)
    if match is None:
        raise Refused(f"{text[:80]!r} is not a Kubernetes version", "see what answers at this address")
    return int(match["major"]), int(match["minor"])


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
