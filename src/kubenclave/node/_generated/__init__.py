"""Hold what the protobuf compiler wrote from deviceplugin.proto; nothing here is edited by hand.

Generated, in the folder ``src``, by::

    python -m grpc_tools.protoc -I. --python_out=. --mypy_out=. --grpclib_python_out=. kubenclave/node/_generated/deviceplugin.proto

A test regenerates it and compares.
"""
