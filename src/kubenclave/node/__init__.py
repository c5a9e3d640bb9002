"""Offer a node's enclave memory (EPC) to its kubelet, and hand the SGX device to the containers that were given some.

The node agent is a program of its own in a container of its own: it starts without the packages of the command line, of image building
and of Azure. It must not import other rooms than ``sgx`` and ``kube``, or run with privileges; it talks to the Kubernetes API only in the
modes that write there, and loads the client for it only then.

Decides (pure): ``choice``, ``inventory``, ``processor``, ``dialect``, ``offer``, ``handout``, ``registration``, ``node_status``,
``holdings``, ``mapped``, ``metrics``, ``dra/slices``, ``dra/claims``. Talks: ``sysfs``, ``cpuid``, ``processes`` (the host), ``kubelet``,
``session``, ``plugin`` and ``pod_resources`` (the kubelet), ``keeper``, ``announce`` and ``dra/publisher`` (the API server), ``scrape``
(whoever asks). ``agent`` wires them; ``python -m kubenclave.node`` runs it.
"""
