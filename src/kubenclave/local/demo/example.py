"""The enclave program that the demo runs: ``examples/hello-enclave``, built by its own script."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Protocol, cast

from kubenclave.errors import NotFound
from kubenclave.local.checkout import project_file

if TYPE_CHECKING:
    from pathlib import Path


class BuiltExample(Protocol):
    """What the example's script gives."""

    host: Path
    enclave_file: Path


class _Script(Protocol):
    def build(self, output: Path) -> BuiltExample: ...


def build_example(output: Path) -> BuiltExample:
    """Build the example into a folder.

    Raises:
        NotFound: The example is not there.
        HostUnfit: gcc is missing, or the folder cannot be written.
    """
    path = project_file("examples/hello-enclave/build.py")
    spec = importlib.util.spec_from_file_location("hello_enclave_build", path)
    if spec is None or spec.loader is None:
        raise NotFound(f"{path} cannot be loaded.", "Run from a complete checkout.")
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return cast("_Script", module).build(output)
