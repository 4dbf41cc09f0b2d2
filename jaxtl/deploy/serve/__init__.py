"""Predictions over HTTP: requests are read within limits, images are computed in batches of many requests."""
