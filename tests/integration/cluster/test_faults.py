"""Reading while Azure throttles, fails, hangs up, forgets tokens, lies or is gone."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress

import msgspec
import pytest

from kubenclave.cluster.azure import parsing, reading, transport
from kubenclave.cluster.azure import session as session_module
from kubenclave.cluster.azure.patience import Patience
from kubenclave.cluster.azure.reading import read_found, read_offer
from kubenclave.cluster.azure.session import CloudSettings, open_session
from kubenclave.cluster.spec import Identity
from kubenclave.errors import KubenclaveError, NotFound, Refused, Unreachable, UsageError

pytestmark = pytest.mark.integration


@pytest.fixture
def waits(monkeypatch):
    """Do not wait, and keep for how long would have been waited."""
    kept = []
    monkeypatch.setattr(Patience, "pause", lambda _self, seconds: kept.append(seconds))
    return kept


def asked(control, method, path):
    return [each for each in control("GET", "/requests") if each["method"] == method and path.lower() in each["path"].lower()]


@pytest.mark.parametrize(
    "fault",
    [
        {"what": "reply", "status": 429, "retryAfter": 3, "times": 5},
        {"what": "reply", "status": 503, "times": 3},
        {"what": "reply", "status": 500, "times": 2},
        {"what": "dropped", "times": 3},
        {"what": "lost-reply", "times": 3},
    ],
)
def test_what_passes_is_waited_out(session, spec, control, waits, fault):
    wanted = (read_offer(session, spec), read_found(session, spec))
    for path in ("/skus", "/managedClusters/", "/v1.0/applications"):
        control("POST", "/faults", **fault, path=path, method="GET")

    assert (read_offer(session, spec), read_found(session, spec)) == wanted
    assert waits.count(3) == (15 if fault.get("retryAfter") else 0)


def test_a_storm_of_429_ends_after_a_bounded_number_of_tries_and_is_told(session, spec, control, waits):
    control("POST", "/faults", what="reply", status=429, retryAfter=2, times=None, path="/skus")

    with pytest.raises(Unreachable, match="takes no more requests for now") as found:
        read_offer(session, spec)
    assert "Listing the VM sizes of uksouth" in found.value.what
    assert len(asked(control, "GET", "/skus")) == 9
    assert [each for each in waits if each == 2] == [2] * 8


def test_a_retry_after_of_hours_is_told_and_not_slept_through(session, spec, control, waits):
    control("POST", "/faults", what="reply", status=429, retryAfter=7200, times=None, path="/skus")

    with pytest.raises(Unreachable, match="takes no more requests for now"):
        read_offer(session, spec)
    assert len(asked(control, "GET", "/skus")) == 1
    assert 7200 not in waits


def test_a_server_that_goes_on_failing_is_told(session, spec, control, waits):
    control("POST", "/faults", what="reply", status=503, code="ServerBusy", message="too busy", times=None, path="/usages")

    with pytest.raises(Unreachable, match="failed at its own end") as found:
        read_offer(session, spec)
    assert "too busy (ServerBusy)" in found.value.what
    assert len(asked(control, "GET", "/usages")) == 9
    assert sum(waits) < 60


def test_connections_that_go_on_breaking_are_told(session, spec, control, waits):
    control("POST", "/faults", what="dropped", times=None, path="/usages")

    with pytest.raises(Unreachable, match="broke off"):
        read_offer(session, spec)
    assert len(asked(control, "GET", "/usages")) == 5


@pytest.mark.parametrize("what", ["token-expired", "claims-challenge"])
def test_a_token_that_azure_no_longer_takes_is_renewed(session, spec, control, waits, what):
    wanted = read_found(session, spec)
    before = len(asked(control, "POST", "/token"))
    control("POST", "/faults", what=what, path="/resourcegroups/", times=1)

    assert read_found(session, spec) == wanted
    assert len(asked(control, "POST", "/token")) > before


def test_a_token_that_is_never_taken_is_told(session, spec, control, waits):
    control("POST", "/faults", what="token-expired", path="/skus", times=None)

    with pytest.raises(Refused, match="does not take the token") as found:
        read_offer(session, spec)
    assert "clock" in found.value.hint


@pytest.mark.parametrize("skew", [-86_400, 86_400])
def test_a_clock_that_is_a_day_off_changes_nothing(session, spec, control, skew):
    wanted = (read_offer(session, spec), read_found(session, spec))
    control("PATCH", "/settings", clock_skew_seconds=skew)

    assert (read_offer(session, spec), read_found(session, spec)) == wanted


def test_a_provider_is_not_registered_behind_the_users_back(session, spec, control, waits):
    control("POST", "/faults", what="reply", status=409, code="MissingSubscriptionRegistration", times=None, path="/kubernetesVersions")

    assert read_offer(session, spec).versions == ()
    assert asked(control, "POST", "/register") == []


def test_a_post_to_the_directory_is_not_repeated_after_a_failure_that_may_have_done_it(session, control, waits):
    from azure.core.rest import HttpRequest  # noqa: PLC0415 - after the skip

    control("POST", "/faults", what="reply", status=503, times=None, method="POST", path="/v1.0/applications")
    url = session.graph.format_url("/v1.0/applications")

    assert session.graph.send_request(HttpRequest("POST", url, json={"displayName": "x"})).status_code == 503
    assert len(asked(control, "POST", "/v1.0/applications")) == 1


@pytest.fixture
def away(monkeypatch):
    """Let names resolve only when told to."""
    resolve, state = socket.getaddrinfo, {"failures": 0}

    def resolved(*arguments, **options):
        if state["failures"] > 0:
            state["failures"] -= 1
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return resolve(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    return state


@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_a_network_that_is_gone_for_a_minute_is_waited_for_whatever_the_verb(session, waits, away, verb):
    session.resources.providers.get("Microsoft.Compute")
    session._transport.session.close()
    away["failures"] = 15
    ask = session.resources.providers.get if verb == "GET" else session.resources.providers.register

    assert ask("Microsoft.Compute").registration_state == "Registered"
    assert away["failures"] == 0
    assert sum(waits) > 60


def test_a_network_that_is_gone_while_a_token_is_due_is_waited_for(session, waits, away, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    session._transport.session.close()
    session._tokens.forget()
    away["failures"] = 40

    assert session.subscriptions.subscriptions.get(session.subscription_id).display_name == "Simulated subscription"
    assert away["failures"] == 0


def test_a_cloud_that_is_not_there_is_told_soon(monkeypatch, tmp_path):
    monkeypatch.setattr(session_module, "OPENING_SECONDS", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{taken.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(Unreachable, match="cannot be reached") as found, open_session(CloudSettings(arm_endpoint=url)):
            pass
    assert time.monotonic() - begun < 5
    assert url in found.value.what


def test_a_cloud_that_does_not_speak_is_told_soon(monkeypatch):
    monkeypatch.setattr(session_module, "OPENING_SECONDS", 0)
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(transport, "REPLY_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        settings = CloudSettings(arm_endpoint=f"https://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(Unreachable), open_session(settings):
            pass
    assert time.monotonic() - begun < 5


def test_a_name_that_does_not_exist_is_told_as_that(monkeypatch, away):
    monkeypatch.setattr(session_module, "OPENING_SECONDS", 0)
    away["failures"] = 100

    with pytest.raises(Unreachable, match="cannot be resolved"), open_session(CloudSettings(arm_endpoint="https://arm.invalid")):
        pass


def test_an_authority_that_is_not_trusted_is_told_at_once_with_the_option(signed_in, waits):
    with pytest.raises(Unreachable, match="not trusted") as found, open_session(CloudSettings(arm_endpoint=signed_in.arm_endpoint)):
        pass
    assert "--ca-file" in found.value.hint
    assert waits == []


def test_an_authoritys_file_that_is_not_there_is_told(signed_in, tmp_path):
    settings = CloudSettings(arm_endpoint=signed_in.arm_endpoint, ca_file=tmp_path / "none.pem")
    with pytest.raises(NotFound, match=r"none\.pem"), open_session(settings):
        pass


@pytest.mark.parametrize("endpoint", ["http://localhost:1", "localhost", "https://user@localhost", "ftp://x"])
def test_an_endpoint_that_is_no_https_url_is_a_mistake_of_the_user(endpoint):
    with pytest.raises(UsageError, match="no https URL"), open_session(CloudSettings(arm_endpoint=endpoint)):
        pass


def test_a_wrong_secret_is_told_in_entras_words_and_not_repeated(signed_in, monkeypatch):
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "wrong-secret-of-mine")
    with pytest.raises(Refused, match="AADSTS7000215") as found, open_session(signed_in):
        pass
    assert "wrong-secret-of-mine" not in f"{found.value.what}{found.value.hint}"


def test_nobody_signed_in_is_told_in_one_sentence(signed_in, monkeypatch, tmp_path):
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused) as found, open_session(signed_in):
        pass
    assert found.value.what == "Listing the subscriptions did not work: nobody is signed in to Azure."


def test_nothing_is_logged_that_could_hold_a_secret(signed_in, running, spec, caplog):
    caplog.set_level(logging.DEBUG)
    with open_session(signed_in) as session:
        read_offer(session, spec)
        token = session._tokens.get_token(f"{running.url}/.default").token

    assert running.client_secret not in caplog.text
    assert token not in caplog.text
    assert "Authorization" not in caplog.text


def test_an_interrupt_wakes_whoever_waits(session, spec, control):
    control("POST", "/faults", what="reply", status=429, retryAfter=100, times=None, path="/skus")
    failures = []

    def reading():
        try:
            read_offer(session, spec)
        except KubenclaveError as exc:
            failures.append(exc)

    thread = threading.Thread(target=reading)
    thread.start()
    time.sleep(0.5)
    session._transport.patience.end()
    thread.join(10)

    assert not thread.is_alive()
    assert len(failures) == 1


READING = """
from pathlib import Path
from kubenclave.cluster.azure.reading import read_found, read_offer
from kubenclave.cluster.azure.session import CloudSettings, open_session
from kubenclave.cluster.spec import ClusterSpec, Pool
spec = ClusterSpec(name="c", group="g", location="uksouth", pools=(Pool(name="a", vm_size="Standard_DC2s_v3"),))
with open_session(CloudSettings(arm_endpoint={endpoint!r}, ca_file=Path({ca!r}))) as session:
    {read}(session, spec)
"""


@pytest.mark.parametrize(("read", "path"), [("read_offer", "/skus"), ("read_found", "/managedClusters/c")])
def test_an_interrupt_ends_a_program_amid_a_slow_answer(signed_in, control, read, path):
    control("POST", "/faults", what="delay", seconds=30, times=None, path=path)
    program = READING.format(endpoint=signed_in.arm_endpoint, ca=str(signed_in.ca_file), read=read)
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as running:
        deadline = time.monotonic() + 20
        while not asked(control, "GET", path):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        begun = time.monotonic()
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=40)[1]

    assert time.monotonic() - begun < 1.5
    assert said.strip().endswith(b"KeyboardInterrupt")


def test_a_failure_of_one_answer_does_not_wait_for_another(session, spec, control):
    control("POST", "/faults", what="delay", seconds=20, times=None, path="/usages")
    control("POST", "/faults", what="reply", status=400, code="BadRequest", message="no", times=None, path="/skus")
    begun = time.monotonic()

    with pytest.raises(KubenclaveError):
        read_offer(session, spec)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("fault", [{"what": "reply", "status": 403}, {"what": "reply", "status": 500}, {"what": "dropped"}])
def test_a_directory_that_fails_is_told_where_it_is_needed_and_not_known_where_it_is_not(session, spec, control, waits, fault):
    control("POST", "/faults", **fault, times=None, path="/v1.0/applications")
    found = read_found(session, spec)

    assert found.principal is None
    assert found.directory_failure.startswith("Looking for the service principal of g/c did not work")
    with pytest.raises(KubenclaveError, match="Looking for the service principal"):
        read_found(session, msgspec.structs.replace(spec, identity=Identity.SERVICE_PRINCIPAL))


@pytest.mark.usefixtures("waits")
@pytest.mark.parametrize("fault", [{"status": 403, "code": "Authorization_RequestDenied"}, {"status": 500, "code": "InternalServerError"}])
def test_a_directory_that_fails_is_told_where_the_cluster_acts_by_a_service_principal(session, spec, control, monkeypatch, fault):
    answer = {"location": "uksouth", "properties": {"servicePrincipalProfile": {"clientId": "1"}}}
    monkeypatch.setattr(reading, "_cluster", lambda *_asked: parsing.cluster(answer))
    control("POST", "/faults", what="reply", **fault, times=None, path="/v1.0/applications")

    with pytest.raises(Unreachable, match="Looking for") if fault["status"] == 500 else nullcontext():
        assert read_found(session, spec).directory_failure


def test_a_directory_that_is_silent_is_not_waited_for_where_it_is_not_needed(session, spec, control, monkeypatch):
    monkeypatch.setattr(reading, "DIRECTORY_SECONDS", 0.2)
    control("POST", "/faults", what="delay", seconds=5, times=None, path="/v1.0/applications")
    begun = time.monotonic()

    assert "did not answer within" in read_found(session, spec).directory_failure
    assert time.monotonic() - begun < 4


def test_features_that_the_account_may_not_ask_for_are_not_known(session, spec, control):
    control("POST", "/faults", what="reply", status=403, code="AuthorizationFailed", times=None, path="/features/")

    assert read_found(session, msgspec.structs.replace(spec, features=("Microsoft.ContainerService/Gen2VMPreview",))).features == {}


def test_permissions_on_the_subscription_that_the_account_may_not_read_are_not_known(session, spec, control):
    session.resources.resource_groups.create_or_update(spec.group, {"location": "uksouth"})
    path = f"/subscriptions/{session.subscription_id}/providers/Microsoft.Authorization/permissions"
    control("POST", "/faults", what="reply", status=403, code="AuthorizationFailed", times=None, path=path)
    offer = read_offer(session, spec)

    assert offer.subscription_permissions is None
    assert offer.permissions[0].actions == ("*",)


GARBAGE = {
    "no JSON": b"<html>a proxy's page</html>",
    "half a JSON": b'{"value": [',
    "a number": b"5",
    "a list": b"[1, 2]",
    "entries of the wrong kind": b'{"value": [5, null, "x", {"name": [], "value": {}}]}',
    "no text": b"\xff\xfe\x00",
    "nested beyond all measure": b"[" * 200_000,
    "nothing": b"",
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_read_as_nothing_or_told_and_never_crashes(play, spec, content):
    with play(lambda *_asked: (200, {}, content)) as (session, _):
        for read in (read_offer, read_found):
            with suppress(KubenclaveError):
                read(session, spec)


def test_pages_without_end_are_given_up(play, spec, monkeypatch):
    monkeypatch.setattr("kubenclave.cluster.azure.reply.MAX_PAGES", 20)

    def answer(_method, path, _query, _body):
        return 200, {}, json.dumps({"value": [], "nextLink": f"{server.url}{path}?api-version=1&page=2"}).encode()

    with play(answer) as (session, server), pytest.raises(Unreachable, match="more than"):
        read_offer(session, spec)


def test_a_token_goes_to_no_other_host(play, spec):
    def answer(_method, _path, _query, _body):
        return 200, {}, json.dumps({"value": [], "nextLink": "https://elsewhere.invalid/steal?api-version=1"}).encode()

    with play(answer) as (session, _), pytest.raises(Unreachable, match=r"points to https://elsewhere\.invalid"):
        read_offer(session, spec)


def test_an_answer_of_any_length_is_cut_off(play, spec, monkeypatch):
    monkeypatch.setattr(transport, "MAX_REPLY_BYTES", 1 << 20)
    with play(lambda *_asked: (200, {}, b" " * (3 << 20))) as (session, _), pytest.raises(Unreachable, match="longer than 1 MiB"):
        read_offer(session, spec)


@pytest.mark.parametrize(
    "endpoints", [{}, {"authentication": {"loginEndpoint": "http://localhost", "audiences": ["x"]}}, {"authentication": 5}]
)
def test_a_server_that_is_no_resource_manager_is_told(play, endpoints):
    opened = play(lambda *_asked: (404, {}, b"{}"), own={"/metadata/endpoints": endpoints})

    with pytest.raises(Unreachable, match="does not say where"), opened:
        pass


def test_every_request_says_who_asks(play, spec):
    with play(lambda *_asked: (200, {}, b'{"value": []}')) as (session, server):
        read_offer(session, spec)

    agents = {agent for _, path, agent in server.asked if "/token" not in path and "openid" not in path}
    assert len(agents) == 1
    assert agents.pop().startswith("kubenclave/")
