from __future__ import annotations

import json

import pytest

from kubenclave.install.diagnose import Evidence, diagnose
from kubenclave.install.tolerations import Toleration
from kubenclave.kube import Container, Event, Node, Pod, Taint

TOLERATED = (Toleration(key="openenclave.io/sgx_epc_MiB", value=None, effect="NoSchedule"),)


def node(**changes):
    given = {"name": "sgx-1", "resource_version": "1", "ready": True, "labels": {}, "taints": (), "capacity": {}, "allocatable": {}}
    return Node(**given | changes)


def container(state="running", **changes):
    given = {"name": "agent", "state": state, "reason": "", "message": "", "exit_code": None, "started_at": None, "finished_at": None}
    return Container(**given | changes)


def pod(*containers, **changes):
    given = {
        "name": "kubenclave-node-x",
        "namespace": "kube-system",
        "uid": "u",
        "labels": {},
        "created_at": None,
        "phase": "Pending",
        "node": "sgx-1",
        "unschedulable": "",
        "reason": "",
        "message": "",
        "containers": containers,
    }
    return Pod(**given | changes)


def warning(message):
    return Event(about="x", kind="Warning", reason="Failed", message=message, count=1, last_seen=None)


def found(on=None, the_pod=None, events=(), log=()):
    return diagnose(on or node(), Evidence(pod=the_pod, events=events, log=log), tolerated=TOLERATED, image="example/node:1")


def test_a_node_that_is_not_ready_is_the_reason_whatever_else_there_is():
    assert found(node(ready=False), pod(container("waiting", reason="ErrImagePull"))).what == "the node is not Ready"


def test_a_taint_that_the_agent_does_not_tolerate_is_named():
    taints = (
        Taint(key="openenclave.io/sgx_epc_MiB", value="true", effect="NoSchedule"),
        Taint(key="kubernetes.azure.com/scalesetpriority", value="spot", effect="NoSchedule"),
        Taint(key="node.kubernetes.io/unschedulable", value="", effect="NoSchedule"),
        Taint(key="soft", value="", effect="PreferNoSchedule"),
    )
    finding = found(node(taints=taints))

    assert finding.what == "the agent does not tolerate the node's taint kubernetes.azure.com/scalesetpriority=spot:NoSchedule"
    assert finding.sure


def test_what_refuses_the_pods_is_told():
    finding = found(events=(warning("older"), warning('pods "kubenclave-node-" is forbidden: violates PodSecurity')))

    assert finding.what == 'the agent has no pod there: pods "kubenclave-node-" is forbidden: violates PodSecurity'


def test_a_pod_that_is_not_there_yet_is_waited_for():
    finding = found()

    assert finding.what == "the agent has no pod there yet"
    assert not finding.sure


def test_a_pod_without_room_shows_the_schedulers_sentence():
    assert "0/2 nodes are available" in found(the_pod=pod(node="", unschedulable="0/2 nodes are available: Insufficient memory.")).what


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"])
def test_an_image_that_is_not_to_be_had_is_told_with_what_to_do(reason):
    finding = found(the_pod=pod(container("waiting", reason=reason, message="not found")))

    assert finding.what == "the agent's image example/node:1 is not to be had: not found"
    assert "--image" in finding.hint
    assert finding.sure


def test_a_crash_shows_the_agents_own_last_words_and_its_hint():
    log = [json.dumps({"event": "agent.started"}), json.dumps({"event": "agent.failed", "what": "no kubelet folder", "hint": "mount it"})]
    finding = found(the_pod=pod(container("waiting", reason="CrashLoopBackOff")), log=log)

    assert (finding.what, finding.hint, finding.sure) == ("the agent does not stay up: no kubelet folder", "mount it", True)


def test_a_crash_without_a_word_says_where_to_look():
    finding = found(the_pod=pod(container("terminated", reason="Error", exit_code=1)), log=["Traceback", "[1, 2]", '{"what": 3}'])

    assert finding.what == "the agent does not stay up: it ended without a word"
    assert finding.hint == "see kubectl -n kube-system logs --previous kubenclave-node-x"


def test_a_pod_that_cannot_be_started_shows_the_kubelets_warning():
    finding = found(the_pod=pod(container("waiting", reason="ContainerCreating")), events=(warning("MountVolume.SetUp failed"),))

    assert finding.what == "the agent's pod kubenclave-node-x does not start: MountVolume.SetUp failed"
    assert not finding.sure


def test_a_pod_that_is_being_started_is_waited_for():
    finding = found(the_pod=pod(container("waiting", reason="ContainerCreating")))

    assert finding.what == "the agent's pod kubenclave-node-x is Pending: ContainerCreating"
    assert not finding.sure


def test_a_running_agent_that_sees_no_sgx_says_so_itself():
    log = [json.dumps({"what": "an older problem"}), json.dumps({"what": "the host shows no EPC", "hint": "see the firmware"}), ""]
    finding = found(the_pod=pod(container(), phase="Running"), log=log)

    assert (finding.what, finding.hint) == ("the agent says: the host shows no EPC", "see the firmware")


def test_a_running_agent_without_a_problem_leaves_it_to_the_kubelet():
    assert "the kubelet does not show its EPC yet" in found(the_pod=pod(container(), phase="Running"), log=["{}"]).what


def test_a_pod_of_which_nothing_is_known_yet_is_no_mystery():
    assert found(the_pod=pod()).what == "the agent's pod kubenclave-node-x is Pending"


def test_a_log_that_is_built_to_break_a_reader_is_passed_over():
    assert "it ended without a word" in found(the_pod=pod(container("terminated")), log=["[" * 100_000]).what
