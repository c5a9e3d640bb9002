"""Hold what the protobuf compiler wrote from the ``.proto`` files here; nothing of it is edited by hand.

Generated, in the folder ``src``, for each of them by::

    python -m grpc_tools.protoc -I. --python_out=. --mypy_out=. --grpclib_python_out=. kubenclave/node/_generated/NAME.proto

A test regenerates them and compares.
"""
