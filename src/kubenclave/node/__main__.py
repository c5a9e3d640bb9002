"""Run the node agent: ``python -m kubenclave.node --dialect openenclave``. Reads the options, sets up the log, reports failure."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from kubenclave.errors import KubenclaveError
from kubenclave.node.agent import Settings, run
from kubenclave.node.dialect import DIALECTS, dialect_named

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    parser.add_argument("--dialect", required=True, choices=[dialect.name for dialect in DIALECTS], help="the resource to offer EPC as")
    parser.add_argument("--host-root", type=Path, default=Path("/"), help="where the host's /sys, /dev and /run are seen (default /)")
    parser.add_argument(
        "--kubelet-dir",
        type=Path,
        default=Path("/var/lib/kubelet/device-plugins"),
        help="the kubelet's device plugin folder (default %(default)s)",
    )
    options = parser.parse_args(arguments)
    return Settings(dialect=dialect_named(options.dialect), host_root=options.host_root, kubelet_dir=options.kubelet_dir)


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
