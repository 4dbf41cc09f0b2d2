"""The file formats of weights."""
