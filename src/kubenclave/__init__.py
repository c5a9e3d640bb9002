"""Runs programs that use Intel SGX enclaves on Kubernetes, on Azure or on one machine."""
