from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kubenclave.node._generated as generated

PROTO = "kubenclave/node/_generated/deviceplugin.proto"


@pytest.mark.integration
def test_the_generated_code_is_what_the_compiler_makes_of_the_interface_today(tmp_path):
    folder = Path(generated.__file__).parent
    plugins = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    outputs = [f"--{plugin}_out={tmp_path}" for plugin in ("python", "mypy", "grpclib_python")]

    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{folder.parents[2]}", *outputs, PROTO], env=plugins, check=True)

    fresh = {path.name: path.read_text() for path in (tmp_path / PROTO).parent.iterdir()}
    assert fresh == {path.name: path.read_text() for path in folder.glob("deviceplugin_*.py*")}
    assert len(fresh) == 3
