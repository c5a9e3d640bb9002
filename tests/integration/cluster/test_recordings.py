"""Our client against what real Azure answered: method, path, query and body of every request are compared with the recorded ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

from kubenclave.cluster.azure import parsing
from kubenclave.cluster.azure.marks import CONTRIBUTOR_ID
from kubenclave.cluster.azure.reply import text
from kubenclave.cluster.body import cluster_body
from kubenclave.cluster.spec import ClusterSpec, Mode, Network, Pool, Sgx, SgxOptions

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "azure"
pytestmark = [pytest.mark.integration, pytest.mark.skipif(not DATA.is_dir(), reason=f"the recordings are not at {DATA}")]

ARM = "https://management.azure.com"
SUBSCRIPTION = "/subscriptions/00000000-0000-0000-0000-000000000000"
# The recordings are of 2018 to 2022. What each kind of resource was asked in, and what the SDKs of today ask in. URLs that Azure itself
# gives, of operations and their results, are asked as they are given.
VERSIONS = {
    ("managedclusters", "2022-09-02-preview"): "2026-08-01",
    ("resourcegroups", "2020-06-01"): "2025-04-01",
    ("resourcegroups", "2021-04-01"): "2025-04-01",
    ("providers", "2020-06-01"): "2025-04-01",
    ("roleassignments", "2018-09-01-preview"): "2022-04-01",
    ("operations", "2016-03-30"): "2016-03-30",
    ("operationresults", "2020-06-01"): "2020-06-01",
}


def kind(path):
    """Name the kind of resource that a path ends in: its last name of a type."""
    found = re.findall(r"/(managedclusters|roleassignments|operationresults|operations|providers|resourcegroups)(?=/|$)", path.lower())
    return found[-1]


class Recording:
    """Answers a request with the next recorded answer to the same method and path, and keeps what differed."""

    def __init__(self, name):
        self.left = yaml.safe_load((DATA / name).read_text(encoding="utf-8"))["interactions"]
        self.problems, self.bodies, self.url = [], [], ""
        # Paths that differ from the recorded one in small letters and capitals, which ARM does not tell apart.
        self.cases = []

    def __call__(self, method, path, query, body):
        at = next((index for index, each in enumerate(self.left) if self.same(each["request"], method, path)), None)
        if at is None:
            self.problems.append(f"{method} {path} was not recorded")
            return 404, {}, json.dumps({"error": {"code": "NotFound", "message": f"{method} {path} was not recorded"}}).encode()
        recorded = self.left.pop(at)
        request, response = recorded["request"], recorded["response"]
        if urlsplit(request["uri"]).path != path:
            self.cases.append(path.removeprefix(SUBSCRIPTION))
        wanted = dict(parse_qsl(urlsplit(request["uri"]).query))
        wanted["api-version"] = VERSIONS[kind(path), wanted["api-version"]]
        if query != wanted:
            self.problems.append(f"{method} {path}: {query} instead of {wanted}")
        if body or request["body"]:
            self.bodies.append((json_of(request["body"]), json.loads(body)))
        headers = {name: value[0] for name, value in response["headers"].items() if name.lower() in {"azure-asyncoperation", "location"}}
        content = response["body"]["string"]
        return (
            response["status"]["code"],
            {name: value.replace(ARM, self.url) for name, value in headers.items()},
            (content if isinstance(content, str) else content.decode()).replace(ARM, self.url).encode(),
        )

    @staticmethod
    def same(request, method, path):
        return request["method"] == method and urlsplit(request["uri"]).path.lower() == path.lower()

    def remaining(self):
        return [(each["request"]["method"], urlsplit(each["request"]["uri"]).path.removeprefix(SUBSCRIPTION)) for each in self.left]


def json_of(body):
    """Read a recorded body; in the oldest recording it is wrapped in four layers of Python's own notation."""
    return json.loads(body[body.index("{") : body.rindex("}") + 1])


def differences(theirs, ours, place=""):
    """List where two bodies differ: place to (theirs, ours), with '-' for what is not there."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        found = {}
        for key in {**theirs, **ours}:
            found |= differences(theirs.get(key, "-"), ours.get(key, "-"), f"{place}.{key}".lstrip("."))
        return found
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        found = {}
        for index, (left, right) in enumerate(zip(theirs, ours, strict=True)):
            found |= differences(left, right, f"{place}[{index}]")
        return found
    return {} if theirs == ours else {place: (theirs, ours)}


@pytest.fixture
def replay(play):
    from contextlib import contextmanager  # noqa: PLC0415 - of this fixture alone

    @contextmanager
    def replaying(name, cases=()):
        recording = Recording(name)
        with play(recording) as (session, server):
            recording.url = server.url
            yield session, recording
        assert recording.problems == []
        assert recording.cases == [*cases]

    return replaying


def recorded_key():
    bodies = [each["request"]["body"] for each in Recording("test_aks_create_with_confcom_addon.yaml").left]
    return next(json.loads(body) for body in bodies if body)["properties"]["linuxProfile"]["ssh"]["publicKeys"][0]["keyData"].strip()


def spec_of_the_recording(**fields):
    given = {
        "name": "cliakstest000002",
        "group": "clitest000001",
        "location": "westus2",
        "network": Network.KUBENET,
        "pools": (Pool(name="nodepool1", vm_size="Standard_DS2_v2", count=3, mode=Mode.SYSTEM),),
        "ssh_key": recorded_key(),
        "sgx": SgxOptions(by=Sgx.ADDON),
        **fields,
    }
    return ClusterSpec(**given)


OWNER = {"kubenclave-cluster": "clitest000001/cliakstest000002"}
POOL = "properties.agentPoolProfiles[0]"
# What the Azure CLI of 2022 sent to make a cluster and we do not, what we send and it did not, and what is written differently.
# Empty texts, zeros and the defaults of AKS are left out by us; marks and the kind of operating system are said.
ALWAYS_DIFFERENT = {
    "tags": ("-", OWNER),
    f"{POOL}.tags": ("-", OWNER),
    "properties.disableLocalAccounts": (False, "-"),
    "properties.enablePodSecurityPolicy": (False, "-"),
    "properties.networkProfile.podCidr": ("10.244.0.0/16", "-"),
    "properties.networkProfile.serviceCidr": ("10.0.0.0/16", "-"),
    "properties.networkProfile.dnsServiceIP": ("10.0.0.10", "-"),
    "properties.networkProfile.dockerBridgeCidr": ("172.17.0.1/16", "-"),
    "properties.networkProfile.outboundType": ("loadBalancer", "-"),
    f"{POOL}.workloadRuntime": ("OCIContainer", "-"),
    f"{POOL}.upgradeSettings": ({}, "-"),
    f"{POOL}.enableNodePublicIP": (False, "-"),
    f"{POOL}.enableCustomCATrust": (False, "-"),
    f"{POOL}.enableEncryptionAtHost": (False, "-"),
    f"{POOL}.enableUltraSSD": (False, "-"),
    f"{POOL}.enableFIPS": (False, "-"),
}
CREATED_DIFFERENTLY = ALWAYS_DIFFERENT | {
    "sku": ("-", {"name": "Base", "tier": "Free"}),
    "properties.kubernetesVersion": ("", "-"),
    "properties.dnsPrefix": ("cliakstest-clitestxje4hynt4-79a739", "cliakstest000002-clitest000001"),
    "properties.networkProfile.loadBalancerSku": ("standard", "-"),
    "properties.storageProfile": ({}, "-"),
    f"{POOL}.osDiskSizeGB": (0, "-"),
    f"{POOL}.osSKU": ("-", "Ubuntu"),
    f"{POOL}.orchestratorVersion": ("", "-"),
    f"{POOL}.scaleSetPriority": ("Regular", "-"),
    f"{POOL}.scaleSetEvictionPolicy": ("Delete", "-"),
    f"{POOL}.spotMaxPrice": (-1.0, "-"),
    f"{POOL}.nodeTaints": ([], "-"),
}


def test_a_cluster_with_the_add_on_is_made_as_it_was_recorded(replay):
    spec = spec_of_the_recording()
    with replay("test_aks_create_with_confcom_addon.yaml") as (session, recording):
        there = parsing.group(session.resources.resource_groups.get(spec.group))
        begun = session.containers.managed_clusters.begin_create_or_update(spec.group, spec.name, cluster_body(spec), polling_interval=0)
        made = parsing.cluster(begun.result())

    assert (there.location, there.state) == ("westus2", "Succeeded")
    assert recording.remaining() == []
    ((theirs, ours),) = recording.bodies
    key = "properties.linuxProfile.ssh.publicKeys[0].keyData"
    found = differences(theirs, ours)
    assert found.pop(key) == (f"{spec.ssh_key}\n", spec.ssh_key)
    assert found == CREATED_DIFFERENTLY
    assert (made.state, made.kubernetes_version, made.client_id, made.addon, made.quote_helper) == ("Succeeded", "1.23.12", "", True, False)
    assert [(pool.name, pool.vm_size, pool.count, pool.mode, pool.max_pods) for pool in made.pools] == [
        ("nodepool1", "Standard_DS2_v2", 3, "System", 110)
    ]


def test_the_add_on_is_switched_on_as_it_was_recorded(replay):
    spec = spec_of_the_recording(kubernetes_version="1.23.12")
    before = spec_of_the_recording(kubernetes_version="1.23.12", sgx=SgxOptions(by=Sgx.NONE))
    with replay("test_aks_enable_addons_confcom_addon.yaml") as (session, recording):
        clusters = session.containers.managed_clusters
        session.resources.resource_groups.get(spec.group)
        clusters.begin_create_or_update(spec.group, spec.name, cluster_body(before), polling_interval=0).result()
        found = parsing.cluster(clusters.get(spec.group, spec.name))
        changed = clusters.begin_create_or_update(spec.group, spec.name, cluster_body(spec), polling_interval=0).result()

    assert recording.remaining() == []
    assert not found.addon
    assert parsing.cluster(changed).addon
    (_, (theirs, ours)) = recording.bodies
    assert theirs["properties"]["addonProfiles"] == ours["properties"]["addonProfiles"]
    # az sends the whole cluster back as it was read; we send what the file says, and AKS keeps the rest.
    echoed = {place for place, (left, right) in differences(theirs, ours).items() if right == "-"}
    assert {place for place in differences(theirs, ours) if place not in echoed} == {
        "tags",
        "sku.name",
        f"{POOL}.tags",
        "properties.dnsPrefix",
        "properties.linuxProfile.ssh.publicKeys[0].keyData",
    }
    assert echoed - {place for place, (_, right) in ALWAYS_DIFFERENT.items() if right == "-"} == {
        "properties.oidcIssuerProfile",
        "properties.nodeResourceGroup",
        "properties.networkProfile.loadBalancerSku",
        "properties.networkProfile.loadBalancerProfile",
        "properties.networkProfile.podCidrs",
        "properties.networkProfile.serviceCidrs",
        "properties.networkProfile.ipFamilies",
        "properties.identityProfile",
        "properties.securityProfile",
        "properties.storageProfile",
        "properties.workloadAutoScalerProfile",
        f"{POOL}.osDiskSizeGB",
        f"{POOL}.osDiskType",
        f"{POOL}.kubeletDiskType",
        f"{POOL}.maxPods",
        f"{POOL}.orchestratorVersion",
        f"{POOL}.powerState",
    }


def test_a_role_is_assigned_and_taken_away_as_it_was_recorded(replay):
    scope = f"{SUBSCRIPTION}/resourceGroups/test_mgmt_authorization_test_role_assignment9e52125c"
    name, principal = "ddfe2dc0-9858-442f-aca3-ac215947a815", "6d33bfc8-e476-11e8-915d-f2801f1b9fd1"
    role = f"{SUBSCRIPTION}/providers/Microsoft.Authorization/roleDefinitions/{CONTRIBUTOR_ID}"
    with replay("test_mgmt_authorization.test_role_assignment.yaml") as (session, recording):
        from azure.mgmt.authorization.v2022_04_01.models import RoleAssignmentCreateParameters  # noqa: PLC0415 - after the skip

        # Left out, the SDK says that it is a user, which Azure refuses; told, Azure does not ask a directory that may not know it yet.
        wanted = RoleAssignmentCreateParameters(role_definition_id=role, principal_id=principal, principal_type="ServicePrincipal")
        made = session.authorization.role_assignments.create(scope, name, wanted)
        session.authorization.role_assignments.delete(scope, name)

    assert recording.remaining() == []
    assert made.role_definition_id == role
    ((theirs, ours),) = recording.bodies
    assert differences(theirs, ours) == {"properties.principalType": ("-", "ServicePrincipal")}


def test_a_provider_is_registered_as_it_was_recorded(replay):
    with replay("test_mgmt_resource.test_provider_registration.yaml") as (session, recording):
        before = text(session.resources.providers.get("Microsoft.Search"), "registrationState")
        after = text(session.resources.providers.register("Microsoft.Search"), "registrationState")

    # The recording begins by taking the registration back, which is nothing that we do.
    assert recording.remaining() == [("POST", "/providers/Microsoft.Search/unregister")]
    assert before == "Unregistering"
    assert after == "Registering"


def test_a_group_is_made_read_and_removed_as_it_was_recorded(replay):
    name = "test_mgmt_resource_test_resource_groups457f1050"
    with replay("test_mgmt_resource.test_resource_groups.yaml", cases=[f"/resourcegroups/{name}/resources"]) as (session, recording):
        groups = session.resources.resource_groups
        made = parsing.group(groups.create_or_update(name, {"location": "westus", "tags": {"tag1": "value1"}}))
        read = parsing.group(groups.get(name))
        others = [*session.resources.resources.list_by_resource_group(name)]
        assert groups.begin_delete(name, polling_interval=0).result() is None

    assert made == read
    assert (read.location, read.state, dict(read.tags)) == ("westus", "Succeeded", {"tag1": "value1"})
    assert others == []
    ((theirs, ours),) = recording.bodies
    assert differences(theirs, ours) == {}
    # What the recording does besides, and we do not: whether a group is there, is asked by reading it.
    assert recording.remaining() == [
        ("HEAD", f"/resourcegroups/{name}"),
        ("HEAD", "/resourcegroups/unknowngroup"),
        ("GET", "/resourcegroups"),
        ("PATCH", f"/resourcegroups/{name}"),
        ("POST", f"/resourcegroups/{name}/exportTemplate"),
    ]
