"""Register resource providers and preview features, and wait until they are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kubenclave.cluster.azure.failures import telling
from kubenclave.cluster.azure.reply import text
from kubenclave.cluster.steps.plan import REGISTERED

if TYPE_CHECKING:
    from kubenclave.cluster.azure.work import Work

# A provider is registered within a minute or two; ARM sends no Retry-After here, and lets far more be read than this.
_PAUSE_SECONDS = 1.0
# Previews that everybody may register are so within some minutes; others wait for a person, or for ever.
FEATURE_SECONDS = 600.0


def register_provider(work: Work, namespace: str) -> None:
    """Register a provider and wait until it is registered; one that is, learns of new features.

    Raises:
        KubenclaveError: Azure refused.
        Unreachable: It was not registered within the time.
    """
    doing = f"registering {namespace}"
    with telling(doing):
        state = text(work.session.resources.providers.register(namespace), "registrationState")
        while state != REGISTERED:
            work.clock.pause(_PAUSE_SECONDS, doing)
            state = text(work.session.resources.providers.get(namespace), "registrationState")


def register_feature(work: Work, name: str, key: str) -> None:
    """Register a preview feature; go on without it where that takes too long.

    Raises:
        KubenclaveError: Azure refused.
    """
    namespace, _, feature = name.partition("/")
    doing = f"registering the feature {name}"
    deadline = time.monotonic() + FEATURE_SECONDS
    with telling(doing):
        state = text(work.session.features.features.register(namespace, feature), "properties", "state")
        if state != REGISTERED:
            work.watcher.news(f"the feature {name} is {state}: waiting, {FEATURE_SECONDS:.0f} s at most")
        while state != REGISTERED:
            if state == "Pending" or time.monotonic() > deadline:
                work.given_up.add(key)
                work.watcher.news(f"the feature {name} is {state}: going on without it")
                return
            work.clock.pause(_PAUSE_SECONDS, doing)
            state = text(work.session.features.features.get(namespace, feature), "properties", "state")
