from __future__ import annotations

from html.parser import HTMLParser

from kubenclave.local.demo import DemoResult, Observation, Size, Step, objects, page
from kubenclave.workload import dialect_of

HOSTILE = "<script>alert('&')</script>"


def result(*, simulated: bool = True, value: str = "Ready") -> DemoResult:
    step = Step(module=1, title="A cluster", seconds=1.5, observations=(Observation(what="node", value=value, seen_in="GET nodes"),))
    return DemoResult(
        cluster="local cluster demo",
        server="https://10.213.0.1",
        kubernetes="v1.37.2",
        simulated=simulated,
        mrenclave="ab" * 32,
        steps=(step,),
        sizes=(Size(what="hello", compressed_bytes=1, uncompressed_bytes=2_000_000),),
        seconds=1.5,
        left="gone",
    )


class Collector(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):  # noqa: ARG002 - the parser gives them
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(text: str) -> Collector:
    collector = Collector()
    collector.feed(text)
    collector.close()
    return collector


def test_the_page_is_whole_and_carries_every_fact():
    text = page(result())
    assert parsed(text).open == []
    assert all(fact in text for fact in ("ab" * 32, "Ready", "GET nodes", "2.0 MB", "16.6 MB"))


def test_the_page_says_simulated_only_when_it_was():
    assert "simulated" in page(result(simulated=True))
    assert "simulated" not in page(result(simulated=False))


def test_text_from_the_cluster_cannot_become_markup():
    text = page(result(value=HOSTILE))
    assert "script" not in parsed(text).tags


def test_an_enclave_pod_asks_for_epc_and_tolerates_its_taint():
    pod = objects.enclave_pod("holder", "image", ("--seconds", "9"), dialect_of("openenclave"), 10)
    container = pod["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"openenclave.io/sgx_epc_MiB": "10"}
    assert pod["spec"]["tolerations"] == [{"key": "openenclave.io/sgx_epc_MiB", "operator": "Exists", "effect": "NoSchedule"}]
    assert not container["securityContext"].get("privileged")


def test_in_intels_dialect_the_device_is_asked_for_as_well():
    pod = objects.enclave_pod("holder", "image", (), dialect_of("intel"), 10 << 20)
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"sgx.intel.com/epc": str(10 << 20), "sgx.intel.com/enclave": "1"}


def test_only_the_direct_pod_is_privileged():
    direct = objects.direct_pod("direct", "image", "sgx-1")
    assert direct["spec"]["containers"][0]["securityContext"] == {"privileged": True}
    assert direct["spec"]["nodeName"] == "sgx-1"
    assert "nodeName" not in objects.direct_pod("direct", "image", None)["spec"]
    assert objects.plain_pod("plain", "image", None)["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False
