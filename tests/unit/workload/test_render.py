from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import UsageError
from kubenclave.workload import Request, dialect_of, name_of, render
from kubenclave.workload.render import REQUEST_ANNOTATION, digest_of

MIB = 1 << 20


def request(**changes):
    return Request(
        **{"image": "hello", "epc_bytes": 10 * MIB, "dialect": dialect_of("openenclave"), "name": "hello", "namespace": "default"}
        | changes,
    )


def pod(**changes):
    return render(request(**changes))["spec"]["template"]["spec"]


def test_a_job_asks_for_the_epc_and_tolerates_its_taint():
    spec = pod()

    assert spec["containers"][0]["resources"] == {"limits": {"openenclave.io/sgx_epc_MiB": "10"}}
    assert spec["tolerations"] == [{"key": "openenclave.io/sgx_epc_MiB", "operator": "Exists", "effect": "NoSchedule"}]


def test_epc_is_rounded_up_to_the_dialects_unit():
    odd = request(epc_bytes=10 * MIB + 1)

    assert render(odd)["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {"openenclave.io/sgx_epc_MiB": "11"}
    assert odd.granted_bytes == 11 * MIB


def test_intels_dialect_asks_for_bytes_and_for_the_device():
    limits = pod(dialect=dialect_of("intel"))["containers"][0]["resources"]["limits"]

    assert limits == {"sgx.intel.com/epc": "10485760", "sgx.intel.com/enclave": "1"}


def test_the_container_has_no_privilege_it_does_not_need():
    spec = pod()

    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert "volumes" not in spec
    assert "hostNetwork" not in spec


def test_the_program_runs_once_and_its_end_is_not_hidden_by_another_try():
    job = render(request())

    assert (job["spec"]["backoffLimit"], job["spec"]["completions"]) == (0, 1)
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_arguments_are_given_to_the_images_own_program():
    assert "args" not in pod()["containers"][0]
    assert pod(arguments=("--debug", "a b"))["containers"][0]["args"] == ["--debug", "a b"]
    assert "command" not in pod(arguments=("x",))["containers"][0]


def test_the_same_request_has_the_same_digest_and_another_one_another():
    assert digest_of(render(request())) == digest_of(render(request()))
    changed = [request(image="other"), request(epc_bytes=11 * MIB), request(arguments=("x",)), request(dialect=dialect_of("azure"))]
    assert len({digest_of(render(each)) for each in [request(), *changed]}) == 5


def test_the_job_says_who_made_it_and_for_what():
    metadata = render(request())["metadata"]

    assert metadata["labels"] == {"app.kubernetes.io/name": "hello", "app.kubernetes.io/managed-by": "kubenclave"}
    assert re.fullmatch("[0-9a-f]{64}", metadata["annotations"][REQUEST_ANNOTATION])


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("hello-enclave", "hello-enclave"),
        ("hello-enclave:1.0", "hello-enclave"),
        ("localhost:5000/team/Hello".lower(), "hello"),
        ("registry.example/a/b_c.d@sha256:" + "0" * 64, "b-c-d"),
        ("[::1]:5000/x:y", "x"),
        ("a" * 200, "a" * 63),
    ],
)
def test_a_job_is_named_after_its_image(image, name):
    assert name_of(image) == name


@pytest.mark.parametrize(
    "image",
    [
        "",
        "A",
        "a b",
        "a:",
        "a@sha256:12",
        "/a",
        "a/",
        "a//b",
        "-a",
        "a\n",
        "a" * 600,
        "a:" + "t" * 129,
        "../a",
        "a;rm",
        "http://a/b",
        "\u00e4",
    ],
)
def test_what_is_no_image_reference_is_a_usage_error(image):
    with pytest.raises(UsageError, match="is not an image reference"):
        render(request(image=image))
    with pytest.raises(UsageError):
        name_of(image)


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a.b", "a" * 64, "a\n", "a/b"])
@pytest.mark.parametrize("field", ["name", "namespace"])
def test_a_name_that_kubernetes_would_not_take_is_a_usage_error(field, name):
    with pytest.raises(UsageError, match=f"cannot be the {field} of a Job"):
        render(request(**{field: name}))


@pytest.mark.parametrize("arguments", [("a\0b",), ("x" * 200_000,), ("\udcff",)])
def test_arguments_that_cannot_be_carried_are_a_usage_error(arguments):
    with pytest.raises(UsageError):
        render(request(arguments=arguments))


@pytest.mark.parametrize("epc_bytes", [0, -1, 2**63])
def test_an_amount_of_epc_outside_what_kubernetes_can_hold_is_a_usage_error(epc_bytes):
    with pytest.raises(UsageError):
        render(request(epc_bytes=epc_bytes))


@given(st.text(alphabet="abAB09-_./:@\n", max_size=80))
def test_every_image_reference_gives_a_name_that_a_job_can_have(image):
    try:
        name = name_of(image)
    except UsageError:
        return
    assert render(request(image=image, name=name))["metadata"]["name"] == name
