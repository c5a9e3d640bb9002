"""The API server as a pod's own ServiceAccount sees it: few verbs on plain documents, without blocking the program's loop.

The rest of this room serves people with a kubeconfig; this serves the node agent. Objects stay JSON documents here: the agent reads a
handful of fields of a handful of objects, and the typed models of all kinds would be most of its memory.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx2
import msgspec
from lightkube.config import client_adapter
from lightkube.config.kubeconfig import KubeConfig
from lightkube.core.exceptions import ApiError, ConfigError
from lightkube.core.generic_client import transform_exception
from lightkube.models import meta_v1

from kubenclave.errors import NotFound, Refused, Unreachable
from kubenclave.kube.streams import CONNECT_SECONDS, SILENCE_SECONDS, WATCH_SECONDS
from kubenclave.kube.translate import translated

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from lightkube.config.kubeconfig import SingleConfig

    from kubenclave.kube.documents import Document

# Admission policies take milliseconds; an API server that does not answer in this time is down for the agent, which tries again.
_ANSWER_SECONDS = 10
# etcd takes no object above 1.5 MiB (its --max-request-bytes); a list of one node's ResourceSlices is far below this.
_LARGEST_ANSWER_BYTES = 8 << 20

_documents = msgspec.json.Decoder(dict[str, object])


def own_service_account(field_manager: str) -> InCluster:
    """Return a connection as the ServiceAccount of the pod that this runs in.

    Raises:
        NotFound: This is no pod, or one without a ServiceAccount's token.
    """
    try:
        config = KubeConfig.from_service_account().get()
    except (ConfigError, KeyError, OSError) as exc:
        raise NotFound(
            f"there is no ServiceAccount's token to talk to the API server with: {exc}",
            "run in a pod with automountServiceAccountToken: true",
        ) from exc
    if config is None:
        raise NotFound("there is no ServiceAccount to talk to the API server with", "run in a pod")
    return InCluster(config, field_manager)


class InCluster:
    """A connection to the API server. Paths are those of the API, such as ``api/v1/nodes/a``.

    Every call raises Refused or NotFound where the server says no, and Unreachable where it does not answer.
    """

    def __init__(self, config: SingleConfig, field_manager: str) -> None:
        self.server = config.cluster.server
        self._manager = {"fieldManager": field_manager}
        timeout = httpx2.Timeout(_ANSWER_SECONDS, connect=CONNECT_SECONDS)
        # No proxy leads to the service address of one's own cluster, whatever the environment names.
        parameters = client_adapter.ConnectionParams(timeout=timeout, trust_env=False)
        try:
            self._http = client_adapter.AsyncClient(config, parameters)
        except (ConfigError, OSError, ValueError, TypeError) as exc:
            raise Refused(f"the ServiceAccount's certificates for {self.server} cannot be used: {exc}", "see the pod's volumes") from exc

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def get(self, path: str, selector: Mapping[str, str] | None = None) -> Document:
        """Return an object, or a list of those whose fields are as the selector says."""
        return await self._ask("GET", path, parameters=_selected(selector))

    async def create(self, path: str, document: Document) -> Document:
        """Create an object in the collection at the path, and return it as it was stored."""
        return await self._ask("POST", path, document, parameters=self._manager)

    async def replace(self, path: str, document: Document) -> Document:
        """Replace an object that is still as it was read, and return it as it was stored."""
        return await self._ask("PUT", path, document, parameters=self._manager)

    async def merge(self, path: str, patch: Document) -> Document:
        """Patch an object (JSON merge patch, RFC 7386), and return it as it was stored."""
        return await self._ask("PATCH", path, patch, "application/merge-patch+json", self._manager)

    async def delete(self, path: str) -> None:
        """Delete an object."""
        await self._ask("DELETE", path)

    async def watch(self, path: str, selector: Mapping[str, str], resource_version: str) -> AsyncGenerator[tuple[str, Document]]:
        """Yield each change after a version as its type and the object, until the API server ends the watch after a minute.

        It also ends, without an error, where the version is no longer kept: read again then, as after every end.
        """
        parameters = _selected(selector) | {"watch": "true", "resourceVersion": resource_version, "timeoutSeconds": str(WATCH_SECONDS)}
        timeout = httpx2.Timeout(CONNECT_SECONDS, read=SILENCE_SECONDS)
        with translated(self.server, f"watch {path}"):
            async with self._http.stream("GET", path, params=parameters, timeout=timeout) as response:
                await _raise_for_status(response)
                async for line in _lines(response):
                    event = _documents.decode(line)
                    change, found = event.get("type"), event.get("object")
                    if not isinstance(change, str) or not isinstance(found, dict):
                        raise Unreachable(f"{self.server} sent no change of an object (to watch {path})", "see what answers there")
                    if change == "ERROR":
                        if found.get("code") == HTTPStatus.GONE:
                            return
                        raise ApiError(status=msgspec.convert(found, meta_v1.Status))
                    yield change, found

    async def _ask(
        self,
        method: str,
        path: str,
        document: Document | None = None,
        content_type: str = "application/json",
        parameters: Mapping[str, str] | None = None,
    ) -> Document:
        content = None if document is None else msgspec.json.encode(document)
        headers = {"Accept": "application/json"} | ({} if document is None else {"Content-Type": content_type})
        with translated(self.server, f"{method.lower()} {path}"):
            request = self._http.build_request(method, path, params=dict(parameters or {}), content=content, headers=headers)
            response = await self._http.send(request, stream=True)
            try:
                await _raise_for_status(response)
                return _documents.decode(await _whole(response))
            finally:
                await response.aclose()


def _selected(selector: Mapping[str, str] | None) -> dict[str, str]:
    return {"fieldSelector": ",".join(f"{field}={value}" for field, value in selector.items())} if selector else {}


async def _whole(response: httpx2.Response) -> bytes:
    answer = bytearray()
    async for chunk in response.aiter_bytes():
        answer += chunk
        if len(answer) > _LARGEST_ANSWER_BYTES:
            raise ValueError(f"more than {_LARGEST_ANSWER_BYTES} bytes")
    return bytes(answer)


async def _lines(response: httpx2.Response) -> AsyncIterator[bytes]:
    buffer = bytearray()
    async for chunk in response.aiter_bytes():
        buffer += chunk
        *lines, rest = buffer.split(b"\n")
        for line in lines:
            yield bytes(line)
        buffer = rest
        if len(buffer) > _LARGEST_ANSWER_BYTES:
            raise ValueError(f"a change of more than {_LARGEST_ANSWER_BYTES} bytes")


async def _raise_for_status(response: httpx2.Response) -> None:
    if response.is_success:
        return
    await response.aread()
    try:
        response.raise_for_status()
    except httpx2.HTTPStatusError as exc:
        raise transform_exception(exc) from exc
