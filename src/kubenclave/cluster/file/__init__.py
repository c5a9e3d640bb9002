"""The cluster file: text in, a checked spec out, and every mistake told with its line. Pure but for reading the file."""
