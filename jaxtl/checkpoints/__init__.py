"""Checkpoints: written from a copy, digested, retained, restored to the bit."""
