from __future__ import annotations

from dataclasses import replace

import pytest

from kubenclave.node.registration import (
    FIRST_RETRY_SECONDS,
    MAX_RETRY_SECONDS,
    STREAM_GRACE_SECONDS,
    FileIdentity,
    Situation,
    Standing,
    Step,
    attempted,
    listening,
    next_step,
    watched,
)

OWN = FileIdentity(device=1, inode=10, changed_ns=100)
KUBELET = FileIdentity(device=1, inode=11, changed_ns=200)
NOW = 1000.0

ALL_WELL = Situation(kubelet=KUBELET, own=OWN, streams=1, now_seconds=NOW)
LISTENING = listening(Standing(), OWN)
REGISTERED = attempted(LISTENING, KUBELET, NOW, accepted=True)


def test_a_new_agent_listens_first():
    assert next_step(Standing(), replace(ALL_WELL, own=None)) is Step.LISTEN


def test_a_listening_agent_registers_with_the_kubelet_it_finds():
    assert next_step(LISTENING, replace(ALL_WELL, streams=0)) is Step.REGISTER


def test_a_listening_agent_waits_for_a_kubelet():
    assert next_step(LISTENING, replace(ALL_WELL, kubelet=None, streams=0)) is Step.WAIT


def test_a_registered_agent_with_an_open_stream_waits():
    assert next_step(REGISTERED, replace(ALL_WELL, now_seconds=NOW + 86400)) is Step.WAIT


@pytest.mark.parametrize("own", [None, replace(OWN, inode=12), replace(OWN, changed_ns=101)])
def test_an_agent_whose_socket_is_gone_or_another_listens_afresh_even_while_a_stream_is_open(own):
    assert next_step(REGISTERED, replace(ALL_WELL, own=own)) is Step.LISTEN


def test_listening_afresh_forgets_the_registration():
    assert next_step(listening(REGISTERED, OWN), ALL_WELL) is Step.REGISTER


@pytest.mark.parametrize("kubelet", [replace(KUBELET, inode=12), replace(KUBELET, changed_ns=201)])
def test_a_new_kubelet_socket_is_registered_with_at_once_even_after_failures_and_with_its_inode_number_used_again(kubelet):
    standing = REGISTERED
    for _ in range(20):
        standing = attempted(standing, KUBELET, NOW, accepted=False)

    assert next_step(standing, replace(ALL_WELL, kubelet=kubelet, streams=0)) is Step.REGISTER


def test_a_lost_stream_is_answered_by_registering_again_after_a_grace():
    lost = replace(ALL_WELL, streams=0)

    assert next_step(REGISTERED, replace(lost, now_seconds=NOW + STREAM_GRACE_SECONDS - 0.1)) is Step.WAIT
    assert next_step(REGISTERED, replace(lost, now_seconds=NOW + STREAM_GRACE_SECONDS)) is Step.REGISTER


def test_failed_attempts_are_repeated_ever_more_slowly_up_to_a_limit():
    standing, pauses = LISTENING, []
    for _ in range(40):
        standing = attempted(standing, KUBELET, NOW, accepted=False)
        pauses.append(standing.retry_at_seconds - NOW)

    assert pauses[:3] == pytest.approx([FIRST_RETRY_SECONDS, 2 * FIRST_RETRY_SECONDS, 4 * FIRST_RETRY_SECONDS])
    assert pauses[-1] == MAX_RETRY_SECONDS
    assert pauses == sorted(pauses)
    assert next_step(standing, replace(ALL_WELL, streams=0)) is Step.WAIT


def test_an_open_stream_makes_the_next_retry_quick_again():
    standing = LISTENING
    for _ in range(10):
        standing = attempted(standing, KUBELET, NOW, accepted=False)

    retry = attempted(watched(standing), KUBELET, NOW, accepted=False)

    assert retry.retry_at_seconds == pytest.approx(NOW + FIRST_RETRY_SECONDS)
