"""Processes, meshes, and how steps and states lie on them."""
