from __future__ import annotations

import json
import threading

import pytest
from lightkube.resources import batch_v1, core_v1

from kubenclave.cli import main
from kubenclave.errors import KubenclaveError, NotFound, Refused
from kubenclave.kube import Taint
from kubenclave.workload import Request, choose, deploy, dialect_of

pytestmark = pytest.mark.integration

MIB = 1 << 20
TAINT = Taint(key="openenclave.io/sgx_epc_MiB", value="true", effect="NoSchedule")
LINES = [
    ("2026-11-24T08:00:00.100000000Z", "Hello world from the enclave"),
    ("2026-11-24T08:00:00.200000000Z", "MRENCLAVE 00ff"),
    ("2026-11-24T08:00:00.200000000Z", "MRENCLAVE 00ff"),
    ("2026-11-24T08:00:01.000000000Z", "simulated"),
]
TEXT = [f"{text}\n" for _, text in LINES]


@pytest.fixture
def sgx_node(make_node, kubelet):
    make_node("sgx-1", {"openenclave.io/sgx_epc_MiB": "40"}, kubelet.port)
    return "sgx-1"


@pytest.fixture
def carry_out(cluster, namespace):
    """Deploy a request and return its outcome, what was reported and its log."""

    def run(*, replace=False, timeout_seconds=20, on_line=None, **changes):
        given = {"image": "hello", "epc_bytes": 10 * MIB, "dialect": dialect_of("openenclave"), "name": "hello", "namespace": namespace}
        reported, lines = [], []
        outcome = deploy(
            cluster,
            Request(**given | changes),
            replace=replace,
            timeout_seconds=timeout_seconds,
            report=reported.append,
            on_line=on_line or lines.append,
        )
        return outcome, reported, lines

    return run


def uid_of_job(raw, namespace):
    return raw.get(batch_v1.Job, "hello", namespace=namespace).metadata.uid


def test_a_program_runs_on_the_sgx_node_and_its_log_is_passed_on_whole(carry_out, cluster, make_node, sgx_node, kubelet):
    make_node("plain-1", {}, kubelet.port)
    cluster.label_and_taint(sgx_node, ("tee", "sgx"), TAINT)
    kubelet.lines = LINES
    kubelet.end.set()

    outcome, reported, lines = carry_out()

    assert (outcome.succeeded, outcome.exit_code, outcome.node, outcome.adopted) == (True, 0, "sgx-1", False)
    assert (outcome.resource, outcome.units, outcome.epc_bytes) == ("openenclave.io/sgx_epc_MiB", 10, 10 * MIB)
    assert lines == TEXT
    assert outcome.log_complete
    assert reported[0].startswith("Job hello applied in namespace ")


def test_the_log_is_passed_on_while_the_program_still_runs(carry_out, sgx_node, kubelet):
    kubelet.lines = LINES
    seen = []

    def on_line(line):
        seen.append((line, kubelet.end.is_set()))
        if len(seen) == len(LINES):
            kubelet.end.set()

    outcome, _, _ = carry_out(on_line=on_line)

    assert [line for line, _ in seen] == TEXT
    assert not any(ended for _, ended in seen)
    assert outcome.succeeded


@pytest.mark.parametrize("ended", [False, True])
def test_a_log_whose_connection_breaks_is_taken_up_without_losing_or_repeating_a_line(ended, carry_out, sgx_node, kubelet):
    kubelet.lines = LINES
    kubelet.break_after = 2
    if ended:
        kubelet.end.set()
    lines = []

    def on_line(line):
        lines.append(line)
        if len(lines) == len(LINES):
            kubelet.end.set()

    carry_out(on_line=on_line)

    assert lines == TEXT
    assert any(request.get("sinceTime") for request in kubelet.log_requests)


def test_a_program_that_fails_is_an_outcome_with_its_exit_code_and_is_not_run_twice(carry_out, cluster, namespace, sgx_node, kubelet):
    kubelet.end.set()

    outcome, _, _ = carry_out(image="fails")

    assert (outcome.succeeded, outcome.exit_code, outcome.reason) == (False, 3, "Error")
    assert len(cluster.pods(namespace)) == 1


def test_running_it_again_finds_the_same_job_and_shows_how_it_ended(carry_out, raw, namespace, sgx_node, kubelet):
    kubelet.lines = LINES
    kubelet.end.set()
    carry_out()
    uid = uid_of_job(raw, namespace)

    outcome, reported, lines = carry_out()

    assert outcome.adopted
    assert lines == TEXT
    assert "--replace would run it anew" in reported[0]
    assert uid_of_job(raw, namespace) == uid


def test_an_interrupted_wait_is_taken_up_by_the_same_command(carry_out, raw, namespace, sgx_node, kubelet):
    kubelet.lines = LINES

    def interrupt(line):
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt):
        carry_out(on_line=interrupt)
    uid = uid_of_job(raw, namespace)
    kubelet.end.set()
    outcome, _, lines = carry_out()

    assert (outcome.adopted, outcome.succeeded, lines) == (True, True, TEXT)
    assert uid_of_job(raw, namespace) == uid


def test_another_request_under_the_same_name_is_refused_and_replaced_only_when_told(carry_out, raw, namespace, sgx_node, kubelet):
    kubelet.end.set()
    carry_out()
    uid = uid_of_job(raw, namespace)

    with pytest.raises(Refused, match="exists with another request") as raised:
        carry_out(epc_bytes=11 * MIB)
    assert "--replace" in raised.value.hint
    assert uid_of_job(raw, namespace) == uid

    outcome, reported, _ = carry_out(epc_bytes=11 * MIB, replace=True)
    assert (outcome.succeeded, outcome.units, outcome.adopted) == (True, 11, False)
    assert reported[0] == "deleting Job hello and its pod"
    assert uid_of_job(raw, namespace) != uid


def test_a_job_of_somebody_else_is_not_touched_even_when_told_to_replace(carry_out, raw, namespace, sgx_node):
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "theirs", "image": "theirs"}]}}
    raw.create(batch_v1.Job.from_dict({"metadata": {"name": "hello", "namespace": namespace}, "spec": {"template": template}}))
    uid = uid_of_job(raw, namespace)

    with pytest.raises(Refused, match="was not made by kubenclave"):
        carry_out(replace=True)

    assert uid_of_job(raw, namespace) == uid


def test_a_fifth_pod_is_reported_pending_in_the_schedulers_words_and_runs_when_one_has_finished(
    carry_out, cluster, namespace, sgx_node, kubelet
):
    others = [threading.Thread(target=carry_out, kwargs={"name": f"fill-{number}"}) for number in range(4)]
    for other in others:
        other.start()
    cluster.wait_for_pods(lambda pods: sum(pod.node != "" for pod in pods) == 4, namespace=namespace, timeout_seconds=20)

    with pytest.raises(KubenclaveError, match=r"the time is over and Job hello has not started: .*Insufficient openenclave"):
        carry_out(timeout_seconds=2)
    kubelet.end.set()
    outcome, reported, _ = carry_out()

    for other in others:
        other.join()

    assert outcome.succeeded
    assert outcome.adopted
    assert any("on node sgx-1" in sentence for sentence in reported)


def test_an_image_that_cannot_be_had_is_not_waited_for(carry_out, sgx_node):
    with pytest.raises(NotFound, match="ImagePullBackOff: no such image"):
        carry_out(image="missing")


def test_a_pod_that_the_kubelet_does_not_admit_fails_with_its_reason(carry_out, sgx_node):
    outcome, _, lines = carry_out(image="unadmitted")

    assert (outcome.succeeded, outcome.reason, lines) == (False, "UnexpectedAdmissionError Allocate failed", [])


def test_a_pod_that_a_quota_forbids_is_refused_with_the_quotas_words(carry_out, cluster, namespace, sgx_node):
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": namespace},
        "spec": {"hard": {"pods": "0"}},
    }
    cluster.apply([quota])

    with pytest.raises(Refused, match="exceeded quota"):
        carry_out(timeout_seconds=30)


def test_a_missing_namespace_is_not_found(carry_out, sgx_node):
    with pytest.raises(NotFound, match="nowhere"):
        carry_out(namespace="nowhere")


def test_what_the_cluster_offers_is_detected_from_its_nodes(cluster, sgx_node):
    assert choose(cluster.nodes(), 10 * MIB).dialect == dialect_of("openenclave")
    with pytest.raises(Refused, match="41 MiB of EPC are asked for, but the largest node, sgx-1, has 40 MiB"):
        choose(cluster.nodes(), 41 * MIB)


def test_the_command_shows_the_log_on_stdout_and_the_rest_on_stderr(control_plane, namespace, sgx_node, kubelet, capsys):
    kubelet.lines = LINES
    kubelet.end.set()
    words = ["deploy", "hello", "--epc", "10Mi", "--namespace", namespace, "--kubeconfig", str(control_plane.admin)]

    assert main(words) == 0

    captured = capsys.readouterr()
    assert captured.out.startswith("".join(TEXT))
    assert "succeeded     yes" in captured.out
    assert f"cluster: {control_plane.server} " in captured.err
    assert "EPC: openenclave.io/sgx_epc_MiB is what the cluster offers, on 1 node" in captured.err

    assert main([*words, "--output", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["outcome"]["adopted"] is True
    assert shown["log"] == [text for _, text in LINES]


def test_a_log_that_ends_within_a_line_does_not_run_into_the_table(control_plane, namespace, sgx_node, kubelet, capsys):
    kubelet.lines = [("2026-11-24T08:00:00.100000000Z", "no line feed")]
    kubelet.last_line_feed = b""
    kubelet.end.set()

    assert main(["deploy", "hello", "--epc", "10Mi", "--namespace", namespace, "--kubeconfig", str(control_plane.admin)]) == 0

    assert capsys.readouterr().out.splitlines()[:2] == ["no line feed", "job           hello"]


def test_the_commands_failures_have_their_exit_codes(control_plane, namespace, sgx_node, kubelet, capsys):
    kubelet.end.set()
    common = ["--epc", "1", "--namespace", namespace, "--kubeconfig", str(control_plane.admin)]

    assert main(["deploy", "fails", *common]) == 1
    assert "error: Job fails failed with exit code 3: Error\n" in capsys.readouterr().err
    assert main(["deploy", "fails", *common, "--dialect", "intel"]) == 5
    assert main(["deploy", "hello", *common[2:], "--epc", "41Mi"]) == 3
    assert main(["deploy", "hello", *common[:-1], "/nowhere"]) == 5


def test_preparing_a_node_tells_what_changed_and_the_second_time_nothing(control_plane, cluster, raw, sgx_node, capsys):
    words = ["node", "prepare", sgx_node, "--kubeconfig", str(control_plane.admin), "--output", "json"]

    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == ["label tee=sgx", "taint openenclave.io/sgx_epc_MiB=true:NoSchedule"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == []

    node = raw.get(core_v1.Node, sgx_node)
    assert node.metadata.labels["tee"] == "sgx"
    assert [(each.key, each.value, each.effect) for each in node.spec.taints] == [("openenclave.io/sgx_epc_MiB", "true", "NoSchedule")]
