from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kubenclave.errors import KubenclaveError, NotFound, Refused
from kubenclave.kube import Container, Event, Job, Pod
from kubenclave.workload.situation import podless, situation_of

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def container(**changes):
    given = {"name": "enclave", "state": "waiting", "reason": "", "message": "", "exit_code": None, "started_at": None, "finished_at": None}
    return Container(**given | changes)


def pod(**changes):
    given = {
        "name": "hello-abc",
        "namespace": "default",
        "uid": "1",
        "labels": {},
        "created_at": NOON,
        "phase": "Pending",
        "node": "",
        "unschedulable": "",
        "reason": "",
        "message": "",
        "containers": (),
    }
    return Pod(**given | changes)


def job(**changes):
    given = {
        "name": "hello",
        "namespace": "default",
        "uid": "1",
        "annotations": {},
        "deleting": False,
        "outcome": "",
        "reason": "",
        "message": "",
    }
    return Job(**given | changes)


def failed_create(message):
    return Event(about="hello", kind="Warning", reason="FailedCreate", message=message, count=1, last_seen=NOON)


def test_a_pending_pod_is_explained_in_the_schedulers_own_words_and_waited_for():
    words = "0/2 nodes are available: 1 Insufficient openenclave.io/sgx_epc_MiB, 1 node(s) had untolerated taint(s)."
    situation = situation_of([pod(unschedulable=words)])

    assert situation.sentence == f"pod hello-abc is Pending: {words}"
    assert not situation.started
    assert situation.vain is None


def test_a_running_container_has_started():
    situation = situation_of([pod(phase="Running", node="sgx-1", containers=(container(state="running", started_at=NOON),))])

    assert situation.started
    assert situation.sentence == "pod hello-abc runs on node sgx-1"


def test_a_container_that_has_ended_has_started_too():
    ended = container(state="terminated", exit_code=0, started_at=NOON, finished_at=NOON)

    situation = situation_of([pod(phase="Succeeded", node="sgx-1", containers=(ended,))])

    assert situation.started
    assert situation.sentence == "pod hello-abc has ended on node sgx-1"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("ImagePullBackOff", NotFound),
        ("ErrImageNeverPull", NotFound),
        ("InvalidImageName", NotFound),
        ("CreateContainerConfigError", Refused),
    ],
)
def test_waiting_for_what_will_not_come_is_vain(reason, kind):
    situation = situation_of([pod(node="sgx-1", containers=(container(reason=reason, message="because"),))])

    assert type(situation.vain) is kind
    assert situation.vain.what == f"pod hello-abc on node sgx-1 cannot start: {reason}: because"


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing", "ErrImagePull", "CreateContainerError"])
def test_what_the_kubelet_tries_again_is_waited_for(reason):
    situation = situation_of([pod(node="sgx-1", containers=(container(reason=reason),))])

    assert situation.vain is None
    assert reason in situation.sentence


def test_a_pod_that_the_kubelet_did_not_admit_has_ended_and_says_why():
    situation = situation_of([pod(phase="Failed", node="sgx-1", reason="UnexpectedAdmissionError", message="Allocate failed")])

    assert situation.started
    assert "UnexpectedAdmissionError Allocate failed" in situation.sentence


def test_the_pod_that_still_lives_counts_before_one_that_has_ended():
    later = datetime(2026, 11, 24, 13, tzinfo=UTC)
    old, living, evicted = pod(name="old", phase="Failed"), pod(name="living"), pod(name="evicted", phase="Failed", created_at=later)

    assert situation_of([old, living, evicted]).pod is living
    assert situation_of([old, evicted]).pod is evicted


def test_a_job_whose_pod_the_cluster_refuses_is_not_waited_for():
    situation = podless(job(), [failed_create('pods "hello-abc" is forbidden: exceeded quota')])

    assert isinstance(situation.vain, Refused)
    assert "exceeded quota" in situation.vain.what


def test_a_job_that_failed_without_a_pod_is_not_waited_for():
    situation = podless(job(outcome="Failed", reason="DeadlineExceeded", message="too late"), [])

    assert type(situation.vain) is KubenclaveError
    assert situation.vain.what == "Job hello failed: too late"


def test_a_job_that_has_no_pod_yet_is_waited_for():
    assert podless(job(), []).sentence == "waiting for the Job's pod"
