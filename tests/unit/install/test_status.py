from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.install.holders import Holder
from kubenclave.install.metrics import POD_HELD, POD_MAPPED, SIMULATED, TOTAL, agent_view, samples
from kubenclave.install.objects import Resource
from kubenclave.install.status import PodEpc, Seen, over_offered, renewal, rows
from kubenclave.kube import Container, Node, Pod

MIB = 1 << 20
NAME = "openenclave.io/sgx_epc_MiB"
RESOURCES = (Resource(dialect="openenclave", name=NAME, unit_bytes=MIB),)
METRICS = f"""# HELP {TOTAL} EPC of the host.
# TYPE {TOTAL} gauge
{TOTAL}{{numa_node="0"}} {20 * MIB}
{TOTAL}{{numa_node="1"}} 2.097152e+07
{SIMULATED} 1.0
{POD_HELD}{{namespace="default",pod="a",container="x"}} {10 * MIB}
{POD_MAPPED}{{namespace="default",pod="a",container="x"}} {12 * MIB}
{POD_MAPPED}{{namespace="default",pod="intruder",container="x"}} {MIB} 1700000000000
python_info{{version="3"}} 1.0
"""


def node(name="sgx-1", labels=None, amounts=None):
    amounts = amounts or {}
    return Node(name=name, resource_version="1", ready=True, labels=labels or {}, taints=(), capacity=amounts, allocatable=amounts)


def pod(name="a", *, on="sgx-1", requests=None, reason="", created=None, ready=True):
    state = "waiting" if reason else "running"
    container = Container(name="x", state=state, reason=reason, message="", exit_code=None, started_at=None, finished_at=None)
    return Pod(
        name=name,
        namespace="default",
        uid=name,
        labels={},
        created_at=created,
        phase="Running",
        node=on,
        unschedulable="",
        reason="",
        message="",
        containers=(container,),
        requests=requests or {},
        ready=ready,
    )


def seen(**changes):
    given = {"nodes": (), "pods": (), "agents": (), "mode": "device-plugin openenclave", "slices": {}, "claimed": (), "views": {}}
    return Seen(**given | changes)


def test_a_node_with_a_talking_agent_shows_everything():
    (row,) = rows(
        seen(
            nodes=(node(amounts={NAME: 38}), node("plain-1")),
            pods=(pod(requests={NAME: 10}),),
            agents=(pod("agent"),),
            views={"sgx-1": agent_view(METRICS)},
        ),
        RESOURCES,
    )

    assert (row.node, row.sgx, row.offered_as, row.agent) == ("sgx-1", "simulated", NAME, "device-plugin openenclave: Running")
    assert (row.total_bytes, row.offered_bytes, row.allocated_bytes) == (40 * MIB, 38 * MIB, 10 * MIB)
    assert row.pods == (
        PodEpc(pod="default/a", asked_bytes=10 * MIB, held_bytes=10 * MIB, mapped_bytes=12 * MIB),
        PodEpc(pod="default/intruder", asked_bytes=0, held_bytes=None, mapped_bytes=MIB),
    )


def test_where_no_agent_answers_the_api_alone_is_shown():
    (row,) = rows(seen(nodes=(node(amounts={NAME: 40}),), pods=(pod(requests={NAME: 10}),)), RESOURCES)

    assert (row.sgx, row.total_bytes, row.agent) == ("yes, says the node", None, "no pod")
    assert row.pods == (PodEpc(pod="default/a", asked_bytes=10 * MIB, held_bytes=None, mapped_bytes=None),)


def test_an_agent_that_does_not_start_shows_why():
    (row,) = rows(seen(nodes=(node(labels={"tee": "sgx"}),), agents=(pod("agent", reason="ImagePullBackOff"),)), RESOURCES)

    assert (row.sgx, row.offered_as, row.agent) == ("unknown", "nothing", "device-plugin openenclave: ImagePullBackOff")


@pytest.mark.parametrize(
    ("agent", "silent", "said"),
    [
        (pod("agent"), (), "Running"),
        (pod("agent"), ("agent",), "does not answer"),
        (pod("agent", ready=False), (), "not ready"),
        (pod("agent", ready=False), ("agent",), "not ready, does not answer"),
        (pod("agent"), ("another",), "Running"),
        (replace(pod("agent", ready=False), phase="Pending", containers=()), (), "Pending"),
    ],
)
def test_an_agent_that_runs_and_is_not_well_is_not_called_running(agent, silent, said):
    (row,) = rows(seen(nodes=(node(),), agents=(agent,), silent=silent), RESOURCES)

    assert row.agent == f"device-plugin openenclave: {said}"


def test_a_node_that_only_feature_discovery_knows_is_listed_and_others_are_not():
    found = node("n", labels={"intel.feature.node.kubernetes.io/sgx": "true"})

    assert [(row.node, row.sgx) for row in rows(seen(nodes=(found, node("plain-1"))), RESOURCES)] == [("n", "yes, says a label")]


def test_claims_are_shown_like_requests():
    held = Holder(pod="default/a", node="sgx-1", epc_bytes=4096)
    (row,) = rows(seen(nodes=(node(),), slices={"sgx-1": 40 * MIB}, claimed=(held,), mode="dra"), RESOURCES)

    assert (row.offered_bytes, row.allocated_bytes, row.offered_as) == (40 * MIB, 4096, "resource claims")


def daemon_set(arguments, *, image="kubenclave/node:local", manager="kubenclave"):
    spec = {"template": {"spec": {"containers": [{"image": image, "args": [*arguments, "--host-root=/host"]}]}}}
    return {"metadata": {"name": "kubenclave-node", "labels": {"app.kubernetes.io/managed-by": manager}}, "spec": spec}


def test_epc_that_is_offered_twice_is_told():
    view = replace(agent_view(METRICS), total_bytes=40 * MIB)
    found = rows(seen(nodes=(node(amounts={NAME: 40}),), slices={"sgx-1": 40 * MIB}, views={"sgx-1": view}), RESOURCES)

    (sentence,) = over_offered(found)
    assert "node sgx-1 offers 83886080 bytes of EPC and has 41943040" in sentence
    assert over_offered(rows(seen(nodes=(node(amounts={NAME: 40}),), views={"sgx-1": view}), RESOURCES)) == []


def test_renewing_the_limits_changes_nothing_else_of_the_installation():
    """Without its options, the command would install the agent of another mode."""
    plain = daemon_set(["--mode=device-plugin", "--dialect=openenclave"])
    full = daemon_set(["--mode=dra", "--dialect=", "--reserve=2Mi", "--provision", "--mapped", "--metrics-port=1"], image="r/n@sha256:0")

    assert renewal(plain, {}, RESOURCES) == "kubenclave node install --mode=device-plugin --dialect=openenclave"
    assert renewal(full, {}, RESOURCES) == "kubenclave node install --mode=dra --reserve=2Mi --provision --mapped --image=r/n@sha256:0"


def test_the_limits_of_a_chart_are_renewed_by_its_values():
    limits = {"openenclave": 80, "claims": 4096}

    assert "--set largest.openenclave=80,largest.claims=4096" in renewal(daemon_set([], manager="Helm"), limits, RESOURCES)


def test_an_answer_that_says_nothing_of_epc_is_no_view():
    assert agent_view("<html>hello</html>") is None


def test_labels_are_read_with_their_escapes():
    (sample,) = samples('kubenclave_x{a="q\\"\\\\ \\n",b=""} 1')

    assert sample.labels == {"a": 'q"\\ \n', "b": ""}


def test_of_two_claims_of_one_pod_the_sum_is_shown():
    held = [Holder(pod="default/a", node="sgx-1", epc_bytes=size) for size in (4096, 8192)]
    (row,) = rows(seen(nodes=(node(),), slices={"sgx-1": 40 * MIB}, claimed=held), RESOURCES)

    assert [(each.pod, each.asked_bytes) for each in row.pods] == [("default/a", 12288)]
    assert row.allocated_bytes == 12288


@given(st.text(max_size=300))
def test_no_answer_breaks_the_reader(text):
    list(samples(f"kubenclave_{text}"))
    agent_view(text)
