"""Talk to the kubelet: its device plugin folder, its socket, its Register call. Foreign errors are translated here."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from typing import TYPE_CHECKING

import structlog
from grpclib.client import Channel
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from kubenclave.errors import HostUnfit, NotFound, Refused, Unreachable, UsageError
from kubenclave.node._generated.deviceplugin_grpc import RegistrationStub
from kubenclave.node._generated.deviceplugin_pb2 import RegisterRequest
from kubenclave.node.registration import FileIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

API_VERSION = "v1beta1"
KUBELET_SOCKET = "kubelet.sock"

# Inside Register the kubelet dials the plugin back and gives it 10 seconds.
REGISTER_TIMEOUT_SECONDS = 15.0

# sun_path of struct sockaddr_un, less its terminating zero (unix(7)).
MAX_SOCKET_PATH_BYTES = 107

_BACKLOG = 16

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def check_folder(socket_path: Path, whom: str, option: str) -> None:
    """Make sure before anything starts that a socket can have this path.

    Args:
        socket_path: Where the agent will listen.
        whom: Whom the kubelet meets there, for messages.
        option: The option that names the folder, for messages.

    Raises:
        NotFound: There is no such folder.
        UsageError: The path is longer than a socket's path may be.
    """
    if not socket_path.parent.is_dir():
        raise NotFound(
            f"there is no folder {socket_path.parent}, where the kubelet meets its {whom}",
            hint=f"run the agent on a node with a kubelet and mount the folder, or name it with {option}",
        )
    if len(os.fsencode(socket_path)) > MAX_SOCKET_PATH_BYTES:
        raise UsageError(
            f"the socket's path {socket_path} is longer than the {MAX_SOCKET_PATH_BYTES} bytes Linux allows",
            hint=f"give {option} a shorter path",
        )


def identity(path: Path) -> FileIdentity | None:
    """Look which file is at the path now; None where there is none, or where the folder cannot be looked into."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return FileIdentity(device=found.st_dev, inode=found.st_ino, changed_ns=found.st_ctime_ns)


def listen(path: Path) -> socket.socket:
    """Listen on a socket at the path; a socket that nobody serves any more is replaced, a served one never.

    Raises:
        Refused: Another program serves it, or what is there is no socket.
        HostUnfit: The folder takes no socket (permissions, no space, folder gone).
    """
    try:
        with _alone_in(path.parent):
            _clear(path)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                listener.bind(str(path))
                listener.listen(_BACKLOG)
            except OSError:
                listener.close()
                raise
    except OSError as exc:
        raise HostUnfit(
            f"cannot listen on {path}: {exc.strerror or exc}", hint="the agent must run as the folder's owner, on a disk with space"
        ) from exc
    return listener


def release(path: Path, own: FileIdentity) -> None:
    """Remove the agent's socket, unless something else has taken its place; one left behind is replaced by the next agent."""
    with contextlib.suppress(OSError), _alone_in(path.parent):
        if identity(path) == own:
            path.unlink()


def remove_stale(folder: Path, pattern: str) -> None:
    """Remove the sockets of agents that were killed: nobody else will."""
    with contextlib.suppress(OSError), _alone_in(folder):
        for path in folder.glob(pattern):
            # To connect to a plain file is refused as well.
            if path.is_socket() and _connect(path) == errno.ECONNREFUSED:
                path.unlink(missing_ok=True)
                log.info("socket.removed", socket=str(path), reason="of an agent that is no longer there")


async def register(kubelet_dir: Path, endpoint: str, resource: str) -> None:
    """Ask the kubelet to take the plugin listening at ``endpoint`` in its folder as the one for ``resource``.

    Raises:
        Refused: The kubelet said no; its reason is in the message.
        Unreachable: Nobody answered at its socket, or not in time.
    """
    path = kubelet_dir / KUBELET_SOCKET
    channel = Channel(path=str(path))
    request = RegisterRequest(version=API_VERSION, endpoint=endpoint, resource_name=resource)
    try:
        await RegistrationStub(channel).Register(request, timeout=REGISTER_TIMEOUT_SECONDS)
    except GRPCError as exc:
        raise Refused(
            f"the kubelet at {path} refused {resource}: {exc.message or exc.status.name}", hint="see the kubelet's own log for more"
        ) from exc
    except (OSError, StreamTerminatedError, ProtocolError) as exc:  # TimeoutError is an OSError
        raise Unreachable(
            f"the kubelet does not answer at {path}: {str(exc) or type(exc).__name__}",
            hint="see whether the node's kubelet runs; it is tried again",
        ) from exc
    finally:
        channel.close()


def _clear(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Refused(f"{path} is there and is no socket", hint="find out who put it there, and remove it")
    failure = _connect(path)
    if failure in {0, errno.EAGAIN}:
        raise Refused(f"another program serves {path}", hint="one agent per node and dialect; this one stands by until the other is gone")
    if failure == errno.ECONNREFUSED:
        path.unlink(missing_ok=True)


def _connect(path: Path) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(str(path))


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other agents from making or removing sockets in the folder: between bind and listen a socket looks like a dead agent's.

    Raises:
        BlockingIOError: Another agent is at it at this moment.
        OSError: The folder cannot be opened.
    """
    # The folder itself is locked: a starting kubelet would delete a file for it.
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
