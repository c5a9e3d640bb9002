"""Keep this node's ResourceSlice at the API server as the inventory is; the kubelet deletes it 30 s after the driver has gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog

from kubenclave.errors import NotFound, Refused, Unreachable
from kubenclave.node.dialect import DRIVER
from kubenclave.node.dra.slices import SLICES, SliceView, check_stored, plan, read_slices
from kubenclave.node.keeper import Keeper
from kubenclave.node.node_status import check_alone, view_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kubenclave.errors import KubenclaveError
    from kubenclave.kube import Document
    from kubenclave.kube.in_cluster import InCluster
    from kubenclave.node.dra.slices import SliceList
    from kubenclave.node.node_status import NodeView

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class SlicePublisher(Keeper):
    """Keeps one slice with the wanted devices, or none where there are no devices."""

    def __init__(
        self, api: InCluster, node_name: str, *, on_settled: Callable[[], None], on_refused: Callable[[KubenclaveError], None]
    ) -> None:
        super().__init__(api, "slice.not_published", on_settled=on_settled, on_refused=on_refused)
        self._node_name = node_name
        self._devices: tuple[Document, ...] | None = None

    def want(self, devices: Sequence[Document]) -> None:
        """Keep these devices published from now on."""
        if tuple(devices) != self._devices:
            self._devices = tuple(devices)
            self.settled = False
            self.wake()

    async def _settle(self) -> str:
        found = await self._list()
        if self._devices is None:
            return found.metadata.resource_version
        node = view_of(await self._api.get(f"api/v1/nodes/{self._node_name}"))
        if self._devices:
            await self._make_sure_alone(node, found)
        devices = self._devices
        wanted = plan(found.items, node, devices)
        for name in wanted.delete:
            await self._delete(name)
        if wanted.create is not None:
            self._stored(await self._api.create(SLICES, wanted.create), devices)
        if wanted.replace is not None:
            name = f"{self._node_name}-{DRIVER}"
            self._stored(await self._api.replace(f"{SLICES}/{name}", wanted.replace), devices)
        if wanted.delete or wanted.create or wanted.replace:
            # Changes of one's own are read once more rather than waited for and mistaken for another's.
            return (await self._list()).metadata.resource_version
        return found.metadata.resource_version

    async def _make_sure_alone(self, node: NodeView, found: SliceList) -> None:
        """Take the slices away as long as somebody else offers this node's EPC.

        Raises:
            Refused: Somebody does.
        """
        try:
            check_alone(node, "")
        except Refused:
            for own in found.items:
                await self._delete(own.metadata.name)
            raise

    def _watched(self) -> tuple[str, Mapping[str, str]]:
        return SLICES, self._selector

    @property
    def _selector(self) -> Mapping[str, str]:
        return {"spec.driver": DRIVER, "spec.nodeName": self._node_name}

    async def _list(self) -> SliceList:
        try:
            return read_slices(await self._api.get(SLICES, self._selector))
        except NotFound as exc:
            raise Refused(
                "the cluster knows no resource.k8s.io/v1 (dynamic resource allocation)",
                hint="use Kubernetes 1.36 or newer, or another mode",
            ) from exc

    async def _delete(self, name: str) -> None:
        try:
            await self._api.delete(f"{SLICES}/{name}")
        except NotFound:
            return
        log.info("slice.deleted", slice=name)

    def _stored(self, document: Document, devices: Sequence[Document]) -> None:
        try:
            stored = msgspec.convert(document, SliceView)
        except msgspec.ValidationError as exc:
            raise Unreachable(f"the API server sent something else than a ResourceSlice: {exc}", "see what answers at its address") from exc
        check_stored(stored, devices)
        log.info("slice.published", slice=stored.metadata.name, generation=stored.spec.pool.generation, devices=len(devices))
