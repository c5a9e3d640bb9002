"""A kubeconfig that Azure hands out is merged as az does it; whatever else the file holds is kept."""

from __future__ import annotations

import os
import stat

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.cluster.kubeconfig import LARGEST_BYTES, handed_out, merge, read, write
from kubenclave.errors import HostUnfit, Refused


def config(name="c", user="clusterUser_g_c", server="https://c.example:443", token="t", **more):  # noqa: S107 - a token of a test
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": "QQ=="}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
        "preferences": {},
        **more,
    }


def handed(**options):
    return handed_out(yaml.safe_dump(config(**options)).encode())


NEW = "another"
OTHER = b"""apiVersion: v1
kind: Config
current-context: other
unknown: {kept: [1, two]}
clusters:
- {name: other, cluster: {server: "https://other", extensions: [{name: x}]}}
users:
- {name: other, user: {auth-provider: {config: {expiry: 2026-01-02T03:04:05Z, on: true}}}}
contexts:
- {name: other, context: {cluster: other, user: other, namespace: n}}
"""


def test_without_a_file_it_is_what_was_handed_out():
    merged = merge(None, handed(), overwrite=False)
    assert yaml.safe_load(merged.text) == config()
    assert merged.context == "c"


def test_entries_of_others_and_fields_that_nobody_knows_are_kept():
    merged = merge(OTHER, handed(), overwrite=False)
    found = yaml.load(merged.text, Loader=yaml.BaseLoader)  # noqa: S506 - makes texts only
    before = yaml.load(OTHER, Loader=yaml.BaseLoader)  # noqa: S506 - as above
    for section in ("clusters", "users", "contexts"):
        assert [entry["name"] for entry in found[section]] == ["other", "c" if section != "users" else "clusterUser_g_c"]
        assert found[section][0] == before[section][0]
    assert found["unknown"] == before["unknown"]
    assert found["current-context"] == "c"


def test_the_same_twice_changes_nothing():
    once = merge(OTHER, handed(), overwrite=False)
    assert merge(once.text.encode(), handed(), overwrite=False) == once


def test_another_entry_of_the_same_name_is_replaced_only_where_it_is_asked_for():
    once = merge(OTHER, handed(), overwrite=False).text.encode()
    with pytest.raises(Refused, match="clusterUser_g_c") as refused:
        merge(once, handed(token=NEW), overwrite=False)
    assert "--overwrite-existing" in refused.value.hint
    found = yaml.safe_load(merge(once, handed(token=NEW), overwrite=True).text)
    assert [entry["name"] for entry in found["users"]] == ["other", "clusterUser_g_c"]
    assert found["users"][1]["user"] == {"token": NEW}


def test_the_context_of_an_administrator_has_a_name_of_its_own():
    merged = merge(merge(None, handed(), overwrite=False).text.encode(), handed(user="clusterAdmin_g_c"), overwrite=False)
    found = yaml.safe_load(merged.text)
    assert [entry["name"] for entry in found["contexts"]] == ["c", "c-admin"]
    assert found["current-context"] == merged.context == "c-admin"


def test_what_has_that_name_already_is_not_given_it_twice():
    assert handed(name="c-admin", user="clusterAdmin_g_c")["current-context"] == "c-admin"


@pytest.mark.parametrize(("program", "told"), [("kubelogin", "takes the program kubelogin"), ("/x/evil", "runs '/x/evil'")])
def test_a_program_that_signing_in_runs_is_said(program, told):
    users = [{"name": "clusterUser_g_c", "user": {"exec": {"command": program, "args": []}}}]
    merged = merge(None, handed(users=users), overwrite=False)
    (remark,) = merged.remarks
    assert told in remark
    assert merged.runs == (program,)


@pytest.mark.parametrize("field", ["certificate-authority", "client-certificate", "client-key", "tokenFile"])
def test_an_answer_that_names_a_file_of_this_machine_is_refused(field):
    with pytest.raises(Refused, match=field):
        handed(users=[{"name": "clusterUser_g_c", "user": {field: "/etc/shadow"}}])


@pytest.mark.parametrize("field", ["insecure-skip-tls-verify", "proxy-url"])
def test_a_weak_connection_is_said(field):
    clusters = [{"name": "c", "cluster": {"server": "https://c", field: True}}]
    assert field in merge(None, handed(clusters=clusters), overwrite=False).remarks[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"server": "http://c"},
        {"server": "file:///etc"},
        {"server": "https://"},
        {"server": "https://[x"},
        {"clusters": []},
        {"users": None},
        {"contexts": [{"name": "c", "context": {"cluster": "other", "user": "clusterUser_g_c"}}]},
        {"contexts": [{"name": 3}]},
        {"clusters": {"name": "c"}},
        {"kind": "Secret"},
    ],
)
def test_an_answer_without_use_is_refused(changes):
    with pytest.raises(Refused):
        handed(**changes)


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"text", b"a: [", b"\xff", b"a: &x [1]\nb: *x", b"[" * 5000, b"x" * (LARGEST_BYTES + 1), b"!!python/object:os.system {}"],
)
def test_what_is_no_kubeconfig_is_refused(raw):
    with pytest.raises(Refused):
        handed_out(raw)
    if raw:
        with pytest.raises(Refused):
            merge(raw, handed(), overwrite=True)


def test_json_is_yaml_enough():
    assert (
        handed_out(
            b'{"clusters":[{"name":"c","cluster":{"server":"https://c"}}],"users":[{"name":"u"}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}]}'
        )["current-context"]
        == "c"
    )


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=5,
)


@given(st.dictionaries(texts, values, max_size=3), st.lists(st.tuples(texts, values), max_size=3, unique_by=lambda entry: entry[0]))
def test_whatever_a_users_file_holds_is_there_after_the_merge(fields, entries):
    mine = {
        **fields,
        "kind": "Config",
        **{section: [{"name": f"mine-{name}", "x": value} for name, value in entries] for section in ("clusters", "users", "contexts")},
    }
    before = yaml.safe_dump(mine, allow_unicode=True)
    if "*" in before:
        return
    found = yaml.safe_load(merge(before.encode(), handed(), overwrite=True).text)
    for section in ("clusters", "users", "contexts"):
        assert found[section][: len(entries)] == mine[section]
    assert {name: value for name, value in found.items() if name in fields and name != "current-context"} == {
        name: value for name, value in mine.items() if name in fields and name != "current-context"
    }


def test_a_file_is_written_whole_for_its_owner_only_and_through_a_link(tmp_path):
    target = tmp_path / "real"
    target.write_text("old", encoding="ascii")
    target.chmod(0o644)
    link = tmp_path / "config"
    link.symlink_to(target)
    _, remarks = read(link)
    assert "mode 644" in remarks[0]
    write(link, "new")
    assert link.is_symlink()
    assert target.read_text(encoding="ascii") == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["config", "real"]


def test_a_folder_that_is_missing_is_made(tmp_path):
    path = tmp_path / ".kube" / "config"
    assert read(path) == (None, ())
    write(path, "text")
    assert read(path) == (b"text", ())


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("", encoding="ascii")
    with pytest.raises(HostUnfit):
        write(tmp_path / "file" / "config", "text")
    with pytest.raises(HostUnfit):
        write(tmp_path, "text")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_no_ordinary_file_and_a_file_too_large_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refused, match="no ordinary file"):
        read(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * (LARGEST_BYTES + 1))
    with pytest.raises(Refused, match="larger than"):
        read(tmp_path / "large")


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to another user takes root")
def test_a_file_of_another_user_is_not_taken_from_them(tmp_path):
    path = tmp_path / "config"
    path.write_text("", encoding="ascii")
    os.chown(path, 12345, 12345)
    with pytest.raises(Refused, match="another user"):
        read(path)
