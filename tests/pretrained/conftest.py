"""Settings for the packages that serve as references."""

import os

# Keras would look for TensorFlow first.
os.environ.setdefault("KERAS_BACKEND", "jax")
