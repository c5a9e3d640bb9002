from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kubenclave.node._generated as generated

FOLDER = Path(generated.__file__).parent
INTERFACES = sorted(path.stem for path in FOLDER.glob("*.proto"))


@pytest.mark.integration
@pytest.mark.parametrize("interface", INTERFACES)
def test_the_generated_code_is_what_the_compiler_makes_of_the_interface_today(interface, tmp_path):
    proto = f"kubenclave/node/_generated/{interface}.proto"
    plugins = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    outputs = [f"--{plugin}_out={tmp_path}" for plugin in ("python", "mypy", "grpclib_python")]

    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{FOLDER.parents[2]}", *outputs, proto], env=plugins, check=True)

    fresh = {path.name: path.read_text() for path in (tmp_path / proto).parent.iterdir()}
    assert fresh == {path.name: path.read_text() for path in FOLDER.glob(f"{interface}_*.py*")}
    assert len(fresh) == 3
