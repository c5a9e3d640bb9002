from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.node.holdings import Container, Holding
from kubenclave.node.mapped import HOST, Process, container_id, containers_by_id, mapped_files, usages

ID = "c02b71973381e968241c8ca2b20866e756003d9ada0703ce8e217a13299ae35f"
OTHER = "0" * 64
MAIN = Container(namespace="app", pod="enclave-0", name="main")
MAPS = b"""\
55d0c0a00000-55d0c0a02000 r--p 00000000 fe:01 131                        /usr/bin/enclave
7f0000000000-7f0000800000 rw-s 00000000 00:05 42                         /dev/sgx_enclave
7f0000800000-7f0000801000 r-xs 00000000 00:05 42                         /dev/sgx_enclave
7f0001000000-7f0001001000 r--p 00000000 00:05 43                         /dev/zero (deleted)
7f0002000000-7f0002001000 rw-p 00000000 00:00 0
7f0003000000-7f0003001000 rw-s 00000000 00:01 99                         /tmp/renamed device
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
"""


def test_mappings_below_dev_and_shared_ones_may_be_the_device_whatever_it_is_called():
    assert list(mapped_files(MAPS)) == [
        (b"/dev/sgx_enclave", 0x800000),
        (b"/dev/sgx_enclave", 0x1000),
        (b"/dev/zero", 0x1000),
        (b"/tmp/renamed device", 0x1000),
    ]


@given(st.binary(max_size=400))
def test_maps_of_any_content_are_read_without_a_crash(content):
    assert all(size >= 0 for _, size in mapped_files(content))


@pytest.mark.parametrize(
    "cgroup",
    [
        f"0::/kubepods/burstable/pod0c1/{ID}\n",
        f"4:memory:/kubepods/pod0c1/{ID}\n3:cpuset:/kubepods/pod0c1/{ID}\n",
        f"0::/kubepods.slice/kubepods-pod0c1.slice/cri-containerd-{ID}.scope\n",
        f"0::/system.slice/containerd.service/kubepods-pod0c1.slice:cri-containerd:{ID}\n",
    ],
)
def test_the_containers_id_is_found_in_the_control_group_of_every_driver(cgroup):
    assert container_id(cgroup) == ID


def test_a_process_of_the_host_is_in_no_container():
    assert not container_id("0::/system.slice/aesmd.service\n")
    assert not container_id("")


def test_containers_are_named_by_the_kubelets_links_to_their_logs():
    names = [f"enclave-0_app_main-{ID}.log", f"a.b_kube-system_agent-x-{OTHER}.log", "enclave_app_main.log", f"../x_app_main-{ID}.log"]

    found = containers_by_id(names)

    assert found == {ID: MAIN, OTHER: Container(namespace="kube-system", pod="a.b", name="agent-x")}


def test_what_a_containers_processes_map_is_set_beside_what_it_was_given():
    holding = Holding(container=MAIN, epc_bytes={"0": 4096, "1": 4096})
    processes = [Process(container_id=ID, mapped_bytes=4096), Process(container_id=ID, mapped_bytes=8192)]

    (usage,) = usages(processes, {ID: MAIN}, [holding])

    assert (usage.mapped_bytes, usage.held_bytes, usage.over) == (12_288, 8192, True)


@pytest.mark.parametrize(("held", "over"), [({"0": 4096}, False), ({"0": 4095}, True), (None, False)])
def test_over_is_what_is_known_to_be_more_than_was_given(held, over):
    (usage,) = usages([Process(container_id=ID, mapped_bytes=4096)], {ID: MAIN}, [Holding(container=MAIN, epc_bytes=held)])

    assert usage.over is over


def test_a_container_that_was_given_nothing_and_maps_is_over():
    (usage,) = usages([Process(container_id=ID, mapped_bytes=4096)], {ID: MAIN}, [])

    assert (usage.held_bytes, usage.over) == (0, True)


def test_a_container_without_a_name_is_shown_by_its_id_and_the_hosts_own_processes_are_never_over():
    nameless, host = usages([Process(container_id="", mapped_bytes=1), Process(container_id=ID, mapped_bytes=1)], {}, [])[::-1]

    assert (nameless.container.name, nameless.over) == (ID, True)
    assert (host.container, host.over) == (HOST, False)


def test_of_a_container_whose_processes_may_not_be_seen_nothing_is_said():
    hidden = [Process(container_id=ID, mapped_bytes=None), Process(container_id=ID, mapped_bytes=4096)]

    assert usages(hidden, {ID: MAIN}, [Holding(container=MAIN, epc_bytes={"0": 4096})]) == ()
