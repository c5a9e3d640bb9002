"""Decide what a container gets that was given EPC or the provisioning key: device nodes, a mount, a variable. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.node._generated.deviceplugin_pb2 import ContainerAllocateResponse, DeviceSpec, Mount

if TYPE_CHECKING:
    from kubenclave.node.inventory import Inventory

# Where enclave runtimes look: the paths of Linux 5.11, and those of Intel's DCAP driver before it (Open Enclave 0.9, Intel's PSW 2.9).
ENCLAVE_PATH, LEGACY_ENCLAVE_PATH = "/dev/sgx_enclave", "/dev/sgx/enclave"
PROVISION_PATH, LEGACY_PROVISION_PATH = "/dev/sgx_provision", "/dev/sgx/provision"

# AESM makes its socket aesm.socket in this folder; quote libraries use it rather than quoting by themselves where the variable is set.
AESM_FOLDER = "/var/run/aesmd"
AESM_VARIABLE = ("SGX_AESM_ADDR", "1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What is handed out only where it was asked for.

    Attributes:
        provision: The device that grants the provisioning key, to the containers that ask for it by itself.
        legacy_paths: The devices under their old paths as well.
        aesm: The socket of the host's AESM.
    """

    provision: bool = False
    legacy_paths: bool = False
    aesm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Handout:
    """What a container gets; devices are pairs of the host's path and the container's, opened for reading and writing."""

    devices: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


def enclave_handout(inventory: Inventory, extras: Extras) -> Handout:
    """Decide what goes with EPC: the device that opens enclaves, under the kernel's path and the host's own."""
    paths = [ENCLAVE_PATH, inventory.enclave_device, *([LEGACY_ENCLAVE_PATH] if extras.legacy_paths else [])]
    return Handout(
        devices=tuple((inventory.enclave_device, path) for path in dict.fromkeys(paths)),
        folders=(AESM_FOLDER,) if extras.aesm else (),
        variables=(AESM_VARIABLE,) if extras.aesm else (),
    )


def provision_handout(inventory: Inventory, extras: Extras) -> Handout | None:
    """Decide what goes with the right to the provisioning key; None where it is not offered or the host lacks the device."""
    if not extras.provision or inventory.provision_device is None:
        return None
    paths = [PROVISION_PATH, inventory.provision_device, *([LEGACY_PROVISION_PATH] if extras.legacy_paths else [])]
    return Handout(devices=tuple((inventory.provision_device, path) for path in dict.fromkeys(paths)))


def as_answer(handout: Handout) -> ContainerAllocateResponse:
    """Write a handout as the device plugin's answer for one container."""
    return ContainerAllocateResponse(
        devices=[DeviceSpec(host_path=host, container_path=path, permissions="rw") for host, path in handout.devices],
        mounts=[Mount(host_path=folder, container_path=folder, read_only=True) for folder in handout.folders],
        envs=dict(handout.variables),
    )
