"""What may stand in a cluster's way: rules of the file against itself, and the file against what Azure offers. Pure."""
