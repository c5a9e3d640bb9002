"""The same cluster in the words of other tools. Pure: a spec in, text out."""
