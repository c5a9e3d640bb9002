"""A secret is kept for its owner only, and its value is shown by nothing."""

from __future__ import annotations

import stat
from datetime import UTC, datetime

import pytest

from kubenclave.cluster.secrets import Files, Keyring, Secret, holds, is_expired, store
from kubenclave.errors import HostUnfit, Refused

CLIENT = "33333333-3333-4333-8333-333333333333"
SECRET = Secret(value="s-very-secret", expires="2027-01-02T00:00:00Z")


def test_a_secret_comes_back_as_it_was_and_is_readable_by_its_owner_only(tmp_path):
    files = Files(tmp_path / "a" / "secrets")
    assert files.find(CLIENT) is None
    files.keep(CLIENT, SECRET)
    files.keep(CLIENT.upper(), SECRET)
    assert files.find(CLIENT) == SECRET
    (path,) = (tmp_path / "a" / "secrets").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files.forget(CLIENT)
    files.forget(CLIENT)
    assert [*path.parent.iterdir()] == []


def test_a_folder_that_others_may_enter_is_closed_to_them(tmp_path):
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    Files(folder).keep(CLIENT, SECRET)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_link_in_the_place_of_folder_or_file_is_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "secrets").symlink_to(elsewhere)
    with pytest.raises(Refused):
        Files(tmp_path / "secrets").keep(CLIENT, SECRET)
    assert [*elsewhere.iterdir()] == []
    (elsewhere / f"{CLIENT}.json").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_text('{"secret": "x", "expires": ""}', encoding="ascii")
    with pytest.raises(HostUnfit):
        Files(elsewhere).find(CLIENT)


def test_a_secret_that_others_may_read_is_refused(tmp_path):
    files = Files(tmp_path)
    files.keep(CLIENT, SECRET)
    (tmp_path / f"{CLIENT}.json").chmod(0o644)
    with pytest.raises(Refused, match="Others may read"):
        files.find(CLIENT)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"secret": 1, "expires": ""}', b'{"secret": "", "expires": ""}', b"\xff", b"[" * 4096]
)
def test_a_file_that_holds_no_secret_holds_none(tmp_path, content):
    path = tmp_path / f"{CLIENT}.json"
    path.write_bytes(content)
    path.chmod(0o600)
    assert Files(tmp_path).find(CLIENT) is None


@pytest.mark.parametrize("client", ["", "../x", "a/b", "x" * 65, "a\n", "é"])
def test_a_client_id_that_is_none_becomes_no_path(tmp_path, client):
    with pytest.raises(Refused):
        Files(tmp_path / "secrets").keep(client, SECRET)
    assert not (tmp_path / "secrets").exists()


def test_where_nothing_can_be_written_it_says_so_without_the_secret(tmp_path):
    (tmp_path / "file").write_text("", encoding="ascii")
    with pytest.raises(HostUnfit) as failed:
        Files(tmp_path / "file" / "secrets").keep(CLIENT, SECRET)
    assert SECRET.value not in f"{failed.value.what}{failed.value.hint}"


def test_the_value_is_not_part_of_what_a_secret_is_shown_as():
    assert SECRET.value not in repr(SECRET)
    assert SECRET.value not in str(SECRET)


class FakeKeyring:
    def __init__(self):
        self.kept = {}
        self.locked = False

    def set_password(self, service, name, value):
        self.check(value)
        self.kept[service, name] = value

    def get_password(self, service, name):
        self.check("")
        return self.kept.get((service, name))

    def delete_password(self, service, name):
        del self.kept[service, name]

    def check(self, value):
        if self.locked:
            errors = pytest.importorskip("keyring.errors", reason="the Azure extra is not installed")
            raise errors.KeyringLocked(f"locked: {value}")


def test_a_keyring_keeps_gives_and_forgets():
    backend = FakeKeyring()
    keyring = Keyring(backend)
    assert keyring.find(CLIENT) is None
    keyring.keep(CLIENT, SECRET)
    assert [*backend.kept] == [("kubenclave", CLIENT)]
    assert keyring.find(CLIENT) == SECRET
    keyring.forget(CLIENT)
    keyring.forget(CLIENT)
    assert backend.kept == {}


def test_a_locked_keyring_is_told_without_its_own_words():
    backend = FakeKeyring()
    backend.locked = True
    with pytest.raises(HostUnfit, match="KeyringLocked") as failed:
        Keyring(backend).keep(CLIENT, SECRET)
    assert SECRET.value not in failed.value.what
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__


def test_a_keyring_that_no_operating_system_guards_is_not_used(tmp_path, monkeypatch):
    keyring = pytest.importorskip("keyring", reason="the Azure extra is not installed")
    monkeypatch.setattr(keyring, "get_keyring", FakeKeyring)
    assert isinstance(store(tmp_path), Files)
    guarded = type("SecretService", (FakeKeyring,), {"__module__": "keyring.backends.SecretService"})
    monkeypatch.setattr(keyring, "get_keyring", guarded)
    assert isinstance(store(tmp_path), Keyring)
    assert "SecretService" in store(tmp_path).where


NOW = datetime(2027, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expires", "expired"),
    [
        ("2027-01-02T00:00:00Z", True),
        ("2027-01-02T00:00:00.0000001Z", True),
        ("2027-01-02T00:00:01Z", False),
        ("2027-01-01T23:59:59", True),
        ("2027-01-02T00:30:00+01:00", True),
        ("", False),
        ("soon", False),
    ],
)
def test_a_secret_has_expired_at_its_end_and_one_without_a_readable_end_has_not(expires, expired):
    assert is_expired(Secret(value="s", expires=expires), NOW) is expired


def test_a_secret_that_has_expired_counts_as_none(tmp_path):
    files = Files(tmp_path / "secrets")
    assert not holds(files, CLIENT, NOW)
    files.keep(CLIENT, Secret(value="s", expires="2027-01-03T00:00:00Z"))
    assert holds(files, CLIENT, NOW)
    files.keep(CLIENT, Secret(value="s", expires="2027-01-01T00:00:00Z"))
    assert not holds(files, CLIENT, NOW)
