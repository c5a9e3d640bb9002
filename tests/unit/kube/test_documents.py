from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import Refused
from kubenclave.kube import documents_of, name_of
from kubenclave.kube.documents import reference

GOOD, SECOND, THIRD = (f"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}}}" for name in "abc")


def test_every_object_in_a_file_is_found_in_order_lists_opened():
    text = f"---\n{GOOD}\n---\n---\napiVersion: v1\nkind: List\nitems:\n- {SECOND}\n- {THIRD}\n"

    assert [reference(document)[2] for document in documents_of(text, "file")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "- 1",
        "just words",
        "{kind: ConfigMap, metadata: {name: a}}",
        "{apiVersion: v1, kind: ConfigMap, metadata: [1]}",
        "!!python/object:os.system {}",
    ],
)
def test_what_holds_no_objects_is_refused(text):
    with pytest.raises(Refused):
        documents_of(text, "file")


@given(st.text())
def test_any_text_gives_objects_or_this_projects_refusal(text):
    try:
        documents = documents_of(text, "file")
    except Refused:
        return
    assert all(reference(document) for document in documents)


def test_an_object_is_said_by_kind_and_name():
    assert name_of({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}}) == "Pod p"
