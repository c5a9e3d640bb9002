from __future__ import annotations

import pytest

from kubenclave.errors import KubenclaveError
from kubenclave.install.render import render

AGENT = """kind: DaemonSet
apiVersion: apps/v1
metadata: {name: kubenclave-node}
spec:
      containers:
        - name: agent
          image: kubenclave/node:local
          args:
            - --dialect=openenclave
            - --host-root=/host
"""


def agent(text=AGENT, **changes):
    (document,) = render(text, "agent.yaml", **({"image": "i", "dialect": "azure"} | changes))
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
    (document,) = render("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n", "x.yaml", image="i", dialect="azure")

    assert document == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
