from __future__ import annotations

import pytest

from kubenclave.errors import Refused, Unreachable
from kubenclave.node.dialect import DRIVER
from kubenclave.node.dra.claims import Allotment, ClaimName, allotments, check_name, is_allocated

UID = "0a1b2c3d-0000-4000-8000-000000000001"
CLAIM = ClaimName(namespace="default", name="epc", uid=UID)
KNOWN = ("epc-numa0", "epc-numa1")


def result(device="epc-numa0", pool="a", driver=DRIVER, share="s1", request="epc"):
    return {"request": request, "driver": driver, "pool": pool, "device": device, "shareID": share, "consumedCapacity": {"epc": "10Mi"}}


def claim(*results, uid=UID, allocated=True):
    return {"metadata": {"uid": uid}, "status": {"allocation": {"devices": {"results": list(results)}}} if allocated else {}}


def test_what_this_driver_was_asked_for_is_read_and_other_drivers_devices_are_not():
    found = allotments(claim(result(), result(driver="gpu.example", device="gpu"), result("epc-numa1", share="s2")), CLAIM, "a", KNOWN)

    assert found == (
        Allotment(request="epc", device="epc-numa0", share_id="s1", epc_bytes=10 << 20),
        Allotment(request="epc", device="epc-numa1", share_id="s2", epc_bytes=10 << 20),
    )


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (claim(result(), uid="another"), "has been replaced by another"),
        (claim(allocated=False), "is not allocated"),
        (claim(), "has 0 devices"),
        (claim(*[result()] * 33), "has 33 devices"),
        (claim(result(pool="b")), "of pool b, which node a does not have"),
        (claim(result(device="epc-numa7")), "epc-numa7"),
    ],
)
def test_a_claim_that_cannot_be_prepared_here_says_why(document, reason):
    with pytest.raises(Refused, match=reason):
        allotments(document, CLAIM, "a", KNOWN)


def test_a_claim_is_still_there_only_with_its_own_uid_and_an_allocation():
    assert is_allocated(claim(result()), CLAIM)
    assert not is_allocated(claim(result(), uid="another"), CLAIM)
    assert not is_allocated(claim(allocated=False), CLAIM)


@pytest.mark.parametrize("uid", ["", "../../etc/passwd", "a/b", ".hidden", "a" * 64, "a\n", "a.json"])
def test_a_uid_that_could_leave_the_folder_is_refused(uid):
    with pytest.raises(Refused):
        check_name(ClaimName(namespace="default", name="epc", uid=uid))


@pytest.mark.parametrize(
    ("namespace", "name"), [("", "epc"), ("default", ""), ("../nodes", "x"), ("default", "x?watch=true"), ("a", "b#c")]
)
def test_names_that_could_change_the_path_asked_for_are_refused(namespace, name):
    with pytest.raises(Refused):
        check_name(ClaimName(namespace=namespace, name=name, uid=UID))


def test_something_else_than_a_claim_is_an_answer_of_somebody_else():
    with pytest.raises(Unreachable):
        allotments({"metadata": {}}, CLAIM, "a", KNOWN)
