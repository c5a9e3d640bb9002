"""What counts as a cluster's application, whatever the directory answers."""

from __future__ import annotations

from types import SimpleNamespace

from kubenclave.cluster.azure import graph
from kubenclave.cluster.azure.marks import directory_tag

SESSION = SimpleNamespace(subscription_id="22222222-2222-4222-8222-222222222222")


def application(name, created, tag):
    return {"id": name, "appId": name, "createdDateTime": created, "tags": [tag]}


def test_only_what_bears_the_whole_mark_is_taken_oldest_first_whatever_the_filter_lets_through(monkeypatch):
    ours, others = directory_tag(SESSION.subscription_id, "g/c"), directory_tag("33333333-3333-4333-8333-333333333333", "g/c")
    answer = [
        application("young", "2026-02-01", ours),
        application("foreign", "2025-01-01", others),
        application("old", "2026-01-01", ours),
    ]
    monkeypatch.setattr(graph, "ask_graph", lambda *_words, **_more: {"value": answer})
    assert [each["id"] for each in graph.marked_applications(SESSION, "g/c")] == ["old", "young"]
