"""Bring images to registries and back, by the OCI distribution protocol.

A registry is not trusted: what it sends is checked by digest, how long and how much it sends is bounded, and it gets no credential that is
not its own. Protocol: OCI distribution-spec v1.1; token authentication as the distribution project documents it. Why this is own code on
an HTTP client: docs/explanation/registry.md.
"""

from __future__ import annotations
