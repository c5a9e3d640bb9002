"""Sockets of several agents in one folder: a dead agent's is cleared away, a live one's never, not even while it is being made."""

from __future__ import annotations

import fcntl
import os
import socket

import pytest

from kubenclave.errors import HostUnfit, Refused
from kubenclave.node.kubelet import identity, listen, release, remove_stale

pytestmark = pytest.mark.integration

PATTERN = "kubenclave-*.sock"


@pytest.fixture
def dead(folder):
    """The socket of an agent that was killed."""
    path = folder / "kubenclave-dead.sock"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    return path


def test_a_dead_agents_socket_is_removed_and_a_live_ones_is_not(folder, dead):
    live = folder / "kubenclave-live.sock"
    with listen(live):
        remove_stale(folder, PATTERN)

        assert live.is_socket()
        assert not dead.exists()


def test_a_socket_that_does_not_listen_yet_is_not_taken_for_a_dead_one(folder, monkeypatch):
    """Between bind and listen it refuses connections as a dead one does: just then another agent clears up."""
    path = folder / "kubenclave-made.sock"
    ready = socket.socket.listen

    def cleared_meanwhile(made, backlog):
        with socket.socket(socket.AF_UNIX) as probe, pytest.raises(ConnectionRefusedError):
            probe.connect(str(path))
        remove_stale(folder, PATTERN)
        ready(made, backlog)

    monkeypatch.setattr(socket.socket, "listen", cleared_meanwhile)
    with listen(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_folder_in_which_another_agent_is_at_work_is_left_alone_for_now(folder, dead):
    path = folder / "kubenclave-made.sock"
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        remove_stale(folder, PATTERN)
        with pytest.raises(HostUnfit, match="cannot listen"):
            listen(path)
        assert dead.is_socket()
        assert not path.exists()
    finally:
        os.close(handle)

    remove_stale(folder, PATTERN)
    listen(path).close()
    assert not dead.exists()


def test_a_served_socket_is_not_replaced_and_a_folder_is_free_again_after_a_refusal(folder):
    path = folder / "kubenclave-live.sock"
    with listen(path):
        with pytest.raises(Refused, match="another program serves"):
            listen(path)
        listen(folder / "kubenclave-other.sock").close()


def test_an_agent_that_leaves_takes_its_own_socket_and_not_its_successors(folder):
    path = folder / "kubenclave-live.sock"
    first = listen(path)
    own = identity(path)
    first.close()
    with listen(path):
        release(path, own)

        assert path.is_socket()
        release(path, identity(path))
        assert not path.exists()


def test_what_is_no_socket_is_neither_removed_nor_replaced(folder):
    path = folder / "kubenclave-file.sock"
    path.write_text("x")

    remove_stale(folder, PATTERN)
    with pytest.raises(Refused, match="is no socket"):
        listen(path)

    assert path.read_text() == "x"
