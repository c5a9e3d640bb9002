"""``kubenclave cluster export``: the same cluster for other tools. Reads the options, calls the room, writes."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - the command line reads its options' types
from typing import Annotated, Literal

from cyclopts import Parameter

from kubenclave.cli.cluster_target import ClusterTarget, spec_of
from kubenclave.cli.enclave_files import write_file
from kubenclave.cli.progress import say
from kubenclave.cli.show import write

FormName = Literal["arm", "bicep", "terraform", "capz", "bash", "powershell", "file"]
_NO_TARGET = ClusterTarget()


def export(
    target: ClusterTarget = _NO_TARGET,
    *,
    to: Annotated[
        FormName,
        Parameter(
            help="arm (template), bicep, terraform (azurerm 5), capz (Cluster API for Azure), bash or powershell (az commands), "
            "or file (a cluster file).",
            show_choices=False,
        ),
    ],
    out: Annotated[Path | None, Parameter(help="Write to this file, which is replaced, instead of stdout.")] = None,
) -> None:
    """Write the cluster in the words of another tool. Asks nobody, and holds no secret."""
    from kubenclave.cluster.checks.rules import check  # noqa: PLC0415
    from kubenclave.cluster.export import Form  # noqa: PLC0415 - --help does not need it
    from kubenclave.cluster.export import export as exported  # noqa: PLC0415

    spec = spec_of(target)
    text = exported(spec, Form(to))
    for finding in check(spec):
        say(f"{'Azure will refuse this' if finding.blocks else 'note'}: {finding.about}: {finding.what}; {finding.fix}")
    if out is None:
        write(text)
        return
    write_file(out, text.encode(), mode=0o755 if Form(to) is Form.BASH else 0o644)
