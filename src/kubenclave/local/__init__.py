"""All of it on one machine: real Kubernetes nodes, a simulated SGX host, a simulated Azure, the demo.

This room plays every counterpart that the other rooms have elsewhere. It runs upstream's Kubernetes and imitates none of it;
the SGX device and Azure are stand-ins, and what they show says "simulated". Nothing but the command line may know this room.
"""
