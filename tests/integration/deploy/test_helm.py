"""The plain YAML, the Helm chart and `kubenclave node install` say the same, by the real Helm."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from kubenclave.install import DEFAULT_IMAGE, plan
from kubenclave.install.limits import VARIABLE
from kubenclave.install.plan import DIALECTS, MODES
from kubenclave.install.render import Words, render
from kubenclave.install.tolerations import parse_toleration
from kubenclave.local.places import places

pytestmark = pytest.mark.integration

DEPLOY = Path(__file__).parents[3] / "deploy"
GO_MOD = Path(__file__).parents[2] / "tools" / "helm" / "go.mod"
HELM_VERSION = re.compile(r"helm\.sh/helm/v4 v([0-9.]+)")
IMAGE = "registry.example/kubenclave/node@sha256:" + "a" * 64
TOLERATIONS = ("sku=sgx:NoSchedule", "spot:NoExecute")
OFFERS = [(mode, dialect) for mode in MODES for dialect in DIALECTS[mode] or ("",)]
VERSIONS = ("1.29.3", "1.35.2", "1.37.2")
# Where a mode cannot be had both refuse, which is another test's sentence.
CASES = [
    (offer, version, admission)
    for offer, version, admission in itertools.product(OFFERS, VERSIONS, (True, False))
    if version >= {"device-plugin": "1.26", "extended-resource": "1.30", "dra": "1.36"}[offer[0]]
]


@pytest.fixture(scope="session")
def helm():
    version = HELM_VERSION.search(GO_MOD.read_text())[1]
    program = places(os.environ).cache / "tools" / f"helm-{version}" / "helm"
    if not program.exists():
        pytest.skip(f"{program} is not built: make tools")

    def run(*arguments):
        return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)

    return run


@pytest.fixture
def template(helm):
    def run(*arguments, version="1.37.2"):
        result = helm("template", "kubenclave-node", str(DEPLOY), "--namespace", "kube-system", "--kube-version", version, *arguments)
        assert result.returncode == 0, result.stderr
        return in_order(yaml.safe_load_all(result.stdout))

    return run


def in_order(documents):
    """Helm applies objects by kind, so their order in the files is not compared."""
    return sorted((document for document in documents if document is not None), key=lambda each: (each["kind"], each["metadata"]["name"]))


def by_the_installer(mode, dialect, version, *, admission=True, image=IMAGE, arguments=(), mapped=False, largest=None, tolerations=()):
    chosen = plan(mode, dialect or None, version=version, admission=admission)
    further = tuple(map(parse_toleration, tolerations))
    words = Words(image=image, dialect=chosen.dialect, arguments=arguments, mapped=mapped, largest=largest or {}, tolerations=further)
    return in_order(document for name in chosen.files for document in render((DEPLOY / name).read_text(), name, words))


def limits_as_values(documents):
    """The map in the rules is JSON, which may be written in more than one way."""
    for document in documents:
        for variable in document["spec"].get("variables", []) if document["kind"].endswith("AdmissionPolicy") else []:
            if variable["name"] in {VARIABLE, "further"}:
                variable["expression"] = json.loads(variable["expression"])
    return documents


def managed_by_helm(documents):
    for document in documents:
        document["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "Helm"
    return documents


@pytest.mark.parametrize(("offer", "version", "admission"), CASES)
def test_the_chart_and_the_installer_make_the_same_objects(template, offer, version, admission):
    mode, dialect = offer
    chart = template(
        f"--set=image={IMAGE},mode={mode},dialect={dialect},admission={str(admission).lower()}",
        "--set=mapped=true,arguments={--reserve=2Mi},largest.openenclave=262144,largest.intel=274877906944",
        f"--set-json=tolerations={json.dumps([parse_toleration(text).document for text in TOLERATIONS])}",
        version=version,
    )

    ours = by_the_installer(
        mode,
        dialect,
        version,
        admission=admission,
        arguments=("--reserve=2Mi",),
        mapped=True,
        tolerations=TOLERATIONS,
        largest={"openenclave": 262144, "intel": 274877906944},
    )
    assert limits_as_values(chart) == limits_as_values(managed_by_helm(ours))


@pytest.mark.parametrize("mode", MODES)
def test_what_differs_from_the_plain_yaml_is_who_manages_it(template, mode):
    name = plan(mode, None, version="v1.37.2", admission=False).files[0]
    plain = in_order(yaml.safe_load_all((DEPLOY / name).read_text()))

    assert by_the_installer(mode, "", "v1.37.2", admission=False, image=DEFAULT_IMAGE) == plain
    assert template(f"--set=mode={mode},admission=false") == managed_by_helm(plain)


@pytest.mark.parametrize(("mode", "dialect"), OFFERS)
def test_helm_finds_nothing_to_complain_about(helm, mode, dialect):
    result = helm("lint", "--strict", str(DEPLOY), "--namespace", "kube-system", f"--set=mode={mode},dialect={dialect}")

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--namespace", "default"], "the node agent belongs into kube-system: add --namespace kube-system"),
        (["--namespace", "kube-system", "--set=dialect=intel"], "mode device-plugin does not offer EPC in dialect intel"),
        (["--namespace", "kube-system", "--set=mode=magic"], "mode"),
        (["--namespace", "kube-system", "--set=mode=dra", "--kube-version=1.35.9"], "mode dra needs Kubernetes 1.36 or newer"),
        (["--namespace", "kube-system", "--set=mode=extended-resource", "--kube-version=1.29.0"], "needs Kubernetes 1.30 or newer"),
        (["--namespace", "kube-system", "--set=imgae=x"], "imgae"),
        (["--namespace", "kube-system", "--set=largest.openenclave=many"], "largest"),
        (["--namespace", "kube-system", '--set-json=tolerations=[{"key": "sku", "operator": "Exists"}]'], "effect"),
        (["--namespace", "kube-system", "--set=tolerations={sku=sgx:NoSchedule}"], "tolerations"),
    ],
)
def test_the_chart_refuses_what_cannot_work_in_words(helm, arguments, sentence):
    result = helm("template", "kubenclave-node", str(DEPLOY), *arguments)

    assert result.returncode != 0
    assert sentence in result.stderr


def test_an_image_that_looks_like_yaml_stays_a_string(template):
    def image_in(documents):
        (daemon_set,) = [document for document in documents if document["kind"] == "DaemonSet"]
        return daemon_set["spec"]["template"]["spec"]["containers"][0]["image"]

    odd = "x: [y] # z"

    assert image_in(template("--set-string", f"image={odd}")) == odd
    assert image_in(by_the_installer("device-plugin", "", "v1.37.2", image=odd)) == odd


def test_a_package_of_the_chart_holds_all_it_needs(helm, tmp_path):
    packed = helm("package", str(DEPLOY), "--destination", str(tmp_path))
    assert packed.returncode == 0, packed.stderr
    (archive,) = tmp_path.iterdir()

    result = helm("template", "kubenclave-node", str(archive), "--namespace", "kube-system", "--kube-version", "1.37.2")

    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\nkind: ") == 12
