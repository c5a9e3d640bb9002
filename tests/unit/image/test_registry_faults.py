"""A registry that lies, breaks off, stalls, or wants a credential that is not its own. In memory: no network, no waiting."""

import base64
import hashlib
import json
import logging
import re

import httpx2
import pytest

from kubenclave.errors import KubenclaveError, NotFound, Refused, Unreachable, UsageError
from kubenclave.image import Access, Compression, ImageSpec, build_image, parse_reference, parse_remote
from kubenclave.image.reading.image import choose, load_image
from kubenclave.image.reading.parse import MAX_DOCUMENT_BYTES
from kubenclave.image.reading.source import open_local
from kubenclave.image.registry import blobs
from kubenclave.image.registry.client import MAX_ATTEMPTS, MAX_WAIT_SECONDS, RegistryClient
from kubenclave.image.registry.credentials import Credentials
from kubenclave.image.registry.pull import pull
from kubenclave.image.registry.push import push
from kubenclave.image.registry.remote import RemoteSource

HOST = "registry.example"
PASSWORD = "correct horse battery"  # noqa: S105 - of the tests' own registry
TOKEN = "token-of-alice"  # noqa: S105
ENTRA, REFRESH = "entra-token-of-alice", "refresh-of-acr"
BASIC = "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
ALICE = Access(credentials=Credentials(username="alice", password=PASSWORD))


class FakeRegistry:
    """The distribution protocol in a dictionary. ``fault`` is asked before every request and may answer instead."""

    def __init__(self, fault=lambda _request: None):
        self.blobs = {}
        self.manifests = {}
        self.uploads = {}
        self.requests = []
        self.fault = fault

    def __call__(self, request):
        body = request.read()
        self.requests.append((request.method, str(request.url), request.headers.get("Authorization", "")))
        return self.fault(request) or self.answer(request, body)

    def answer(self, request, body):
        method, path = request.method, request.url.path
        kind, _, name = path.removeprefix("/v2/team/hello/").partition("/")
        if kind == "manifests":
            return self.manifest(request, method, name, body)
        if kind == "blobs" and name.startswith("uploads"):
            return self.upload(request, method, name.removeprefix("uploads/"), body)
        if kind == "blobs" and name in self.blobs:
            data = self.blobs[name]
            first = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
            rest = data[int(first[1]) :] if first else data
            return httpx2.Response(206 if first else 200, content=b"" if method == "HEAD" else rest)
        return httpx2.Response(404)

    def manifest(self, request, method, name, body):
        if method == "PUT":
            kind = request.headers["Content-Type"]
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            self.manifests[name] = self.manifests[digest] = (kind, body)
            return httpx2.Response(201)
        if name not in self.manifests:
            return httpx2.Response(404)
        kind, data = self.manifests[name]
        return httpx2.Response(200, content=data, headers={"Content-Type": kind})

    def upload(self, request, method, name, body):
        if method == "POST":
            name = str(len(self.uploads))
            self.uploads[name] = b""
        elif method == "PATCH":
            begin = int(request.headers["Content-Range"].partition("-")[0])
            if begin != len(self.uploads[name]):
                return httpx2.Response(416, headers=self.place(name))
            self.uploads[name] += body
        elif method == "GET":
            return httpx2.Response(204, headers=self.place(name))
        elif method == "PUT":
            digest = request.url.params["digest"]
            if f"sha256:{hashlib.sha256(self.uploads[name]).hexdigest()}" != digest:
                return httpx2.Response(400, json={"errors": [{"code": "DIGEST_INVALID"}]})
            self.blobs[digest] = self.uploads[name]
            return httpx2.Response(201)
        return httpx2.Response(202, headers=self.place(name))

    def place(self, name):
        return {"Location": f"/v2/team/hello/blobs/uploads/{name}", "Range": f"0-{max(len(self.uploads[name]) - 1, 0)}"}


@pytest.fixture
def archive(tmp_path, make_elf):
    (tmp_path / "hello").write_bytes(make_elf())
    spec = ImageSpec(reference=parse_reference("hello:1"), host=tmp_path / "hello", compression=Compression.GZIP)
    return build_image(spec, tmp_path / "image.tar", lambda _: None)


class Wire(httpx2.BaseTransport):
    """Hands requests to a registry in memory and its answers back as a network would: in pieces, and once."""

    def __init__(self, registry):
        self.registry = registry

    def handle_request(self, request):
        answer = self.registry(request)
        try:
            stream = httpx2.ByteStream(answer.content)
        except httpx2.ResponseNotRead:
            stream = answer.stream
        return httpx2.Response(answer.status_code, headers=answer.headers, stream=stream)


class Waits(list):
    def __call__(self, seconds):
        self.append(seconds)


def client_of(registry, access=None, waits=None, **more):
    remote = parse_remote(f"{HOST}/team/hello:1")
    transport = Wire(registry)
    sleep = Waits() if waits is None else waits
    return RegistryClient(remote, access or Access(), actions="pull,push", transport=transport, sleep=sleep, **more)


def push_to(registry, archive, access=None, waits=None, mount_from=()):
    with open_local(archive.archive) as source:
        client = client_of(registry, access, waits, also_pull=mount_from)
        return push(client, source, choose(source), mount_from=mount_from, moved=lambda _blob, _done: None)


def filled(archive):
    registry = FakeRegistry()
    push_to(registry, archive)
    registry.requests.clear()
    return registry


def pull_from(registry, tmp_path, access=None, waits=None):
    client = client_of(registry, access, waits)
    return pull(client, RemoteSource(client), tmp_path / "pulled.tar", layout=False, moved=lambda _blob, _done: None)


def test_a_push_leaves_every_blob_and_sets_the_tag_last(archive):
    registry = FakeRegistry()

    pushed = push_to(registry, archive)

    assert set(registry.blobs) == {blob.digest for blob in pushed.blobs}
    assert {"1", archive.digest} <= set(registry.manifests)
    changes = [url for method, url, _ in registry.requests if method == "PUT"]
    assert changes[-1].endswith("/manifests/1")
    assert changes[-2].endswith(f"/manifests/{archive.digest}")


# --- passing failures ----------------------------------------------------------------------------------------------------------------


def once(*answers):
    """Give these answers first, each as a response or an exception."""
    left = list(answers)

    def fault(_request):
        if not left:
            return None
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return fault


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_failure_that_may_pass_is_tried_again(archive, status):
    waits = Waits()

    push_to(FakeRegistry(once(httpx2.Response(status))), archive, waits=waits)

    assert len(waits) == 1
    assert 0 < waits[0] <= MAX_WAIT_SECONDS


def test_what_retry_after_asks_for_is_waited(archive):
    waits = Waits()

    push_to(FakeRegistry(once(httpx2.Response(429, headers={"Retry-After": "7"}))), archive, waits=waits)

    assert waits == [7.0]


def test_more_patience_than_anybody_has_is_an_error_that_says_how_much(archive):
    with pytest.raises(Unreachable, match="asks to come back in 86400 seconds"):
        push_to(FakeRegistry(lambda _: httpx2.Response(503, headers={"Retry-After": "86400"})), archive)


def test_waiting_grows_and_ends(archive):
    registry, waits = FakeRegistry(lambda _: httpx2.Response(500)), Waits()

    with pytest.raises(Unreachable, match="answers with 500"):
        pull_from(registry, archive.archive.parent, waits=waits)

    assert len(waits) == MAX_ATTEMPTS - 1 == len(registry.requests) - 1
    assert waits[-1] > waits[0]


def test_a_push_that_fails_leaves_no_tag(archive):
    def fault(request):
        return httpx2.Response(500) if request.method == "PATCH" else None

    registry = FakeRegistry(fault)

    with pytest.raises(Unreachable):
        push_to(registry, archive)
    assert registry.manifests == {}


def test_a_broken_upload_goes_on_where_the_registry_stands(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(blobs, "CHUNK_BYTES", 50)
    registry = FakeRegistry()
    broken = []

    def fault(request):
        # Half of the second piece arrives, then the connection is gone.
        if request.method == "PATCH" and request.headers["Content-Range"].startswith("50-") and not broken:
            broken.append(request)
            name = request.url.path.rpartition("/")[2]
            registry.uploads[name] += request.read()[:20]
            raise httpx2.ReadError("connection reset")

    registry.fault = fault
    push_to(registry, archive)

    assert broken
    assert {f"sha256:{hashlib.sha256(data).hexdigest()}" for data in registry.blobs.values()} == set(registry.blobs)


def test_an_upload_that_the_registry_has_forgotten_begins_anew(archive, monkeypatch):
    monkeypatch.setattr(blobs, "CHUNK_BYTES", 50)
    registry = FakeRegistry()
    gone = []

    def fault(request):
        if request.method == "PATCH" and request.headers["Content-Range"].startswith("50-") and not gone:
            gone.append(True)
            return httpx2.Response(500)
        if request.method == "GET" and "/uploads/" in request.url.path:
            return httpx2.Response(404)
        return None

    registry.fault = fault

    assert push_to(registry, archive).digest == archive.digest


def test_a_registry_that_claims_more_than_was_sent_is_refused(archive):
    def fault(request):
        if request.method == "PATCH":
            return httpx2.Response(500)
        if request.method == "GET" and "/uploads/" in request.url.path:
            return httpx2.Response(204, headers={"Range": "0-99999999", "Location": request.url.path})
        return None

    with pytest.raises(Refused, match="claims to have more"):
        push_to(FakeRegistry(fault), archive)


def test_a_download_that_breaks_goes_on_where_it_stood(archive, tmp_path):
    registry = filled(archive)
    layer = archive.layers[0].digest
    broken = []

    class Half(httpx2.SyncByteStream):
        def __iter__(self):
            yield registry.blobs[layer][:30]
            raise httpx2.ReadError("connection reset")

    def fault(request):
        if request.method == "GET" and request.url.path.endswith(layer) and not broken:
            broken.append(True)
            return httpx2.Response(200, stream=Half())
        return None

    registry.fault = fault
    pulled = pull_from(registry, tmp_path)

    assert (pulled.digest, broken) == (archive.digest, [True])


# --- lies ----------------------------------------------------------------------------------------------------------------------------


def test_a_blob_of_another_digest_is_refused_and_nothing_is_left(archive, tmp_path):
    registry = filled(archive)
    layer = archive.layers[0].digest
    registry.blobs[layer] = bytes([registry.blobs[layer][0] ^ 1]) + registry.blobs[layer][1:]
    before = set(tmp_path.iterdir())

    with pytest.raises(Refused, match="is not what its digest says"):
        pull_from(registry, tmp_path)
    assert set(tmp_path.iterdir()) == before


def test_a_blob_that_is_too_long_is_refused(archive, tmp_path):
    registry = filled(archive)
    registry.blobs[archive.layers[0].digest] += b"more"

    with pytest.raises(Refused, match=r"larger than|not what its digest says"):
        pull_from(registry, tmp_path)


def test_a_blob_that_always_ends_early_is_given_up(archive, tmp_path):
    registry = filled(archive)
    layer = archive.layers[0].digest

    def fault(request):
        if request.method == "GET" and request.url.path.endswith(layer):
            return httpx2.Response(206 if "Range" in request.headers else 200, content=b"" if "Range" in request.headers else b"12345")
        return None

    registry.fault = fault

    with pytest.raises(Unreachable, match="ended too early"):
        pull_from(registry, tmp_path)


def test_a_manifest_of_another_digest_is_refused(archive):
    registry = filled(archive)
    kind, data = registry.manifests[archive.digest]
    registry.manifests[archive.digest] = (kind, data + b" ")
    client = client_of(registry)

    with pytest.raises(Refused, match="sends sha256"):
        RemoteSource(client).manifest(archive.digest)


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
def test_a_header_with_another_digest_is_refused(archive, tmp_path, method):
    registry = filled(archive)
    wrong = {"Docker-Content-Digest": f"sha256:{'0' * 64}"}

    def fault(request):
        if request.method != method:
            return None
        answer = FakeRegistry.answer(registry, request, request.read())
        answer.headers.update(wrong)
        return answer

    registry.fault = fault
    if method != "HEAD":
        registry.blobs.clear()

    with pytest.raises(Refused, match=r"[Dd]o not trust|says that|took|sends") as caught:
        pull_from(registry, tmp_path) if method == "GET" else push_to(registry, archive)
    assert "faulty registry" in caught.value.hint


def test_a_manifest_of_any_size_is_not_read(archive):
    def fault(_request):
        return httpx2.Response(200, content=(b"x" * 65536 for _ in range(1 + MAX_DOCUMENT_BYTES // 65536)))

    with pytest.raises(Refused, match=f"sends more than {MAX_DOCUMENT_BYTES} bytes"):
        RemoteSource(client_of(FakeRegistry(fault))).index()


@pytest.mark.parametrize("location", ["", "http://registry.example/v2/x", "ftp://elsewhere/x"])
def test_an_upload_that_leads_nowhere_is_an_error(archive, location):
    def fault(request):
        return httpx2.Response(202, headers={"Location": location} if location else {}) if request.method == "POST" else None

    with pytest.raises(Unreachable, match=r"does not say where|leads from https"):
        push_to(FakeRegistry(fault), archive)


# --- redirects -----------------------------------------------------------------------------------------------------------------------


def test_a_blob_elsewhere_is_fetched_without_the_login(archive, tmp_path):
    registry = filled(archive)
    layer = archive.layers[0].digest

    def fault(request):
        if request.url.host == "storage.example":
            return httpx2.Response(200, content=registry.blobs[layer])
        if request.headers.get("Authorization") != BASIC:
            return httpx2.Response(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        if request.method == "GET" and request.url.path.endswith(layer):
            return httpx2.Response(307, headers={"Location": "https://storage.example/blob?signature=of-the-storage"})
        return None

    registry.fault = fault
    pull_from(registry, tmp_path, ALICE)

    assert [shown for _, url, shown in registry.requests if "storage.example" in url] == [""]


def test_an_error_elsewhere_does_not_show_the_addresss_secret(archive, tmp_path):
    registry = filled(archive)

    def fault(request):
        if request.url.host == "storage.example":
            raise httpx2.ConnectError("refused")
        if request.method == "GET" and "/blobs/" in request.url.path:
            return httpx2.Response(307, headers={"Location": "https://storage.example/blob?signature=of-the-storage"})
        return None

    registry.fault = fault

    with pytest.raises(Unreachable) as caught:
        pull_from(registry, tmp_path)
    assert "of-the-storage" not in f"{caught.value.what} {caught.value.hint}"


@pytest.mark.parametrize("location", ["http://registry.example/x", "file:///etc/passwd", "ftp://x/"])
def test_a_redirect_out_of_https_is_not_followed(archive, tmp_path, location):
    registry = filled(archive)
    registry.fault = lambda request: httpx2.Response(302, headers={"Location": location}) if "/blobs/" in request.url.path else None

    with pytest.raises(Unreachable, match="leads from https"):
        pull_from(registry, tmp_path)


def test_redirects_without_end_are_given_up(archive, tmp_path):
    registry = FakeRegistry(lambda request: httpx2.Response(307, headers={"Location": str(request.url)}))

    with pytest.raises(Unreachable, match="leads elsewhere without end"):
        pull_from(registry, tmp_path)
    assert len(registry.requests) < 20


def test_what_is_sent_follows_no_redirect(archive):
    registry = FakeRegistry(
        lambda request: httpx2.Response(307, headers={"Location": "https://thief.example/"}) if request.method in ("PATCH", "PUT") else None
    )

    with pytest.raises(Unreachable):
        push_to(registry, archive)
    assert not [url for _, url, _ in registry.requests if "thief" in url]


# --- credentials ---------------------------------------------------------------------------------------------------------------------


def bearer(realm, more=""):
    return httpx2.Response(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="tests"{more}'})


def token_fault(realm, extra=lambda _request: None):
    def fault(request):
        if str(request.url).startswith(realm.partition("?")[0]):
            return httpx2.Response(200, json={"token": TOKEN})
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return extra(request) or bearer(realm)
        return None

    return fault


def test_a_registrys_own_token_server_gets_the_login(archive):
    registry = FakeRegistry(token_fault(f"https://{HOST}/token?account=x"))

    push_to(registry, archive, ALICE)

    asked = [(url, shown) for _, url, shown in registry.requests if "/token" in url]
    assert {shown for _, shown in asked} == {BASIC}
    assert "account=x" in asked[0][0]
    assert "scope=repository%3Ateam%2Fhello%3Apull%2Cpush" in asked[0][0]


@pytest.mark.parametrize(
    "realm",
    [
        "https://thief.example/token",
        f"https://{HOST}.thief.example/token",
        f"https://{HOST}:8443/token",
        f"https://{HOST}@thief.example/token",
        f"http://{HOST}/token",
        "https://thief.example/token?registry.example",
        "//thief.example/token",
        "file:///etc/passwd",
        "not an address at all",
        "https://user:secret@registry.example/token",
    ],
)
def test_no_other_realm_is_told_the_login(archive, realm):
    registry = FakeRegistry(token_fault(realm))

    with pytest.raises(Refused):
        push_to(registry, archive, ALICE)
    assert not [shown for _, url, shown in registry.requests if shown]
    assert registry.manifests == {}


def test_a_realm_that_changes_on_the_way_is_not_told_the_login(archive):
    """First the right token server, then, in the middle of the push, another one."""
    asked = []

    def fault(request):
        if request.url.path == "/token":
            return httpx2.Response(200, json={"token": TOKEN})
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return bearer(f"https://{HOST}/token")
        if request.method == "PATCH":
            asked.append(request)
            return bearer("https://thief.example/token")
        return None

    registry = FakeRegistry(fault)
    with pytest.raises(Refused, match=r"wants its login sent to thief.example"):
        push_to(registry, archive, ALICE)
    assert asked
    assert not [url for _, url, _ in registry.requests if "thief" in url]


def test_a_registry_cannot_ask_for_a_token_to_somebody_elses_repository(archive):
    challenge = ',scope="repository:somebody/else:push"'
    registry = FakeRegistry(token_fault(f"https://{HOST}/token", lambda _: bearer(f"https://{HOST}/token", challenge)))

    push_to(registry, archive, ALICE)

    assert not [url for _, url, _ in registry.requests if "somebody" in url]


def test_docker_hubs_token_server_is_known_and_an_allowed_one_is_believed(archive):
    registry = FakeRegistry(token_fault("https://auth.example/token"))
    access = Access(credentials=ALICE.credentials, auth_hosts=("auth.example",))

    push_to(registry, archive, access)

    assert {shown for _, url, shown in registry.requests if "auth.example" in url} == {BASIC}


def test_without_a_login_a_token_is_asked_for_anonymously(archive):
    registry = FakeRegistry(token_fault("https://auth.example/token"))

    push_to(registry, archive)

    assert {shown for _, url, shown in registry.requests if "auth.example" in url} == {""}


def test_nothing_that_a_server_sends_back_shows_a_secret(archive, caplog):
    caplog.set_level(logging.DEBUG)

    def fault(request):
        shown = request.headers.get("Authorization", "")
        if not shown:
            return httpx2.Response(401, headers={"WWW-Authenticate": "Basic"})
        return httpx2.Response(403, json={"errors": [{"code": "DENIED", "message": f"not with {shown} or {PASSWORD}"}]})

    with pytest.raises(Refused) as caught:
        push_to(FakeRegistry(fault), archive, ALICE)

    told = f"{caught.value.what} {caught.value.hint} {caught.value!r} {caplog.text}"
    assert "(secret)" in told
    assert PASSWORD not in told
    assert BASIC.split()[1] not in told


@pytest.mark.parametrize("answer", [{"token": "a\r\nX-Evil: 1"}, {"token": ""}, {}, [], {"token": ["x"]}])
def test_a_token_that_is_none_is_an_error(archive, answer):
    def fault(request):
        return httpx2.Response(200, json=answer) if request.url.path == "/token" else bearer(f"https://{HOST}/token")

    with pytest.raises(Unreachable, match="sends no token"):
        push_to(FakeRegistry(fault), archive, ALICE)


def test_a_token_server_that_sends_us_elsewhere_is_not_followed(archive):
    def fault(request):
        if request.url.path == "/token":
            return httpx2.Response(302, headers={"Location": "https://thief.example/token"})
        return bearer(f"https://{HOST}/token")

    registry = FakeRegistry(fault)
    with pytest.raises(Unreachable, match="answers with 302"):
        push_to(registry, archive, ALICE)
    assert not [url for _, url, _ in registry.requests if "thief" in url]


def test_a_challenge_of_an_unknown_kind_is_an_error(archive):
    with pytest.raises(Unreachable, match="kind that is not supported"):
        push_to(FakeRegistry(lambda _: httpx2.Response(401, headers={"WWW-Authenticate": "Negotiate"})), archive, ALICE)


def test_a_login_never_goes_to_another_machine_unencrypted():
    with pytest.raises(UsageError, match="sent unencrypted"):
        client_of(FakeRegistry(), Access(credentials=ALICE.credentials, plain_http=True))


# --- Azure Container Registry: a stand-in of its token exchange, simulated here from Microsoft's documentation ------------------------


def acr(request):
    if request.url.path == "/oauth2/exchange":
        form = httpx2.QueryParams(request.read().decode())
        ok = form["grant_type"] == "access_token" and form["access_token"] == ENTRA
        return httpx2.Response(200, json={"refresh_token": REFRESH}) if ok else httpx2.Response(401)
    if request.url.path == "/oauth2/token":
        form = httpx2.QueryParams(request.read().decode())
        ok = form["grant_type"] == "refresh_token" and form["refresh_token"] == REFRESH and form["scope"].endswith("pull,push")
        return httpx2.Response(200, json={"access_token": TOKEN}) if ok else httpx2.Response(401)
    if request.headers.get("Authorization") != f"Bearer {TOKEN}":
        return bearer(f"https://{request.url.host}/oauth2/token")
    return None


def acr_client(registry, host, **more):
    access = Access(entra_token=ENTRA, **more)
    return RegistryClient(parse_remote(f"{host}/team/hello:1"), access, actions="pull,push", transport=Wire(registry), sleep=Waits())


def test_an_entra_token_is_exchanged_at_a_simulated_azure_registry(archive):
    registry = FakeRegistry(acr)
    with open_local(archive.archive) as source:
        client = acr_client(registry, "tests.azurecr.io")

        push(client, source, choose(source), moved=lambda _blob, _done: None)

    assert [url for _, url, _ in registry.requests].count("https://tests.azurecr.io/oauth2/exchange") == 1


class Acr:
    """An Azure registry whose answers can be chosen: how long a token of its own holds, and what its two token places say."""

    def __init__(self, *, requests_per_token=10_000, refuse_refresh=False, exchange=None, realm=None):
        self.requests_per_token = requests_per_token
        self.refuse_refresh = refuse_refresh
        self.exchange = exchange or httpx2.Response(200, json={"refresh_token": REFRESH})
        self.realm = realm
        self.seen = []
        self.tokens = []
        self.left = 0

    def __call__(self, request):
        path, body = request.url.path, request.read().decode("latin-1")
        self.seen.append((str(request.url), request.headers.get("Authorization", ""), body))
        if path == "/oauth2/exchange":
            return self.exchange
        if path == "/oauth2/token":
            if self.refuse_refresh and self.tokens:
                return httpx2.Response(401, json={"errors": [{"code": "UNAUTHORIZED", "message": f"{REFRESH} has run out"}]})
            self.tokens.append(f"access-token-{len(self.tokens)}")
            self.left = self.requests_per_token
            return httpx2.Response(200, json={"access_token": self.tokens[-1], "expires_in": 60})
        if self.left and request.headers.get("Authorization") == f"Bearer {self.tokens[-1]}":
            self.left -= 1
            return None
        return bearer(self.realm or f"https://{request.url.host}/oauth2/token", ',error="invalid_token"' if self.tokens else "")

    def count(self, place):
        return sum(url.endswith(place) for url, *_ in self.seen)


def push_to_acr(acr, archive, **more):
    registry = FakeRegistry(acr)
    with open_local(archive.archive) as source:
        push(acr_client(registry, "tests.azurecr.io", **more), source, choose(source), moved=lambda _blob, _done: None)
    return registry


def test_a_token_that_runs_out_during_a_push_is_renewed_without_another_exchange(archive):
    acr = Acr(requests_per_token=3)

    registry = push_to_acr(acr, archive)

    assert "1" in registry.manifests
    assert len(acr.tokens) > 2
    assert acr.count("/oauth2/exchange") == 1
    # The Entra token is told once, where it is exchanged, and never stands in a header.
    assert [url for url, _, body in acr.seen if ENTRA in body] == ["https://tests.azurecr.io/oauth2/exchange"]
    assert not [shown for _, shown, _ in acr.seen if ENTRA in shown or REFRESH in shown]


def test_a_refresh_token_that_runs_out_during_a_push_ends_it_in_words_without_a_tag(archive, caplog):
    caplog.set_level(logging.DEBUG)
    acr = Acr(requests_per_token=3, refuse_refresh=True)

    with pytest.raises(Refused, match="does not accept the login") as caught:
        push_to_acr(acr, archive)

    told = f"{caught.value.what} {caught.value.hint} {caught.value!r} {caught.value.__cause__!r} {caplog.text}"
    assert not [secret for secret in (ENTRA, REFRESH, *acr.tokens) if secret in told]


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (httpx2.Response(401, json={"errors": [{"message": f"no: {ENTRA}"}]}), Refused, "does not accept the login"),
        (httpx2.Response(403), Refused, "does not accept the login"),
        (httpx2.Response(500, text=ENTRA), Unreachable, "answers with 500"),
        (httpx2.Response(200, json={"refresh_token": "a\r\nX-Evil: 1"}), Unreachable, "exchanges no token"),
        (httpx2.Response(200, json={"access_token": "another"}), Unreachable, "exchanges no token"),
        (httpx2.Response(200, text=f"<html>{ENTRA}"), Unreachable, "sends no token"),
        (httpx2.Response(200, text='{"refresh_token": "' + "x" * 300_000 + '"}'), Unreachable, "more than any token"),
        (httpx2.Response(302, headers={"Location": "https://thief.example/oauth2/exchange"}), Unreachable, "answers with 302"),
    ],
    ids=["401", "403", "500", "line-break", "other-token", "html", "endless", "redirect"],
)
def test_an_exchange_that_fails_is_an_error_that_shows_no_token(archive, answer, error, words):
    acr = Acr(exchange=answer)

    with pytest.raises(error, match=words) as caught:
        push_to_acr(acr, archive)

    assert ENTRA not in f"{caught.value.what} {caught.value.hint} {caught.value!r} {caught.value.__cause__!r}"
    assert not [url for url, *_ in acr.seen if "thief" in url]


@pytest.mark.parametrize("realm", ["https://thief.example/oauth2/token", "https://tests.azurecr.io.thief.example/oauth2/token"])
def test_what_an_azure_registry_exchanged_goes_to_no_other_realm(archive, realm):
    acr = Acr(realm=realm)

    with pytest.raises(Refused, match="wants its login sent to"):
        push_to_acr(acr, archive)

    assert not [url for url, *_ in acr.seen if "thief" in url]
    assert not [body for url, _, body in acr.seen if REFRESH in body]


def test_no_secret_of_the_exchange_is_shown_when_the_registry_sends_it_back(archive):
    acr = Acr()

    def fault(request):
        shown = f"{ENTRA} {REFRESH} {request.headers.get('Authorization')}"
        refused = httpx2.Response(403, json={"errors": [{"code": "DENIED", "message": shown}]})
        return acr(request) or refused

    with pytest.raises(Refused) as caught:
        push_to_acr(fault, archive)
    assert caught.value.what.count("(secret)") == 3
    assert not [secret for secret in (ENTRA, REFRESH, *acr.tokens) if secret in caught.value.what]


def test_an_entra_token_never_goes_out_unencrypted():
    with pytest.raises(UsageError, match="sent unencrypted"):
        acr_client(FakeRegistry(), "tests.azurecr.io", plain_http=True)


@pytest.mark.parametrize("host", ["tests.azurecr.io.thief.example", "azurecr.io.example", "registry.example"])
def test_an_entra_token_goes_to_no_other_registry(archive, host):
    registry = FakeRegistry(acr)
    with open_local(archive.archive) as source, pytest.raises(Refused, match="no Azure Container Registry"):
        push(acr_client(registry, host), source, choose(source), moved=lambda _blob, _done: None)
    assert not [url for _, url, _ in registry.requests if "exchange" in url]


# --- documents -----------------------------------------------------------------------------------------------------------------------


def test_a_tag_that_is_not_there_is_not_found():
    with pytest.raises(NotFound, match=r"registry\.example/team/hello does not have it"):
        RemoteSource(client_of(FakeRegistry())).index()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"schemaVersion":1}', b"{" * 100_000, b"\xff\xfe", b'{"config":{"digest":"sha256:../../x"}}']
)
def test_a_manifest_that_is_none_is_refused(body):
    registry = FakeRegistry()
    registry.manifests["1"] = ("application/vnd.oci.image.manifest.v1+json", body)
    source = RemoteSource(client_of(registry))

    with pytest.raises(KubenclaveError):
        load_image(source, source.index().manifests[0])


class ListingRegistry(FakeRegistry):
    """A registry that lists referrers itself (distribution-spec v1.1), so many on a page."""

    def __init__(self, page_size=100, next_page="/v2/team/hello/referrers/{digest}?page={page}"):
        super().__init__()
        self.page_size = page_size
        self.next_page = next_page
        self.referrers = {}

    def manifest(self, request, method, name, body):
        answer = super().manifest(request, method, name, body)
        subject = json.loads(body).get("subject") if method == "PUT" else None
        if subject is None:
            return answer
        kind, data = self.manifests[name]
        entry = {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
        known = self.referrers.setdefault(subject["digest"], [])
        known += [entry] if entry not in known else []
        return httpx2.Response(201, headers={"OCI-Subject": subject["digest"]})

    def answer(self, request, body):
        start, _, digest = request.url.path.rpartition("/")
        if not start.endswith("/referrers"):
            return super().answer(request, body)
        page = int(request.url.params.get("page", 0))
        listed = self.referrers.get(digest, [])
        rest = listed[page * self.page_size :]
        more = {"Link": f'<{self.next_page.format(digest=digest, page=page + 1)}>; rel="next"'} if len(rest) > self.page_size else {}
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": rest[: self.page_size]}
        return httpx2.Response(200, content=json.dumps(index).encode(), headers=more)


@pytest.fixture
def attested(tmp_path, make_elf):
    (tmp_path / "hello").write_bytes(make_elf())
    spec = ImageSpec(reference=parse_reference("hello:1"), host=tmp_path / "hello", attest=True)
    return build_image(spec, tmp_path / "attested.tar", lambda _: None)


@pytest.mark.parametrize("make", [ListingRegistry, lambda: ListingRegistry(page_size=1)], ids=["one page", "pages"])
def test_a_registry_that_lists_referrers_itself_gets_no_tag_for_them_and_gives_them_back(attested, tmp_path, make):
    registry = make()

    push_to(registry, attested)

    assert {name for name in registry.manifests if not name.startswith("sha256:")} == {"1"}
    assert sorted(pull_from(registry, tmp_path).attached) == sorted(item.descriptor.digest for item in attested.attached)


def test_a_registry_that_lists_none_keeps_them_under_the_tag_of_the_specification(attested, tmp_path):
    registry = FakeRegistry()

    push_to(registry, attested)

    assert {name for name in registry.manifests if not name.startswith("sha256:")} == {"1", attested.digest.replace(":", "-")}
    assert sorted(pull_from(registry, tmp_path).attached) == sorted(item.descriptor.digest for item in attested.attached)


def test_a_list_of_referrers_that_goes_on_elsewhere_or_without_end_is_given_up(attested, tmp_path):
    elsewhere = ListingRegistry(page_size=1, next_page="https://thief.example/{digest}?page={page}")
    push_to(elsewhere, attested, ALICE)
    with pytest.raises(Unreachable, match="leads elsewhere"):
        pull_from(elsewhere, tmp_path, ALICE)
    assert not [url for _, url, _ in elsewhere.requests if "thief" in url]

    endless = ListingRegistry(page_size=1, next_page="/v2/team/hello/referrers/{digest}?page=0")
    push_to(endless, attested)
    with pytest.raises(Refused, match="More than 64 things"):
        pull_from(endless, tmp_path)


def test_a_registrys_own_list_of_referrers_is_used(archive, tmp_path):
    registry = filled(archive)
    seen = []

    def fault(request):
        if "/referrers/" in request.url.path:
            seen.append(request.url.path)
            return httpx2.Response(200, content=json.dumps({"schemaVersion": 2, "manifests": []}).encode())
        return None

    registry.fault = fault

    assert pull_from(registry, tmp_path).attached == ()
    assert seen == [f"/v2/team/hello/referrers/{archive.digest}"]
