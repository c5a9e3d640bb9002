"""Push and pull against Debian's docker-registry: TLS, logins, tokens, mounts, and skopeo beside us."""

import base64
import contextlib
import http.server
import json
import os
import shutil
import ssl
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from kubenclave.errors import NotFound, Refused, UsageError
from kubenclave.image import (
    Access,
    AddedFile,
    ImageSpec,
    build_image,
    compare,
    find_credentials,
    look_at,
    open_image,
    parse_reference,
    parse_remote,
    pull_image,
    push_image,
    read_signing_key,
)

pytestmark = pytest.mark.integration

MAIN = "import sys; from kubenclave.cli import main; sys.exit(main())"
USER, PASSWORD = "alice", "correct horse battery"


@pytest.fixture
def image(tmp_path):
    """Build an image with two layers; ``changed`` changes the upper one."""

    def build(changed=b"", name="image.tar", **more):
        (tmp_path / "data").write_bytes(b"data of the application" + changed)
        spec = ImageSpec(
            reference=parse_reference("localhost/team/hello:1"),
            host=Path("/bin/true"),
            files=(AddedFile(source=tmp_path / "data", path="/app/data"),),
            **more,
        )
        return build_image(spec, tmp_path / name, lambda _: None)

    return build


def quietly(_blob, _done):
    pass


def push(image, name, access, **more):
    return push_image(image.archive, parse_remote(name), access, moved=quietly, **more)


def command(*words, env=None, cwd=None):
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(env or {})}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "image", *words], capture_output=True, text=True, env=environment, cwd=cwd, check=False
    )
    assert PASSWORD not in done.stdout + done.stderr
    return done


@pytest.fixture
def key(tmp_path):
    made = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "key.pem"
    path.write_bytes(made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public = tmp_path / "key.pub"
    public.write_bytes(made.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return path, public


def test_what_is_pushed_comes_back_the_same(registry, authority, image, tmp_path):
    built = image(attest=True)
    access = Access(ca=authority.ca)

    pushed = push(built, f"{registry.host}/team/back:1", access)
    pulled = pull_image(parse_remote(f"{registry.host}/team/back:1"), tmp_path / "back.tar", access, layout=False, moved=quietly)

    assert pushed.digest == pulled.digest == built.digest
    assert len(pushed.attached) == len(pulled.attached) == 2
    with open_image(str(built.archive)) as first, open_image(str(tmp_path / "back.tar")) as second:
        assert compare(first, second) == ()
        assert [note.says for note in look_at(second).attached] == [note.says for note in look_at(first).attached]


def test_a_layout_is_pulled_by_digest_and_inspected_where_it_lies(registry, authority, image, tmp_path):
    built = image()
    access = Access(ca=authority.ca)
    push(built, f"{registry.host}/team/digest:1", access)
    name = f"{registry.host}/team/digest@{built.digest}"

    pull_image(parse_remote(name), tmp_path / "layout", access, layout=True, moved=quietly)

    with open_image(str(tmp_path / "layout")) as local, open_image(name, access=access) as remote:
        assert look_at(local, check=True).layers == look_at(remote, check=True).layers
        assert look_at(remote).digest == built.digest


def test_only_what_changed_is_sent_again(registry, authority, image):
    access = Access(ca=authority.ca)
    first, second = image(), image(changed=b"!", name="second.tar")
    push(first, f"{registry.host}/team/again:1", access)

    pushed = push(second, f"{registry.host}/team/again:2", access)

    how = {blob.digest: blob.how.value for blob in pushed.blobs}
    assert how[second.layers[0].digest] == "was there"
    assert how[second.layers[1].digest] == "sent"


def test_blobs_of_another_repository_are_mounted_not_sent(registry, authority, image):
    access = Access(ca=authority.ca)
    built = image()
    push(built, f"{registry.host}/team/origin:1", access)

    pushed = push(built, f"{registry.host}/other/copy:1", access, mount_from=("team/unknown", "team/origin"))

    assert {blob.how.value for blob in pushed.blobs} == {"mounted"}
    assert pushed.sent_bytes == 0


def test_skopeo_sees_what_we_pushed(registry, authority, image, tmp_path):
    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo")
    built = image()
    push(built, f"{registry.host}/team/seen:1", Access(ca=authority.ca))
    (tmp_path / "certs").mkdir()
    shutil.copy(authority.ca, tmp_path / "certs" / "ca.crt")

    seen = subprocess.run(
        ["skopeo", "inspect", "--cert-dir", tmp_path / "certs", f"docker://{registry.host}/team/seen:1"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(seen.stdout)["Digest"] == built.digest


def test_what_skopeo_pushed_we_pull(registry, authority, image, tmp_path):
    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo")
    built = image()
    (tmp_path / "certs").mkdir()
    shutil.copy(authority.ca, tmp_path / "certs" / "ca.crt")
    target = f"docker://{registry.host}/team/theirs:1"
    words = ["skopeo", "copy", "--insecure-policy", "--dest-cert-dir", tmp_path / "certs", "--format", "v2s2"]
    subprocess.run([*words, f"oci-archive:{built.archive}", target], capture_output=True, check=True)

    with open_image(f"{registry.host}/team/theirs:1", access=Access(ca=authority.ca)) as theirs, open_image(str(built.archive)) as ours:
        assert theirs.image.manifest.media_type == "application/vnd.docker.distribution.manifest.v2+json"
        assert compare(theirs, ours) == ()


def test_a_registry_whose_certificate_nobody_vouches_for_is_not_spoken_with(registry, image):
    done = command("push", image().archive, f"{registry.host}/team/tls:1")

    assert done.returncode == 4
    assert "is not trusted" in done.stderr
    assert "--ca" in done.stderr


def test_an_image_that_is_not_there_is_not_found(registry, authority):
    with (
        pytest.raises(NotFound, match="team/gone does not have it"),
        open_image(f"{registry.host}/team/gone:1", access=Access(ca=authority.ca)),
    ):
        pass


# --- logins ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, start_registry, authority):
    """A registry with TLS that wants a name and a password."""
    if shutil.which("htpasswd") is None:
        pytest.skip("needs htpasswd (apache2-utils)")
    folder = tmp_path_factory.mktemp("guarded")
    line = subprocess.run(["htpasswd", "-nbB", USER, PASSWORD], capture_output=True, text=True, check=True).stdout
    (folder / "htpasswd").write_text(line)
    auth = f"auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}\n"
    with start_registry(folder, authority, auth=auth) as running:
        yield running


def docker_config(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return {"DOCKER_CONFIG": str(folder), "PATH": os.environ["PATH"]}


def test_a_login_of_docker_opens_the_registry(guarded, authority, image, tmp_path):
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    environment = docker_config(tmp_path / "docker", {"auths": {guarded.host: {"auth": auth}}})

    done = command("push", image().archive, f"{guarded.host}/team/basic:1", "--ca", authority.ca, env=environment)

    assert done.returncode == 0, done.stderr
    assert guarded.tags("team/basic") == {"1"}


def test_a_credential_helper_is_asked(guarded, authority, image, tmp_path):
    helper = tmp_path / "bin" / "docker-credential-tests"
    helper.parent.mkdir()
    answer = json.dumps({"Username": USER, "Secret": PASSWORD})
    helper.write_text(f"#!/bin/sh\nread host\ntest \"$1 $host\" = 'get {guarded.host}' && echo '{answer}'\n")
    helper.chmod(0o755)
    environment = docker_config(tmp_path / "docker", {"credHelpers": {guarded.host: "tests"}})
    environment["PATH"] = f"{helper.parent}:{environment['PATH']}"

    found = find_credentials(guarded.host, environment)
    done = command("push", image().archive, f"{guarded.host}/team/helper:1", "--ca", authority.ca, env=environment)

    assert (found.username, PASSWORD in repr(found)) == (USER, False)
    assert done.returncode == 0, done.stderr


def test_without_a_login_nothing_is_pushed_and_no_tag_is_there(guarded, authority, image):
    done = command("push", image().archive, f"{guarded.host}/team/nobody:1", "--ca", authority.ca)

    assert (done.returncode, guarded.tags("team/nobody")) == (3, set())
    assert f"docker login {guarded.host}" in done.stderr


def test_a_wrong_password_is_refused_and_not_shown(guarded, authority, image, tmp_path):
    auth = base64.b64encode(f"{USER}:{PASSWORD}-wrong".encode()).decode()
    environment = docker_config(tmp_path / "docker", {"auths": {guarded.host: {"auth": auth}}})

    done = command("push", image().archive, f"{guarded.host}/team/wrong:1", "--ca", authority.ca, "--debug", env=environment)

    assert done.returncode == 3
    assert auth not in done.stderr
    assert "does not accept the login" in done.stderr


class TokenServer(http.server.BaseHTTPRequestHandler):
    """Gives tokens as distribution's documentation describes them, signed for a registry that trusts this certificate."""

    def do_GET(self):
        self.answer(parse_qs(urlsplit(self.path).query), self.headers.get("Authorization", ""))

    def do_POST(self):
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.answer(form, form.get("refresh_token", [""])[0])

    def answer(self, asked, shown):
        self.server.seen.append(shown)
        accepted = (f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}", "identity-token-of-alice")
        if shown not in accepted:
            self.send_response(401)
            self.end_headers()
            return
        access = []
        for scope in (scope for text in asked["scope"] for scope in text.split()):
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        body = json.dumps({"token": self.token(asked["service"][0], access)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def token(self, service, access):
        certificate, key = self.server.signer
        chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
        claims = {"iss": "tests", "sub": USER, "aud": service, "access": access, "jti": "1"}
        claims |= {"exp": int(time.time()) + 60, "nbf": int(time.time()) - 60, "iat": int(time.time()) - 60}
        parts = [self.encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ES256", "x5c": chain}, claims)]
        r, s = decode_dss_signature(key.sign(".".join(parts).encode(), ec.ECDSA(SHA256())))
        return ".".join([*parts, self.encoded(r.to_bytes(32) + s.to_bytes(32))])

    @staticmethod
    def encoded(data):
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def token_registry(tmp_path_factory, start_registry, authority):
    """A registry that wants tokens of a server at another port, and that server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TokenServer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate, authority.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    certificate = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    server.signer = certificate, serialization.load_pem_private_key(authority.key.read_bytes(), None)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    auth = (
        f"auth:\n  token: {{realm: 'https://localhost:{server.server_port}/token', service: tests, issuer: tests,"
        f" rootcertbundle: {authority.certificate}}}\n"
    )
    with contextlib.ExitStack() as stack:
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        yield stack.enter_context(start_registry(tmp_path_factory.mktemp("tokens"), authority, auth=auth)), server


@pytest.mark.parametrize("login", [{"username": USER, "password": PASSWORD}, {"identitytoken": "identity-token-of-alice"}])
def test_a_token_server_that_is_allowed_gets_the_login_and_its_token_opens_the_registry(token_registry, authority, image, tmp_path, login):
    running, server = token_registry
    environment = docker_config(tmp_path / "docker", {"auths": {running.host: login}})
    words = ["--ca", authority.ca, "--auth-host", f"localhost:{server.server_port}", "--mount-from", "team/base"]

    done = command("push", image().archive, f"{running.host}/team/token:1", *words, env=environment)

    assert done.returncode == 0, done.stderr
    assert running.tags("team/token") == {"1"}


def test_a_token_server_elsewhere_is_not_told_the_login(token_registry, authority, image, tmp_path):
    running, server = token_registry
    environment = docker_config(tmp_path / "docker", {"auths": {running.host: {"username": USER, "password": PASSWORD}}})
    server.seen.clear()

    done = command("push", image().archive, f"{running.host}/team/leak:1", "--ca", authority.ca, env=environment)

    assert done.returncode == 3
    assert f"wants its login sent to localhost:{server.server_port}; it was not sent" in done.stderr
    assert (server.seen, running.tags("team/leak")) == ([], set())


def test_a_helper_that_is_not_there_is_named(tmp_path):
    environment = docker_config(tmp_path / "docker", {"credsStore": "nowhere"})

    done = command("inspect", "localhost:1/x:1", env=environment)

    assert done.returncode == 6
    assert "docker-credential-nowhere is not installed" in done.stderr


# --- signatures and what is attached -----------------------------------------------------------------------------------------------


def test_a_signature_is_found_in_the_registry_and_a_strangers_key_is_refused(registry, authority, image, key, tmp_path):
    built = image(attest=True, signing_key=read_signing_key(key[0]))
    name = f"{registry.host}/team/signed:1"
    push(built, name, Access(ca=authority.ca))
    stranger = tmp_path / "stranger.pub"
    made = ec.generate_private_key(ec.SECP256R1()).public_key()
    stranger.write_bytes(made.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))

    ours = command("inspect", name, "--ca", authority.ca, "--key", key[1], "--output", "json")
    theirs = command("inspect", name, "--ca", authority.ca, "--key", stranger)

    assert ours.returncode == 0, ours.stderr
    assert [note["signed"] for note in json.loads(ours.stdout)["attached"]].count(True) == 1
    assert theirs.returncode == 3
    assert "has no signature by the key" in theirs.stderr
    digest = built.digest.replace(":", "-")
    # docker-registry lists no referrers itself, so the tag of the specification stands in.
    assert registry.tags("team/signed") == {"1", digest, f"{digest}.sig"}


def test_a_second_push_leaves_one_list_of_referrers(registry, authority, image):
    built = image(attest=True)
    for _ in range(2):
        push(built, f"{registry.host}/team/twice:1", Access(ca=authority.ca))

    with open_image(f"{registry.host}/team/twice:1", access=Access(ca=authority.ca)) as opened:
        assert sorted(item.kind for item in opened.artifacts) == ["application/vnd.cyclonedx+json", "application/vnd.in-toto+json"]


def test_an_index_of_two_compressions_is_pushed_whole_and_pulled_whole(registry, authority, image, tmp_path):
    image(name="gzip.tar")
    done = command("build", "--host", "/bin/true", "--tag", "x", "--compression", "zstd", "-o", tmp_path / "zstd.tar")
    assert done.returncode == 0, done.stderr
    name = f"{registry.host}/team/both:1"
    joined = command("index", "gzip.tar", "zstd.tar", "--tag", "both:1", "-o", "both.tar", "--output", "json", cwd=tmp_path)
    assert joined.returncode == 0, joined.stderr

    assert command("push", tmp_path / "both.tar", name, "--ca", authority.ca).returncode == 0
    assert command("pull", name, "--ca", authority.ca, "--layout", tmp_path / "both").returncode == 0

    found = json.loads(command("inspect", tmp_path / "both", "--output", "json").stdout)
    told = json.loads(joined.stdout)
    assert (found["index_digest"], found["digest"]) == (told["digest"], told["images"][0])
    index = json.loads((tmp_path / "both/blobs/sha256" / told["digest"].partition(":")[2]).read_text())
    assert [item.get("annotations") for item in index["manifests"]] == [None, {"io.github.containers.compression.zstd": "true"}]


def test_an_image_goes_straight_into_a_registry(registry, authority):
    name = f"{registry.host}/team/straight:1"

    done = command("build", "--host", "/bin/true", "--tag", name, "--push", "--ca", authority.ca, "--output", "json")

    assert done.returncode == 0, done.stderr
    assert registry.tags("team/straight") == {"1"}
    assert json.loads(done.stdout)["pushed"]["digest"] == json.loads(done.stdout)["image"]["digest"]


# --- files as they are ---------------------------------------------------------------------------------------------------------------


def test_a_blob_that_is_not_what_its_digest_says_is_not_sent(registry, authority, image, tmp_path):
    built = image()
    data = bytearray(built.archive.read_bytes())
    place = data.index(b"data of the application") if b"data of the application" in data else 4096
    data[place] ^= 1
    (tmp_path / "bad.tar").write_bytes(data)

    with pytest.raises(Refused, match="is not what its digest says"):
        push_image(tmp_path / "bad.tar", parse_remote(f"{registry.host}/team/bad:1"), Access(ca=authority.ca), moved=quietly)
    assert registry.tags("team/bad") == set()


def test_a_login_over_plain_http_to_another_machine_is_refused():
    with (
        pytest.raises(UsageError, match="would be sent unencrypted"),
        open_image("registry.invalid/x:1", access=Access(credentials=find_credentials("x", {}) or _credentials(), plain_http=True)),
    ):
        pass


def _credentials():
    from kubenclave.image.registry.credentials import Credentials  # noqa: PLC0415

    return Credentials(username=USER, password=PASSWORD)


def test_a_pulled_archive_is_readable_by_others(registry, authority, image, tmp_path):
    push(image(), f"{registry.host}/team/mode:1", Access(ca=authority.ca))

    pull_image(parse_remote(f"{registry.host}/team/mode:1"), tmp_path / "x.tar", Access(ca=authority.ca), layout=False, moved=quietly)

    assert stat.S_IMODE((tmp_path / "x.tar").stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
