"""The same cluster in the words of other tools. Pure: a spec in, text out.

Must not talk to Azure and must hold no secret: where a form needs one, it has a parameter or a variable for it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from kubenclave.cluster.export.arm import arm_template
from kubenclave.cluster.export.bash import bash_script
from kubenclave.cluster.export.bicep import bicep_file
from kubenclave.cluster.export.capz import cluster_api_documents
from kubenclave.cluster.export.file import cluster_file
from kubenclave.cluster.export.powershell import powershell_script
from kubenclave.cluster.export.terraform import terraform_configuration

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubenclave.cluster.spec import ClusterSpec

__all__ = ["Form", "export"]


class Form(StrEnum):
    """Name what a cluster can be exported as."""

    ARM = "arm"
    BICEP = "bicep"
    TERRAFORM = "terraform"
    CAPZ = "capz"
    BASH = "bash"
    POWERSHELL = "powershell"
    FILE = "file"


_WRITERS: dict[Form, Callable[[ClusterSpec], str]] = {
    Form.ARM: arm_template,
    Form.BICEP: bicep_file,
    Form.TERRAFORM: terraform_configuration,
    Form.CAPZ: cluster_api_documents,
    Form.BASH: bash_script,
    Form.POWERSHELL: powershell_script,
    Form.FILE: cluster_file,
}


def export(spec: ClusterSpec, form: Form) -> str:
    """Return the cluster in one form, ending in a newline.

    Raises:
        UsageError: The form has no words for something that the spec says and that would make another cluster if left out.
    """
    return _WRITERS[form](spec)
