"""All of it on one machine: real Kubernetes nodes, a simulated SGX host, the demo.

This room plays every counterpart that the other rooms have elsewhere. It runs upstream programs and imitates none of them;
only the SGX device is a stand-in, and what it shows says "simulated". Nothing but the command line may know this room.
"""
