"""Ask the kubelet which pods hold which devices (its PodResources API)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpclib.client import Channel
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from kubenclave.errors import Refused, Unreachable
from kubenclave.node._generated.podresources_grpc import PodResourcesListerStub
from kubenclave.node._generated.podresources_pb2 import ListPodResourcesRequest

if TYPE_CHECKING:
    from pathlib import Path

    from kubenclave.node._generated.podresources_pb2 import ListPodResourcesResponse

# The kubelet answers from memory; Prometheus gives a scrape 10 seconds by default.
_ANSWER_SECONDS = 5.0


async def list_pods(path: Path) -> ListPodResourcesResponse:
    """Return all pods of this node with the devices of their containers.

    Raises:
        Refused: The kubelet said no, as it does when it is asked too often.
        Unreachable: Nobody answered at its socket, or not in time.
    """
    channel = Channel(path=str(path))
    try:
        return await PodResourcesListerStub(channel).List(ListPodResourcesRequest(), timeout=_ANSWER_SECONDS)
    except GRPCError as exc:
        raise Refused(
            f"the kubelet at {path} does not list its pods: {exc.message or exc.status.name}", hint="it is asked again at the next scrape"
        ) from exc
    except (OSError, StreamTerminatedError, ProtocolError) as exc:  # TimeoutError is an OSError
        raise Unreachable(
            f"the kubelet does not answer at {path}: {str(exc) or type(exc).__name__}",
            hint="mount /var/lib/kubelet/pod-resources of the host; it is asked again at the next scrape",
        ) from exc
    finally:
        channel.close()
