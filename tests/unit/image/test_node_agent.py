"""Which files the node agent's image takes of this project."""

from pathlib import Path

import pytest

import kubenclave
from kubenclave.image import node_agent
from kubenclave.image.node_agent import agent_sources


@pytest.fixture
def package(root):
    def make(text):
        return root({"/kubenclave/node/agent.py": text.encode(), "/kubenclave/node/plugin.py": b"import asyncio\n"})

    return make


@pytest.mark.parametrize(
    "line",
    [
        "from kubenclave import kube",
        "from kubenclave.kube import connect",
        "import kubenclave.kube",
        "    from kubenclave.kube import connect  # when it runs",
        "from kubenclave import errors, kube",
    ],
)
def test_the_door_to_kubernetes_comes_with_an_agent_that_imports_it(package, line):
    assert "kubenclave/kube" in agent_sources(package(f"{line}\n"))


@pytest.mark.parametrize("line", ["import asyncio", "# from kubenclave import kube", "from kubenclave.node import kubelet"])
def test_it_stays_out_otherwise(package, line):
    assert "kubenclave/kube" not in agent_sources(package(f"{line}\n"))


def test_every_source_is_there():
    root = Path(kubenclave.__file__).parents[1]

    assert all((root / name).exists() for name in agent_sources(root))


def test_the_lock_of_an_installed_package_is_inside_it_and_a_checkouts_beside_it(root):
    installed = root({"/lib/kubenclave/_project/requirements/node.txt": b""}, name="installed")
    checkout = root({"/src/kubenclave/__init__.py": b"", "/requirements/node.txt": b""}, name="checkout")

    assert node_agent._lock(installed / "lib") == installed / "lib/kubenclave/_project/requirements/node.txt"
    assert node_agent._lock(checkout / "src") == checkout / "requirements/node.txt"
