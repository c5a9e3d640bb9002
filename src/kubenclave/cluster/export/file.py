"""The cluster as a cluster file, with what is the default left out. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubenclave.cluster.spec import ClusterSpec


def cluster_file(spec: ClusterSpec) -> str:
    """Return the YAML that ``kubenclave cluster plan`` and ``up`` read."""
    return yaml.safe_dump(_without_defaults(spec), sort_keys=False, allow_unicode=True, width=120)


def _without_defaults(value: msgspec.Struct) -> Mapping[str, object]:
    said: dict[str, object] = {}
    for field in msgspec.structs.fields(value):
        found = getattr(value, field.name)
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        if found != default:
            said[field.encode_name] = _plain(found)
    return said


def _plain(value: object) -> object:
    if isinstance(value, msgspec.Struct):
        return _without_defaults(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    plain: object = msgspec.to_builtins(value)
    return plain
