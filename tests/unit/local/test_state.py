from __future__ import annotations

import threading

import pytest

from kubenclave.errors import HostUnfit
from kubenclave.local import host, programs
from kubenclave.local.places import Places
from kubenclave.local.spec import plan_cluster
from kubenclave.local.state import lock, other_specs, read_spec, write_spec


@pytest.fixture
def places(tmp_path):
    return Places(state=tmp_path / "state", cache=tmp_path / "cache")


@pytest.fixture
def spec():
    return plan_cluster("one", sgx_nodes=1, plain_nodes=1, epc_bytes=(4096, 8192), taken=[])


def test_a_description_reads_back_as_it_was_written_and_is_private(places, spec):
    folder = places.cluster("one")
    folder.mkdir(parents=True)
    write_spec(folder, spec)
    assert read_spec(folder) == spec
    assert other_specs(places) == [spec]
    assert (folder / "cluster.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "one"}', '{"name": "one", "block": 0, "nodes": [1]}'])
def test_a_damaged_description_counts_as_none(places, text):
    folder = places.cluster("one")
    folder.mkdir(parents=True)
    (folder / "cluster.json").write_text(text)
    assert read_spec(folder) is None


def test_a_second_run_waits_for_the_first_and_says_so(places):
    said: list[str] = []
    entered = threading.Event()

    def second():
        with lock(places, said.append):
            entered.set()

    with lock(places, said.append):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
    thread.join(10)
    assert entered.is_set()
    assert len(said) == 1


def test_a_lock_on_a_folder_that_was_removed_meanwhile_is_taken_again(places):
    with lock(places, lambda _news: None):
        places.clusters.rmdir()
    with lock(places, lambda _news: None):
        assert places.clusters.is_dir()


def test_a_missing_program_is_named_with_how_to_get_it(monkeypatch):
    monkeypatch.setattr(host, "require_root", lambda: None)
    monkeypatch.setattr(host, "_TOOLS", ("ip", "no-such-program"))
    with pytest.raises(HostUnfit) as caught:
        host.check_host()
    assert "no-such-program" in caught.value.what
    assert "apt-get install" in caught.value.hint


@pytest.mark.parametrize("variable", ["XDG_STATE_HOME", "XDG_CACHE_HOME"])
def test_a_folder_that_cannot_be_made_is_told_with_the_variable_that_moves_it(tmp_path, variable):
    (tmp_path / "file").write_text("")
    with pytest.raises(HostUnfit) as caught, host.writable(variable):
        (tmp_path / "file" / "clusters").mkdir()
    assert str(tmp_path / "file/clusters") in caught.value.what
    assert variable in caught.value.hint


def test_a_reader_that_has_gone_is_not_taken_for_a_full_disk():
    with pytest.raises(BrokenPipeError), host.writable("XDG_STATE_HOME"):
        raise BrokenPipeError


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_built(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HostUnfit) as caught:
        programs.build(tmp_path / "file", lambda _news: None)
    assert "XDG_CACHE_HOME" in caught.value.hint
