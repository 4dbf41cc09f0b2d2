"""jaxtl: transfer learning for image classification, in pure JAX."""

__version__ = "0.1.0"
