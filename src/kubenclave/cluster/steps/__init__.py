"""From what is there and what is wanted to ordered steps, and the carrying out of steps that others can do. Pure but for its clock."""
