"""Witnesses who watch all the time what the pods of a node hold, while that node is hurt."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter

import grpc
import pytest

from kubenclave.errors import KubenclaveError
from kubenclave.kube import connect, parse_quantity
from kubenclave.node._generated.podresources_pb2 import ContainerDevices, ListPodResourcesRequest, ListPodResourcesResponse

NODE = "sgx-1"
UNITS = "openenclave.io/sgx_epc_MiB"
SAMPLE_SECONDS = 0.1
DRIVER = "epc.kubenclave.dev"
CLAIM_BYTES = 10 << 20


class Watcher:
    """Looks ten times a second at how much EPC is held, in several ways at once, and remembers the worst.

    Attributes:
        samples: How often it could look.
        most: The most that was held at once.
        twice: What two containers held at once that one alone may hold.
    """

    def __init__(self, node):
        self.samples = 0
        self.most = 0
        self.twice: set[str] = set()
        self._node = node
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._watch, args=(look,)) for look in self.looks()]

    def looks(self):
        raise NotImplementedError

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _watch(self, look):
        while not self._stop.is_set():
            with contextlib.suppress(OSError, KubenclaveError, grpc.RpcError):
                self.most = max(self.most, look())
                self.samples += 1
            self._stop.wait(SAMPLE_SECONDS)

    def pods_of_the_kubelet(self):
        with grpc.insecure_channel(f"unix://{self._node.root}/var/lib/kubelet/pod-resources/kubelet.sock") as channel:
            call = channel.unary_unary(
                "/v1.PodResourcesLister/List", ListPodResourcesRequest.SerializeToString, ListPodResourcesResponse.FromString
            )
            return call(ListPodResourcesRequest(), timeout=1).pod_resources


class UnitsWitness(Watcher):
    """Mode device-plugin: units that the kubelet says its pods hold, and units that running pods have asked for."""

    def looks(self):
        return (self._kubelet, self._api)

    def _kubelet(self) -> int:
        held = Counter(self._units())
        self.twice |= {name for name, times in held.items() if times > 1}
        return len(held)

    def _units(self):
        for pod in self.pods_of_the_kubelet():
            for container in pod.containers:
                for device in map(ContainerDevices.FromString, container.devices):
                    if device.resource_name == UNITS:
                        yield from device.device_ids

    def _api(self) -> int:
        with connect(self._node.cluster.kubeconfig) as api:
            pods = [pod for pod in api.pods("default") if pod.phase == "Running" and pod.node == NODE]
        return sum(pod.requests.get(UNITS, 0) for pod in pods)


class ClaimsWitness(Watcher):
    """Mode dra, in bytes: what claims are allocated, what the driver has prepared, and what the kubelet says its pods hold.

    ``twice`` are shares of a device that two claims have.

    Attributes:
        offered: Every sum that the ResourceSlices offered at a time.
        longest_away: For how many seconds on end they offered nothing. A starting kubelet deletes the slices of its node.
    """

    def __init__(self, node):
        super().__init__(node)
        self.offered: set[int] = set()
        self.longest_away = 0.0
        self._away_since: float | None = None

    def looks(self):
        return (self._allocated, self._prepared, self._held)

    def _allocated(self) -> int:
        """Every claim that is allocated, whether its pod runs already or has ended just now: more than what is held."""
        with connect(self._node.cluster.kubeconfig) as api:
            slices = api.objects("resource.k8s.io/v1", "ResourceSlice")
        devices = [device for each in slices if each["spec"]["driver"] == DRIVER for device in each["spec"]["devices"]]
        offered = sum(int(parse_quantity(device["capacity"]["epc"]["value"])) for device in devices)
        self.offered.add(offered)
        self._away_since = None if offered else self._away_since or time.monotonic()
        self.longest_away = max(self.longest_away, time.monotonic() - (self._away_since or time.monotonic()))
        return sum(self._shares().values())

    def _prepared(self) -> int:
        text = (self._node.root / f"var/lib/kubelet/plugins/{DRIVER}/checkpoint.json").read_text()
        devices = [device for claim in json.loads(text)["claims"].values() for device in claim["devices"]]
        shares = Counter(device["share_id"] for device in devices)
        self.twice |= {share for share, times in shares.items() if times > 1}
        return sum(device.get("epc_bytes", 0) for device in devices)

    def _held(self) -> int:
        held = {
            (claim.claim_namespace, claim.claim_name, one.share_id)
            for pod in self.pods_of_the_kubelet()
            for container in pod.containers
            for claim in container.dynamic_resources
            for one in claim.claim_resources
            if one.driver_name == DRIVER
        }
        shares = self._shares()
        # A claim that is gone by now had the size that all have here.
        return sum(shares.get(share, CLAIM_BYTES) for *_, share in held)

    def _shares(self) -> dict[str, int]:
        with connect(self._node.cluster.kubeconfig) as api:
            claims = api.objects("resource.k8s.io/v1", "ResourceClaim")
        results = [
            result
            for claim in claims
            for result in claim.get("status", {}).get("allocation", {}).get("devices", {}).get("results", [])
            if result["driver"] == DRIVER
        ]
        shares = Counter(result["shareID"] for result in results)
        self.twice |= {share for share, times in shares.items() if times > 1}
        return {result["shareID"]: int(parse_quantity(result["consumedCapacity"]["epc"])) for result in results}


@pytest.fixture
def units_witness():
    return UnitsWitness


@pytest.fixture
def claims_witness():
    return ClaimsWitness
