from __future__ import annotations

import pytest
from lightkube.resources import batch_v1, core_v1

from kubenclave.errors import Refused
from kubenclave.kube import Taint
from kubenclave.kube.values import event_of, job_of, node_of, pod_of

UNSCHEDULED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/2 nodes are available: 1 Insufficient openenclave.io/sgx_epc_MiB.",
}


def test_a_node_shows_its_readiness_labels_taints_and_whole_amounts():
    node = node_of(
        core_v1.Node.from_dict(
            {
                "metadata": {"name": "sgx-1", "resourceVersion": "7", "labels": {"tee": "sgx"}},
                "spec": {"taints": [{"key": "openenclave.io/sgx_epc_MiB", "value": "true", "effect": "NoSchedule"}]},
                "status": {
                    "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}],
                    "capacity": {"cpu": "2", "openenclave.io/sgx_epc_MiB": "40"},
                    "allocatable": {"cpu": "1930m", "memory": "10Mi", "openenclave.io/sgx_epc_MiB": "40"},
                },
            },
        ),
    )

    assert (node.name, node.resource_version, node.ready, node.labels) == ("sgx-1", "7", True, {"tee": "sgx"})
    assert node.taints == (Taint(key="openenclave.io/sgx_epc_MiB", value="true", effect="NoSchedule"),)
    assert node.allocatable == {"cpu": 1, "memory": 10 << 20, "openenclave.io/sgx_epc_MiB": 40}
    assert node.capacity["cpu"] == 2


def test_a_node_that_has_said_nothing_yet_is_not_ready():
    node = node_of(core_v1.Node.from_dict({"metadata": {"name": "new"}}))

    assert (node.ready, node.taints, node.allocatable) == (False, (), {})


def test_an_amount_that_is_no_quantity_is_refused():
    with pytest.raises(Refused):
        node_of(core_v1.Node.from_dict({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "many"}}}))


def test_a_pending_pod_carries_the_schedulers_own_sentence():
    pod = pod_of(core_v1.Pod.from_dict({"metadata": {"name": "p"}, "status": {"phase": "Pending", "conditions": [UNSCHEDULED]}}))

    assert pod.unschedulable == UNSCHEDULED["message"]
    assert not pod.finished


def test_a_pod_is_ready_when_its_kubelet_says_so():
    conditions = [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}]

    assert pod_of(core_v1.Pod.from_dict({"metadata": {"name": "p"}, "status": {"conditions": conditions}})).ready
    assert not pod_of(core_v1.Pod.from_dict({"metadata": {"name": "p"}, "status": {"conditions": conditions[:1]}})).ready


def test_a_taint_is_written_as_kubectl_writes_it():
    assert str(Taint(key="sku", value="sgx", effect="NoSchedule")) == "sku=sgx:NoSchedule"
    assert str(Taint(key="spot", value="", effect="NoExecute")) == "spot:NoExecute"


def test_a_very_long_message_is_cut():
    condition = UNSCHEDULED | {"message": "x" * 10**6}
    pod = pod_of(core_v1.Pod.from_dict({"metadata": {"name": "p"}, "status": {"conditions": [condition]}}))

    assert len(pod.unschedulable) == 2000


def test_container_states_come_with_reasons_exit_code_and_times():
    statuses = [
        {"name": "a", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}},
        {"name": "b", "state": {"running": {"startedAt": "2026-11-24T08:00:00Z"}}},
        {
            "name": "c",
            "state": {
                "terminated": {"exitCode": 3, "reason": "Error", "startedAt": "2026-11-24T08:00:00Z", "finishedAt": "2026-11-24T08:00:02Z"},
            },
        },
        {"name": "d", "state": {"terminated": {"exitCode": 128, "reason": "StartError", "startedAt": "1970-01-01T00:00:00Z"}}},
        {"name": "e"},
    ]
    complete = [{"image": "i", "imageID": "", "ready": False, "restartCount": 0} | status for status in statuses]
    pod = pod_of(core_v1.Pod.from_dict({"metadata": {"name": "p"}, "status": {"phase": "Failed", "containerStatuses": complete}}))

    waiting, running, ended, never, unknown = pod.containers
    assert (waiting.state, waiting.reason, waiting.message) == ("waiting", "ErrImagePull", "no such image")
    assert (running.state, running.started_at is None) == ("running", False)
    assert (ended.state, ended.exit_code, (ended.finished_at - ended.started_at).total_seconds()) == ("terminated", 3, 2.0)
    assert (never.exit_code, never.started_at) == (128, None)
    assert unknown.state == "waiting"
    assert pod.finished


@pytest.mark.parametrize(
    ("conditions", "outcome", "reason"),
    [
        ([], "", ""),
        ([{"type": "Suspended", "status": "True"}], "", ""),
        (
            [{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True", "reason": "CompletionsReached"}],
            "Complete",
            "CompletionsReached",
        ),
        ([{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}], "Failed", "BackoffLimitExceeded"),
        ([{"type": "Complete", "status": "False"}], "", ""),
    ],
)
def test_a_jobs_outcome_is_its_controllers_word(conditions, outcome, reason):
    job = job_of(batch_v1.Job.from_dict({"metadata": {"name": "j"}, "status": {"conditions": conditions}}))

    assert (job.outcome, job.reason, job.deleting) == (outcome, reason, False)


def test_a_job_that_is_being_deleted_says_so():
    assert job_of(batch_v1.Job.from_dict({"metadata": {"name": "j", "deletionTimestamp": "2026-11-24T08:00:00Z"}})).deleting


def test_an_event_is_dated_by_whatever_time_it_has():
    event = {"involvedObject": {"name": "j"}, "metadata": {"name": "e"}, "reason": "FailedCreate", "type": "Warning"}

    assert event_of(core_v1.Event.from_dict(event)).last_seen is None
    assert event_of(core_v1.Event.from_dict(event | {"eventTime": "2026-11-24T08:00:00.000001Z", "count": 3})).count == 3


def asking(amount=None, **fields):
    return {"name": "c", "resources": {"requests": {"sgx.intel.com/epc": amount}} if amount else {}} | fields


@pytest.mark.parametrize(
    ("containers", "init", "expected"),
    [
        ([asking("10Mi"), asking("2Mi"), asking()], [], 12 << 20),
        ([asking("10Mi")], [asking("4Mi"), asking("7Mi")], 10 << 20),
        ([asking("1Mi")], [asking("4Mi"), asking("7Mi")], 7 << 20),
        ([asking("1Mi")], [asking("4Mi", restartPolicy="Always"), asking("7Mi")], 11 << 20),
        ([asking("9Mi")], [asking("4Mi", restartPolicy="Always"), asking("7Mi")], 13 << 20),
        ([asking("1Mi")], [asking("7Mi"), asking("4Mi", restartPolicy="Always")], 7 << 20),
    ],
    ids=["side by side", "init below", "init above", "init beside a sidecar", "containers beside a sidecar", "sidecar after init"],
)
def test_a_pod_requests_the_most_that_it_needs_at_one_time(containers, init, expected):
    spec = {"containers": containers, "initContainers": init}

    assert pod_of(core_v1.Pod.from_dict({"metadata": {"name": "p"}, "spec": spec})).requests == {"sgx.intel.com/epc": expected}


def test_parts_of_a_unit_are_summed_before_they_are_rounded():
    spec = {"containers": [{"name": name, "resources": {"requests": {"cpu": "600m"}}} for name in "ab"]}

    assert pod_of(core_v1.Pod.from_dict({"metadata": {"name": "p"}, "spec": spec})).requests == {"cpu": 1}
