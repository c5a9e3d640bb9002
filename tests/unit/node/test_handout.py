from __future__ import annotations

from kubenclave.node.handout import Extras, as_answer, enclave_handout, provision_handout
from kubenclave.node.inventory import Inventory, NumaEpc, Source
from kubenclave.node.processor import SgxFeatures

FEATURES = SgxFeatures(sgx1=True, sgx2=False, flc=True)


def inventory(enclave="/dev/sgx_enclave", provision="/dev/sgx_provision"):
    return Inventory(
        numa=(NumaEpc(numa_node=0, epc_bytes=1 << 20),),
        source=Source.SYSFS,
        features=FEATURES,
        enclave_device=enclave,
        provision_device=provision,
        simulated=False,
    )


def paths(handout):
    return [(device.host_path, device.container_path, device.permissions) for device in as_answer(handout).devices]


def test_a_container_with_epc_gets_the_enclave_device_and_nothing_else_unasked():
    answer = as_answer(enclave_handout(inventory(), Extras()))

    assert paths(enclave_handout(inventory(), Extras())) == [("/dev/sgx_enclave", "/dev/sgx_enclave", "rw")]
    assert not answer.mounts
    assert not answer.envs
    assert provision_handout(inventory(), Extras()) is None


def test_legacy_paths_are_aliases_of_the_same_device():
    extras = Extras(provision=True, legacy_paths=True)

    assert [path for _, path, _ in paths(enclave_handout(inventory(), extras))] == ["/dev/sgx_enclave", "/dev/sgx/enclave"]
    assert [path for _, path, _ in paths(provision_handout(inventory(), extras))] == ["/dev/sgx_provision", "/dev/sgx/provision"]
    assert {host for host, _, _ in paths(enclave_handout(inventory(), extras))} == {"/dev/sgx_enclave"}


def test_an_old_drivers_device_is_seen_under_the_kernels_path_and_its_own():
    handout = enclave_handout(inventory(enclave="/dev/sgx/enclave"), Extras())

    assert paths(handout) == [("/dev/sgx/enclave", "/dev/sgx_enclave", "rw"), ("/dev/sgx/enclave", "/dev/sgx/enclave", "rw")]


def test_the_socket_of_aesm_is_mounted_where_asked_for_with_the_variable_that_makes_quote_libraries_use_it():
    answer = as_answer(enclave_handout(inventory(), Extras(aesm=True)))

    assert [(mount.host_path, mount.container_path, mount.read_only) for mount in answer.mounts] == [
        ("/var/run/aesmd", "/var/run/aesmd", True)
    ]
    assert dict(answer.envs) == {"SGX_AESM_ADDR": "1"}


def test_the_provisioning_device_never_comes_with_epc_and_not_at_all_where_the_host_has_none():
    asked = Extras(provision=True, aesm=True)

    assert all("provision" not in path for _, path, _ in paths(enclave_handout(inventory(), asked)))
    assert paths(provision_handout(inventory(), asked)) == [("/dev/sgx_provision", "/dev/sgx_provision", "rw")]
    assert not as_answer(provision_handout(inventory(), asked)).mounts
    assert provision_handout(inventory(provision=None), asked) is None
