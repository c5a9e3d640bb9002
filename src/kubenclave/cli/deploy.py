"""``kubenclave deploy``: run an enclave image on a cluster and show its log."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.cli.progress import say
from kubenclave.cli.show import Output, OutputOption, show, write, write_untrusted
from kubenclave.cli.target import ContextOption, KubeconfigOption, connect
from kubenclave.errors import KubenclaveError, UsageError

if TYPE_CHECKING:
    from kubenclave.kube import Cluster
    from kubenclave.workload import Outcome, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What ``--output json`` gives: how the Job ended, and its log."""

    outcome: Outcome
    log: tuple[str, ...]


def deploy(  # noqa: D417 - the options shared by several commands are described by their annotations
    image: str,
    /,
    *arguments: str,
    epc: str,
    name: str | None = None,
    namespace: str | None = None,
    dialect: str | None = None,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    timeout_seconds: float = 300,
    replace: bool = False,
    output: OutputOption = "table",
) -> None:
    """Run an enclave image on a cluster as a Job, wait for its end and show its log.

    Args:
        image: Image reference, best with its digest.
        arguments: Arguments of the image's program, after --.
        epc: EPC that the enclave needs, such as 10Mi.
        name: Name of the Job; the last part of the image's path without this.
        namespace: Namespace of the Job; the context's own without this.
        dialect: How the cluster offers EPC: intel, azure, openenclave or alibaba; detected without this.
        timeout_seconds: How long to wait for the end. The Job stays on the cluster when the time is over.
        replace: Delete the Job of this name first. Without this, the same request finds its Job again and shows how it goes or went.
    """
    from kubenclave import workload  # noqa: PLC0415 - brings the API client, which --help does not need

    epc_bytes = workload.parse_epc(epc)
    job_name = name if name is not None else workload.name_of(image)
    if not (math.isfinite(timeout_seconds) and timeout_seconds > 0):
        raise UsageError(f"--timeout-seconds {timeout_seconds} is not a time to wait", "give a number of seconds above 0")
    with connect(kubeconfig, context) as cluster:
        choice = workload.choose(cluster.nodes(), epc_bytes, dialect)
        say(f"EPC: {choice.reason}")
        request = workload.Request(
            image=image,
            epc_bytes=epc_bytes,
            dialect=choice.dialect,
            name=job_name,
            namespace=namespace if namespace is not None else cluster.namespace,
            arguments=arguments,
        )
        if request.granted_bytes != epc_bytes:
            say(f"EPC: {epc_bytes} bytes are rounded up to {request.granted_bytes}, whole units of {choice.dialect.resource}")
        _run(cluster, request, replace=replace, timeout_seconds=timeout_seconds, output=output)


def _run(cluster: Cluster, request: Request, *, replace: bool, timeout_seconds: float, output: Output) -> None:
    from kubenclave import workload  # noqa: PLC0415

    log: list[str] = []
    line_open = False

    def on_line(line: str) -> None:
        nonlocal line_open
        line_open = not line.endswith("\n")
        # The log is the result that a person waits for; a program gets it inside the JSON at the end.
        if output == "json":
            log.append(line)
        else:
            write_untrusted(line)

    outcome = workload.deploy(cluster, request, replace=replace, timeout_seconds=timeout_seconds, report=say, on_line=on_line)
    if line_open and output == "table":
        write("\n")
    if not outcome.log_complete:
        say(f"the log is longer than {workload.LOG_LIMIT_BYTES} bytes; the rest of it is not shown")
    show(Deployment(outcome=outcome, log=tuple("".join(log).splitlines())) if output == "json" else outcome, output=output)
    if not outcome.succeeded:
        code = "" if outcome.exit_code is None else f" with exit code {outcome.exit_code}"
        raise KubenclaveError(
            f"Job {outcome.job} failed{code}{': ' + outcome.reason if outcome.reason else ''}",
            "see its log; it stays on the cluster until it is run again with --replace",
        )
