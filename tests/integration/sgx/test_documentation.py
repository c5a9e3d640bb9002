"""What the documentation shows is what happens."""

from __future__ import annotations

import doctest
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]


def test_the_api_page_runs_as_it_stands(tmp_path, monkeypatch):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    spec = importlib.util.spec_from_file_location("hello_build", ROOT / "examples/hello-enclave/build.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "hello_build", module)
    spec.loader.exec_module(module)
    module.build(tmp_path)
    monkeypatch.chdir(tmp_path)

    page = ROOT / "docs/reference/enclave-api.md"
    result = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS, verbose=False)

    assert result.failed == 0
    assert result.attempted > 15


def test_the_how_to_signs_with_a_key_elsewhere(tmp_path, oe_file, run, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    monkeypatch.chdir(tmp_path)
    Path("enclave.so").write_bytes(oe_file.read_bytes())
    page = (ROOT / "docs/how-to/sign-with-a-key-elsewhere.md").read_text()
    results = []
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
        for line in block.replace("\\\n", "").splitlines():
            if line.startswith("kubenclave"):
                words = __import__("shlex").split(line)
                code, _, err = run(*words[1:])
                assert code == 0, err
            else:
                subprocess.run(line, shell=True, check=True)  # noqa: S602 - a line of our own page, as a reader would type it
        results.append(Path("enclave.so").read_bytes())

    assert results[3] != results[0]
    date = ("--date", "2026-01-31")
    assert run("enclave", "sign", "enclave.so", "--key", "key.pem", "--svn", 3, "--no-debug", *date)[0] == 0
    assert Path("enclave.so").read_bytes() == results[3]


def test_the_reference_names_every_command_option_and_finding(run):
    page = (ROOT / "docs/reference/enclave.md").read_text()
    findings = re.findall(r'name="([a-z-]+)"', (ROOT / "src/kubenclave/sgx/findings.py").read_text())

    assert len(findings) == 10
    for name in {*findings, "inspect", "measure", "sign", "keygen", "diff", "pack"}:
        assert f"`{name}" in page, name
    for command in ("sign", "inspect"):
        for option in set(re.findall(r"--[a-z-]{3,}", run("enclave", command, "--help")[1])) - {"--help", "--output", "--result", "--file"}:
            assert option in page, option
