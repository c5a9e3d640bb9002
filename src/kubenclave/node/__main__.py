"""Run the node agent: ``python -m kubenclave.node --mode device-plugin``. Reads the options, sets up the log, reports failure."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from kubenclave.errors import KubenclaveError, UsageError
from kubenclave.node.agent import run
from kubenclave.node.choice import choose
from kubenclave.node.dialect import DIALECTS, Mode
from kubenclave.node.handout import Extras
from kubenclave.node.inventory import PAGE_BYTES
from kubenclave.node.scrape import DEFAULT_PORT
from kubenclave.node.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOLDERS = (
    ("--kubelet-dir", "/var/lib/kubelet/device-plugins", "the kubelet's device plugin folder"),
    ("--registry-dir", "/var/lib/kubelet/plugins_registry", "the kubelet's folder of plugins' registration sockets"),
    ("--driver-dir", "/var/lib/kubelet/plugins/epc.kubenclave.dev", "the DRA driver's folder: its socket and its checkpoint"),
    ("--pod-resources", "/var/lib/kubelet/pod-resources/kubelet.sock", "the kubelet's socket that lists which pods hold what"),
    ("--cdi-dir", "/var/run/cdi", "the container runtime's folder of passing CDI files"),
)

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop; return the exit code: 0, or that of the error's kind."""
    settings = read_settings(arguments)
    log_as_json()
    try:
        asyncio.run(run(settings))
    except KubenclaveError as exc:
        # A failure that was foreseen is told in words, without a trace.
        log.error("agent.failed", what=exc.what, hint=exc.hint, exit_code=exc.exit_code)  # noqa: TRY400 - see above
        return exc.exit_code
    except Exception:
        log.exception("agent.failed", what="a fault in the agent itself", hint="report it with this line", exit_code=1)
        return 1
    return 0


def read_settings(arguments: Sequence[str] | None) -> Settings:
    """Read the command line; a wrong one ends the program with exit code 2, as UsageError's is."""
    parser = argparse.ArgumentParser(prog="kubenclave-node", description="Offer this node's enclave memory (EPC) to its kubelet.")
    parser.add_argument("--mode", choices=[mode.value for mode in Mode], help="the way to offer EPC (default: the dialect's)")
    parser.add_argument(
        "--dialect", choices=[dialect.name for dialect in DIALECTS], help="the resource to offer EPC as (default: the mode's)"
    )
    parser.add_argument("--reserve", type=size, default=0, metavar="SIZE", help="EPC that is not offered, such as 2Mi (default 0)")
    parser.add_argument("--provision", action="store_true", help="offer the device of the provisioning key, by itself")
    parser.add_argument("--legacy-paths", action="store_true", help="show containers the devices as /dev/sgx/* as well")
    parser.add_argument("--aesm", action="store_true", help="mount the socket of the host's AESM into containers with EPC")
    parser.add_argument("--host-root", type=Path, default=Path("/"), help="where the host's /sys, /dev and /run are seen (default /)")
    for option, folder, what in _FOLDERS:
        parser.add_argument(option, type=Path, default=Path(folder), help=f"{what} (default %(default)s)")
    parser.add_argument(
        "--metrics-port",
        type=port,
        default=DEFAULT_PORT,
        help="where /metrics, /healthz and /readyz are served (default %(default)s; 0: nowhere)",
    )
    parser.add_argument("--mapped", action="store_true", help="show what containers map of the enclave device; needs the host's /proc")
    parser.add_argument("--node-name", default=os.environ.get("NODE_NAME", ""), help="this Node's name (default: $NODE_NAME)")
    options = parser.parse_args(arguments)
    try:
        choice = choose(options.mode, options.dialect)
    except UsageError as exc:
        parser.error(f"{exc.what}; {exc.hint}")
    return Settings(
        choice=choice,
        host_root=options.host_root,
        kubelet_dir=options.kubelet_dir,
        registry_dir=options.registry_dir,
        driver_dir=options.driver_dir,
        cdi_dir=options.cdi_dir,
        reserve_bytes=options.reserve,
        extras=Extras(provision=options.provision, legacy_paths=options.legacy_paths, aesm=options.aesm),
        node_name=options.node_name,
        pod_resources=options.pod_resources,
        metrics_port=options.metrics_port,
        mapped=options.mapped,
        pod_uid=os.environ.get("POD_UID", ""),
    )


def port(text: str) -> int:
    """Read a TCP port's number, or 0."""
    value = int(text) if re.fullmatch(r"[0-9]{1,5}", text) else -1
    if not 0 <= value < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port's number")
    return value


def size(text: str) -> int:
    """Read a number of bytes, or of Ki, Mi or Gi; a whole number of EPC pages."""
    match = re.fullmatch(r"([0-9]{1,19})(Ki|Mi|Gi)?", text)
    value = int(match[1]) << {None: 0, "Ki": 10, "Mi": 20, "Gi": 30}[match[2]] if match else -1
    if value < 0 or value % PAGE_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size in whole pages of {PAGE_BYTES} bytes, such as 2Mi")
    return value


def log_as_json() -> None:
    """Write one JSON object a line to stdout, for what the agent says and for what its libraries warn of."""
    stamp: list[structlog.typing.Processor] = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    structlog.configure(
        processors=[*stamp, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=stamp,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


if __name__ == "__main__":
    sys.exit(main())
