"""API servers with admission rules, each with the rules of some files alone."""

from __future__ import annotations

import json
import time

import pytest

# The API server sees a change of its policies within a second or two.
SECONDS = 90


class Api:
    """Asks the API server what it would make of an object, without keeping it."""

    def __init__(self, cluster):
        self.cluster = cluster

    def asked(self, document):
        return self.cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(document))

    def admits(self, document):
        result = self.asked(document)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)["spec"]

    def refuses(self, document):
        result = self.asked(document)
        assert result.returncode != 0, "admitted"
        return result.stderr

    def until(self, condition, what):
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"not seen within {SECONDS} s: {what}"
            time.sleep(0.2)

    def refuses_soon(self, document):
        self.until(lambda: self.asked(document).returncode != 0, "a refusal")
        return self.refuses(document)

    def admits_soon(self, document):
        self.until(lambda: self.asked(document).returncode == 0, "an admission")
        return self.admits(document)

    def apply(self, *documents):
        for document in documents:
            self.cluster.apply(document)

    def said(self, document):
        """Return what refuses the object; empty where nothing does."""
        result = self.asked(document)
        return result.stderr if result.returncode else ""


@pytest.fixture(scope="module")
def bring(shell):
    """Brings up a cluster in which these objects are applied; whether they are in force already is for the test to see."""
    names = []

    def up(name, documents):
        shell.down(name)
        names.append(name)
        api = Api(shell.up(name))
        api.apply(*documents)
        return api

    yield up
    for name in names:
        shell.down(name)
