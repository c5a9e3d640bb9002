"""Offer a node's enclave memory (EPC) to its kubelet, and hand the SGX device to the containers that were given some.

The node agent is a program of its own in a container of its own: it starts with grpclib, protobuf and structlog and nothing
else. It must not import other rooms, talk to the Kubernetes API, or run with privileges.

Decides (pure): ``inventory``, ``dialect``, ``offer``, ``registration``. Talks: ``sysfs`` (the host), ``kubelet`` and ``plugin``
(the device plugin API v1beta1). ``agent`` wires them; ``python -m kubenclave.node`` runs it.
"""
