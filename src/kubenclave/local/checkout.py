"""Where the project's own files that are not Python are found: in a checkout, or inside an installed package."""

from __future__ import annotations

from pathlib import Path

from kubenclave.errors import NotFound

_PACKAGE = Path(__file__).resolve().parents[1]


def project_file(relative: str) -> Path:
    """Find a file or folder of the project, named as in its repository (``local/go.mod``, ``deploy/node-agent``).

    Raises:
        NotFound: It is neither in the installed package nor in a checkout around it.
    """
    for base in (_PACKAGE / "_project", _PACKAGE.parents[1]):
        if (base / relative).exists():
            return base / relative
    raise NotFound(f"The project's own {relative} is missing.", "Install the whole package again, or run from a complete checkout.")
