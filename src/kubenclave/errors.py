"""Every failure this project reports, in one tree.

KubenclaveError            1  it did not work
├── UsageError             2  the request itself cannot be carried out as written
├── Refused                3  understood and refused: a damaged or mismatching enclave, a policy, a verdict of no
├── Unreachable            4  something outside (API server, registry, Azure) did not answer as it should
├── NotFound               5  a file, library, node or cluster that was named is not there
└── HostUnfit              6  this machine lacks something: root, a cgroup controller, disk space, a tool

The number is the exit code of the command line. An error says what happened and where; ``hint`` says what to do.
Nothing here prints or exits.
"""

from __future__ import annotations


class KubenclaveError(Exception):
    """Report a failure in one sentence, with one sentence of what to do about it.

    Args:
        what: What happened and where: file, field, offset or resource.
        hint: What the reader can do; empty where nothing useful can be said.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class UsageError(KubenclaveError):
    """Report options or values that contradict each other or lie outside their range."""

    exit_code = 2


class Refused(KubenclaveError):  # noqa: N818 - the word a person would use for it
    """Report input that was understood and is not accepted: damage, mismatch, policy."""

    exit_code = 3


class Unreachable(KubenclaveError):  # noqa: N818
    """Report an outside service that did not answer, or not as its protocol demands."""

    exit_code = 4


class NotFound(KubenclaveError):  # noqa: N818
    """Report something that was named and does not exist."""

    exit_code = 5


class HostUnfit(KubenclaveError):  # noqa: N818
    """Report what this machine lacks for the request."""

    exit_code = 6
