from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "hello-enclave"


@pytest.fixture(scope="session")
def example():
    """The example's build script as a module."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    spec = importlib.util.spec_from_file_location("hello_enclave_build", EXAMPLE / "build.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def built(example, tmp_path_factory):
    return example.build(tmp_path_factory.mktemp("hello"))


@pytest.fixture(scope="session")
def run_hello(built):
    """Run the host program; the enclave and the signature are the built ones unless others are given."""

    def run(*options, enclave=built.enclave_file, signature=built.signature_file, **settings):
        command = [built.host, *options, enclave, signature]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, **settings)

    return run
