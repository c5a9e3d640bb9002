"""A run that is killed at any request, before it was handled or after, is taken up by the next one: nothing twice, nothing left over.

In this process every request of a whole run is such a point; a sample of them by default, all with KUBENCLAVE_KILL_POINTS=all. Some more
are real: the stand-in sends the command line's process a SIGKILL amid its request.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import msgspec
import pytest

pytest.importorskip("azure.identity", reason="the Azure extra is not installed")

from kubenclave.cluster.azure import applying, clusters, groups
from kubenclave.cluster.azure.session import CloudSettings, open_session
from kubenclave.cluster.azure.transport import Transport
from kubenclave.cluster.secrets import Files
from kubenclave.cluster.spec import ClusterSpec, Identity, Mode, Pool, Sgx, SgxOptions
from kubenclave.cluster.steps.carrying import Watcher
from kubenclave.cluster.steps.plan import plan
from kubenclave.local.azure import Settings
from kubenclave.local.azure.server import serving
from kubenclave.local.azure.stand_in import StandIn
from kubenclave.local.azure.values import Reply

pytestmark = [
    pytest.mark.integration,
    # What a killed run leaves open, the kernel would close; here it is the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

# Every so many requests one is a kill point; a prime, so that the sample is not the same place of each round.
STRIDE = 1 if os.environ.get("KUBENCLAVE_KILL_POINTS") == "all" else 11
SIDES = ("before", "after")
# Real signals: requests of the command line's own process, half of these by default.
SIGNALS = (("up", 25, "after"), ("up", 31, "before"), ("down", 16, "after"), ("down", 20, "before"))


class Killed(Exception):  # noqa: N818 - what happens to the process, not an error of it
    """Takes the place of SIGKILL: no code of ours runs any request after it."""


@dataclass
class Killing:
    """Kills at one request of the client; counts them otherwise."""

    at: int = 0
    side: str = ""
    count: int = 0
    dead: bool = False

    def sent(self, really, *arguments, **options):
        with _LOCK:
            if self.dead:
                raise Killed
            self.count += 1
            mine = self.count == self.at
            if mine and self.side == "before":
                self.dead = True
                raise Killed
        answer = really(*arguments, **options)
        with _LOCK:
            self.dead = self.dead or mine
            if self.dead:
                raise Killed
        return answer


_LOCK = threading.Lock()


@pytest.fixture(scope="module")
def azure(tmp_path_factory):
    """A stand-in for all of the sweep, which keeps its state in memory for the assertions."""
    settings = Settings(operation_seconds=0.04, registration_seconds=0, replication_seconds=0.03, retry_after_seconds=0)
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        really = StandIn.__init__

        def remembered(self, state, **options):
            kept.append(state)
            really(self, state, **{**options, "save": lambda _raw: None})

        patch.setattr(StandIn, "__init__", remembered)
        with serving(tmp_path_factory.mktemp("azure"), settings) as running:
            yield running, kept[0]


@pytest.fixture(scope="module")
def session(azure):
    running, _ = azure
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sign_in(running).items():
            patch.setenv(name, value)
        patch.delenv("AZURE_SUBSCRIPTION_ID", raising=False)
        with open_session(CloudSettings(arm_endpoint=running.url, ca_file=running.ca)) as found:
            yield found


@dataclass(frozen=True)
class Bench:
    """What a sweep works with: the stand-in's state, a session with it, and a folder for secrets."""

    state: object
    session: object
    folder: object
    monkeypatch: object

    def job(self, name, identity):
        return job(self.session, cluster_spec(name, identity), self.folder)

    def killed(self, at, side, run, task):
        """Run until the kill; return whether it came to that: how many polls a run has is a matter of timing."""
        with killing(self.monkeypatch, Killing(at=at, side=side)) as killer, suppress(Killed):
            run(task)
        return killer.dead


@pytest.fixture
def bench(azure, session, tmp_path, monkeypatch):
    return Bench(state=azure[1], session=session, folder=tmp_path, monkeypatch=monkeypatch)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for module in (clusters, groups):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr("kubenclave.cluster.azure.work._REPLICATION_PAUSE_SECONDS", 0.01)


def sign_in(running):
    return {"AZURE_TENANT_ID": running.tenant, "AZURE_CLIENT_ID": running.client_id, "AZURE_CLIENT_SECRET": running.client_secret}


def cluster_spec(name, identity):
    pools = (Pool(name="system", vm_size="Standard_D2s_v5", mode=Mode.SYSTEM), Pool(name="sgx", vm_size="Standard_DC2s_v3"))
    return ClusterSpec(name=name, group=f"group-{name}", location="uksouth", pools=pools, identity=identity)


def job(session, spec, folder):
    return applying.Job(
        session=session, spec=spec, store=Files(folder), watcher=Watcher(news=lambda _: None, done=lambda _: None), timeout_seconds=30
    )


def up(task):
    return applying.up(task, applying.look(task))


def down(task):
    return applying.down(task, applying.look(task))


@contextmanager
def killing(monkeypatch, killer):
    really = Transport.send
    with monkeypatch.context() as patch:
        patch.setattr(Transport, "send", lambda self, *arguments, **options: killer.sent(really, self, *arguments, **options))
        yield killer


def ours(state, spec):
    """What the stand-in holds of a cluster: groups, clusters, applications, principals and assignments by number, and secrets."""
    tagged = [each for each in state.applications.values() if any(spec.owner in tag for tag in each.tags)]
    clients = {each.app_id for each in tagged}
    principals = [each.id for each in state.principals.values() if each.app_id in clients]
    return {
        "groups": sum(name == spec.group for name in state.groups),
        "clusters": sum(name == spec.owner for name in state.clusters),
        "applications": len(tagged),
        "principals": len(principals),
        "assignments": sum(spec.group in each.scope for each in state.assignments.values()),
        "node groups": sum(f"mc_{spec.group}_" in name for name in state.groups),
    }


def whole(identity):
    of_principal = 1 if identity is Identity.SERVICE_PRINCIPAL else 0
    return {
        "groups": 1,
        "clusters": 1,
        "applications": of_principal,
        "principals": of_principal,
        "assignments": of_principal,
        "node groups": 1,
    }


NOTHING = dict.fromkeys(whole(Identity.MANAGED), 0)


def points(requests):
    return [(at, side) for side in SIDES for at in range(1 + (STRIDE > 1 and side == "after") * 5, requests + 1, STRIDE)]


@pytest.mark.parametrize("identity", list(Identity))
def test_a_creation_killed_at_a_request_is_finished_by_the_next_up_and_all_of_it_goes_with_down(bench, identity):
    whole_run = bench.job("counted", identity)
    with killing(bench.monkeypatch, Killing()) as counted:
        up(whole_run)
    down(whole_run)
    killed = 0
    for at, side in points(counted.count):
        where, task = f"request {at} of {counted.count}, {side}", bench.job(f"up{at}{side}", identity)
        bench.state.providers.clear()
        killed += bench.killed(at, side, up, task)
        found = up(task)
        assert plan(task.spec, found) == (), where
        assert ours(bench.state, task.spec) == whole(identity), where
        assert len([*bench.folder.glob("*.json")]) == whole(identity)["applications"], where
        down(task)
        assert ours(bench.state, task.spec) == NOTHING, where
        assert [*bench.folder.iterdir()] == [], where
    logging.getLogger(__name__).info("%d kill points of %d requests, %s", killed, counted.count, identity)
    assert killed >= len(points(counted.count)) * 3 // 4


@pytest.mark.parametrize("identity", list(Identity))
def test_a_removal_killed_at_a_request_is_finished_by_the_next_down(bench, identity):
    whole_run = bench.job("counted", identity)
    up(whole_run)
    with killing(bench.monkeypatch, Killing()) as counted:
        down(whole_run)
    killed = 0
    for at, side in points(counted.count):
        where, task = f"request {at} of {counted.count}, {side}", bench.job(f"down{at}{side}", identity)
        up(task)
        killed += bench.killed(at, side, down, task)
        down(task)
        assert ours(bench.state, task.spec) == NOTHING, where
        assert [*bench.folder.iterdir()] == [], where
    logging.getLogger(__name__).info("%d kill points of %d requests, %s", killed, counted.count, identity)
    assert killed >= len(points(counted.count)) * 3 // 4


def test_a_change_killed_at_a_request_is_finished_by_the_next_up(bench):
    def changed(task):
        pools = (task.spec.pools[0], msgspec.structs.replace(task.spec.pools[1], count=2), Pool(name="new", vm_size="Standard_DC1s_v3"))
        return replace(task, spec=msgspec.structs.replace(task.spec, pools=pools, sgx=SgxOptions(by=Sgx.ADDON), tags={"team": "x"}))

    whole_run = bench.job("counted", Identity.MANAGED)
    up(whole_run)
    with killing(bench.monkeypatch, Killing()) as counted:
        up(changed(whole_run))
    down(whole_run)
    killed = 0
    for at, side in points(counted.count):
        where, task = f"request {at} of {counted.count}, {side}", bench.job(f"change{at}{side}", Identity.MANAGED)
        up(task)
        killed += bench.killed(at, side, up, changed(task))
        found = up(changed(task))
        assert plan(changed(task).spec, found) == (), where
        assert [(pool.name, pool.count) for pool in found.cluster.pools] == [("system", 1), ("sgx", 2), ("new", 1)], where
        assert ours(bench.state, task.spec) == whole(Identity.MANAGED), where
        down(task)
    logging.getLogger(__name__).info("%d kill points of %d requests, change", killed, counted.count)
    assert killed >= len(points(counted.count)) * 3 // 4


@dataclass
class Signalling:
    """Sends SIGKILL to a process amid one of its requests, before the stand-in handles it or before the answer leaves."""

    at: int
    side: str
    process: subprocess.Popen | None = None
    count: int = 0

    def answered(self, really, stand_in, request):
        with _LOCK:
            self.count += 1
            mine = self.count == self.at and self.process is not None
        if not mine:
            return really(stand_in, request)
        if self.side == "after":
            really(stand_in, request)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        return Reply(status=500, lost=True)


@pytest.mark.parametrize(("command", "at", "side"), SIGNALS if STRIDE == 1 else SIGNALS[::3])
def test_a_command_that_gets_a_sigkill_is_finished_by_the_same_command(azure, bench, command, at, side):
    (running, state), tmp_path, monkeypatch = azure, bench.folder, bench.monkeypatch
    # The command line polls every few seconds where Azure does not say when.
    monkeypatch.setattr(state.settings, "retry_after_seconds", 1)
    spec = cluster_spec(f"real{command}{at}", Identity.SERVICE_PRINCIPAL)
    file = tmp_path / "cluster.json"
    file.write_bytes(msgspec.json.encode(spec))
    environment = {
        **os.environ,
        **sign_in(running),
        "KUBENCLAVE_ARM_ENDPOINT": running.url,
        "KUBENCLAVE_CA_FILE": str(running.ca),
        "XDG_STATE_HOME": str(tmp_path),
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
    }

    def started(verb):
        words = ["cluster", verb, str(file), *(["--yes"] if verb == "down" else [])]
        code = "import sys; from kubenclave.cli import main; sys.exit(main())"
        return subprocess.Popen(
            [sys.executable, "-c", code, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(verb):
        with started(verb) as process:
            said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said

    if command == "down":
        run("up")
    signalling = Signalling(at=at, side=side)
    really = StandIn.answer
    with monkeypatch.context() as patch:
        patch.setattr(StandIn, "answer", lambda self, request: signalling.answered(really, self, request))
        with _LOCK:
            signalling.process = started(command)
        with signalling.process as process:
            process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    run(command)
    secrets = [*(tmp_path / "kubenclave" / "secrets").glob("*.json")]
    if command == "up":
        assert ours(state, spec) == whole(Identity.SERVICE_PRINCIPAL)
        assert len(secrets) == 1
        run("down")
    assert ours(state, spec) == NOTHING
    assert [*(tmp_path / "kubenclave" / "secrets").glob("*")] == []
