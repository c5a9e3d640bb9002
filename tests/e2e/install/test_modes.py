"""The three ways of offering EPC by `kubenclave node install`, and how one takes the place of another."""

from __future__ import annotations

import socket

import pytest

NODE = "sgx-1"
PROVISION = "sgx.intel.com/provision"
RESOURCES = {"device-plugin": "openenclave.io/sgx_epc_MiB", "extended-resource": "sgx.intel.com/epc"}
MODES = (*RESOURCES, "dra")


def test_in_intels_dialect_a_pod_says_how_much_and_gets_the_device_too(untainted):
    assert untainted.ok("install", "--dialect", "intel")["nodes"] == [{"node": NODE, "epc_bytes": 40 << 20}]
    untainted.soon(untainted.holder("a", "10Mi", "sgx.intel.com/epc"))
    untainted.cluster.wait("pod/a", "condition=Ready")

    devices = untainted.cluster.kubectl("exec", "a", "--", "/app/busybox", "ls", "/dev").stdout.split()
    (row,) = untainted.ok("status")
    removed = untainted.ok("uninstall")

    assert "sgx_enclave" in devices
    assert (row["offered_as"], row["agent"]) == ("sgx.intel.com/epc", "extended-resource intel: Running")
    assert [(pod["pod"], pod["asked_bytes"]) for pod in row["pods"]] == [("default/a", 10 << 20)]
    assert f"sgx.intel.com/epc of node {NODE}" in removed["removed"]
    node = untainted.cluster.get("node", NODE)
    assert "sgx.intel.com/epc" not in node["status"]["capacity"]
    assert "kubenclave.dev/epc-bytes" not in node["metadata"]["annotations"]


def test_by_resource_claims_a_pod_holds_exact_bytes_and_the_driver_stays_while_it_does(untainted):
    assert untainted.ok("install", "--mode", "dra")["nodes"] == [{"node": NODE, "epc_bytes": 40 << 20}]
    for document in untainted.claiming("a"):
        untainted.cluster.apply(document)
    untainted.cluster.wait("pod/a", "condition=Ready")

    (row,) = untainted.ok("status")
    refused = untainted.node("uninstall")
    untainted.cluster.kubectl("delete", "pod", "a", "--grace-period=0")
    untainted.until(lambda: not untainted.cluster.get("resourceclaims")["items"], "the claim is gone")
    removed = untainted.ok("uninstall")

    assert (row["offered_as"], row["allocated_bytes"]) == ("resource claims", 10 << 20)
    assert [pod["pod"] for pod in row["pods"]] == ["default/a"]
    assert refused.returncode == 3
    assert "pods hold EPC by resource claims: default/a" in refused.stderr
    assert f"ResourceSlice of {NODE}" in removed["removed"]
    assert untainted.cluster.get("resourceslices")["items"] == []


def test_another_way_takes_the_place_of_the_one_before_and_epc_is_never_offered_twice(untainted):
    untainted.ok("install", "--dialect", "intel")
    for words in (["--mode", "dra"], ["--dialect", "azure"], ["--dialect", "intel"]):
        untainted.ok("install", *words)
        (row,) = untainted.ok("status")
        # Twice would be 80 MiB.
        assert row["offered_bytes"] == 40 << 20, row


@pytest.mark.parametrize("words", [["uninstall"], ["install", "--mode", "dra"]], ids=" ".join)
def test_bytes_that_an_agent_left_which_was_removed_by_hand_are_taken_back(untainted, words):
    admin = untainted
    admin.ok("install", "--dialect", "intel")
    admin.cluster.kubectl("delete", admin.KINDS, "--all-namespaces", "--selector", admin.OURS, "--wait")
    admin.until(lambda: not admin.objects(), "nothing is installed")
    assert offered(admin) == {"extended-resource", "mark"}

    result = admin.ok(*words)

    assert f"sgx.intel.com/epc of node {NODE}" in result["removed"]
    assert offered(admin) == ({"dra"} if "install" in words else set())


def asking(admin, mode, name, *, provision=False):
    """Make a pod that asks for 10 MiB in the mode's way and wait until it runs."""
    if mode == "dra":
        template, pod = admin.claiming(name, provision=provision)
        admin.cluster.apply(template)
    else:
        pod = admin.holder(name, "10" if mode == "device-plugin" else "10Mi", RESOURCES[mode])
        limits = pod["spec"]["containers"][0]["resources"]["limits"]
        limits |= {PROVISION: "1"} if provision else {}
    admin.soon(pod)
    admin.cluster.wait(f"pod/{name}", "condition=Ready")
    return name


def offered(admin):
    """What the node says of EPC in each way, those left out that say nothing or none."""
    node = admin.cluster.get("node", NODE)
    shown = {mode: node["status"]["allocatable"].get(name, "0") for mode, name in RESOURCES.items()}
    devices = [device for each in admin.cluster.get("resourceslices")["items"] for device in each["spec"]["devices"]]
    shown["dra"] = "".join(device["capacity"]["epc"]["value"] for device in devices if "capacity" in device) or "0"
    marked = {"mark"} if "kubenclave.dev/epc-bytes" in node["metadata"].get("annotations", {}) else set()
    return {mode for mode, amount in shown.items() if amount != "0"} | marked


def test_from_mode_to_mode_and_back_the_former_ones_capacity_goes_and_no_pod_notices(untainted):
    admin = untainted
    admin.cluster.apply(bystander(admin))
    admin.cluster.wait("pod/bystander", "condition=Ready")
    before = admin.life("bystander")

    for mode, following in (("device-plugin", "extended-resource"), ("extended-resource", "dra"), ("dra", "device-plugin")):
        assert admin.ok("install", "--mode", mode)["nodes"] == [{"node": NODE, "epc_bytes": 40 << 20}]
        assert offered(admin) == {mode} | ({"mark"} if mode == "extended-resource" else set())
        holding = admin.life(asking(admin, mode, "holds"))

        refused = admin.node("install", "--mode", following)

        assert refused.returncode == 3
        assert f"EPC is offered as {mode}" in refused.stderr
        assert "held so by default/holds" in refused.stderr
        assert admin.life("holds") == holding
        admin.cluster.kubectl("delete", "pod", "holds", "--grace-period=0")
        admin.until(lambda: not admin.cluster.get("resourceclaims")["items"], "the claim is gone")
        admin.ok("install", "--mode", following)
        assert mode not in offered(admin)

    assert offered(admin) == {"device-plugin"}
    assert admin.life("bystander") == before


def bystander(admin):
    """A pod on the node that asks for no EPC."""
    pod = admin.holder("bystander", 0, nodeSelector={"kubernetes.io/hostname": NODE})
    pod["spec"]["containers"][0].pop("resources")
    return pod


@pytest.fixture
def aesm(bare):
    """A socket where AESM has its own stands for AESM: nobody speaks behind it."""
    folder = bare.root() / "run/aesmd"
    folder.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "aesm.socket"))
        yield
    (folder / "aesm.socket").unlink()
    folder.rmdir()


def seen(admin, pod):
    """What a pod sees: devices, AESM's socket, its variable."""
    script = (
        "for f in /dev/sgx_* /dev/sgx/*; do [ -c $f ] && echo $f; done; [ -S /var/run/aesmd/aesm.socket ] && echo aesm; echo $SGX_AESM_ADDR"
    )
    return set(admin.cluster.kubectl("exec", pod, "--", "/app/busybox", "sh", "-c", script).stdout.split())


@pytest.mark.parametrize("mode", MODES)
def test_by_itself_epc_brings_the_enclave_device_and_nothing_else(untainted, aesm, mode):
    untainted.ok("install", "--mode", mode)

    assert seen(untainted, asking(untainted, mode, "a")) == {"/dev/sgx_enclave"}


@pytest.mark.parametrize("mode", MODES)
def test_what_else_is_handed_out_is_what_the_installation_and_the_pod_ask_for(untainted, aesm, mode):
    admin = untainted
    admin.ok("install", "--mode", mode, "--provision", "--aesm", "--legacy-paths")

    ordinary, quoting = asking(admin, mode, "ordinary"), asking(admin, mode, "quoting", provision=True)

    enclave = {"/dev/sgx_enclave", "/dev/sgx/enclave", "aesm", "1"}
    assert seen(admin, ordinary) == enclave
    assert seen(admin, quoting) == enclave | {"/dev/sgx_provision", "/dev/sgx/provision"}


def test_where_aesm_is_missing_containerd_makes_its_folder_and_the_socket_can_come_later(untainted, request):
    admin = untainted
    admin.ok("install", "--aesm")

    pod = asking(admin, "device-plugin", "early")

    assert seen(admin, pod) == {"/dev/sgx_enclave", "1"}
    request.getfixturevalue("aesm")
    assert seen(admin, pod) == {"/dev/sgx_enclave", "aesm", "1"}


def test_where_aesm_is_missing_a_pod_with_a_claim_waits_and_says_for_what(untainted):
    admin = untainted
    admin.ok("install", "--mode", "dra", "--aesm")
    template, pod = admin.claiming("early")
    admin.cluster.apply(template)
    admin.soon(pod)

    def messages():
        return [event["message"] for event in admin.cluster.get("events")["items"] if event["involvedObject"]["name"] == "early"]

    admin.until(lambda: any("/run/aesmd" in message for message in messages()), "the missing folder in the pod's events")
