from __future__ import annotations

import json

import pytest

from kubenclave.errors import KubenclaveError
from kubenclave.install.render import Words, render
from kubenclave.install.tolerations import parse_toleration

AGENT = """kind: DaemonSet
apiVersion: apps/v1
metadata: {name: kubenclave-node}
spec:
      tolerations:
        - key: ours
          operator: Exists
      containers:
        - name: agent
          image: kubenclave/node:local
          args:
            - --dialect=openenclave
            - --host-root=/host
          securityContext:
            capabilities:
              drop: [ALL]
          volumeMounts:
            - name: dev
              mountPath: /host/dev
      volumes:
        - name: dev
          hostPath:
            path: /dev
"""


def agent(text=AGENT, **changes):
    (document,) = render(text, "agent.yaml", Words(**({"image": "i", "dialect": "azure"} | changes)))
    return document["spec"]["containers"][0]


def test_image_dialect_and_arguments_take_their_places():
    rendered = agent(image="example/node@sha256:abc", arguments=("--reserve=2Mi",))

    assert rendered["image"] == "example/node@sha256:abc"
    assert rendered["args"] == ["--dialect=azure", "--host-root=/host", "--reserve=2Mi"]


@pytest.mark.parametrize("odd", ["a: b", "x # y", "'\"", "line\nbreak", "{{ .Values.image }}", "&a", "- --x", "é\u2028"])
def test_whatever_is_given_stays_one_string(odd):
    rendered = agent(image=odd, arguments=(odd,))

    assert rendered["image"] == odd
    assert rendered["args"][2:] == [odd]


@pytest.mark.parametrize("missing", ["          image: kubenclave/node:local\n", "            - --host-root=/host\n"])
def test_an_agents_file_without_the_words_to_exchange_is_refused(missing):
    with pytest.raises(KubenclaveError, match=r"agent\.yaml does not hold"):
        agent(AGENT.replace(missing, ""))


def test_other_objects_pass_as_they_are():
    (document,) = render("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n", "x.yaml", Words(image="i", dialect="azure"))

    assert document == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}


def test_the_rules_learn_what_the_largest_node_has():
    rule = "apiVersion: v1\nkind: Rule\nmetadata: {name: x}\nspec:\n  - name: largest\n    expression: '{}'\n"

    (document,) = render(rule, "x.yaml", Words(image="i", dialect="azure", largest={"azure": 40, "intel": 4096}))

    assert document["spec"][0]["expression"] == '{"azure": 40, "intel": 4096}'


def test_further_tolerations_are_the_agents_and_those_that_the_rules_give_to_epc_pods():
    rule = "---\napiVersion: v1\nkind: Rule\nmetadata: {name: x}\nspec:\n  - name: further\n    expression: '[]'\n"
    tolerations = (parse_toleration("example.com/sku=sgx:NoSchedule"), parse_toleration("spot:NoExecute"))
    further = [
        {"key": "example.com/sku", "operator": "Equal", "value": "sgx", "effect": "NoSchedule"},
        {"key": "spot", "operator": "Exists", "effect": "NoExecute"},
    ]

    agent, policy = render(AGENT + rule, "x.yaml", Words(image="i", dialect="azure", tolerations=tolerations))
    plain_agent, plain_policy = render(AGENT + rule, "x.yaml", Words(image="i", dialect="azure"))

    assert agent["spec"]["tolerations"] == [*further, {"key": "ours", "operator": "Exists"}]
    assert json.loads(policy["spec"][0]["expression"]) == further
    assert (plain_agent["spec"]["tolerations"], plain_policy["spec"][0]["expression"]) == ([{"key": "ours", "operator": "Exists"}], "[]")


def test_to_see_what_containers_map_the_agent_gets_one_capability_and_two_read_only_mounts():
    (document,) = render(AGENT, "agent.yaml", Words(image="i", dialect="azure", mapped=True))
    (container,) = document["spec"]["containers"]

    assert container["args"][-1] == "--mapped"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["SYS_PTRACE"]}
    assert [(each["mountPath"], each.get("readOnly")) for each in container["volumeMounts"]] == [
        ("/host/proc", True),
        ("/host/var/log/containers", True),
        ("/host/dev", None),
    ]
    assert [each["hostPath"]["path"] for each in document["spec"]["volumes"]] == ["/proc", "/var/log/containers", "/dev"]
    assert agent()["securityContext"]["capabilities"] == {"drop": ["ALL"]}
