"""Explanations: which pixels a prediction rests on, as maps beside the image, and how far such a map can be trusted."""
