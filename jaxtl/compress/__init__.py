"""Smaller and faster models: kernels with zeros, kernels in few bits, and layers with fewer units."""
