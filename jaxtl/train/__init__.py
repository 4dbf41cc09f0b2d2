"""The step and its parts, and the loop around it."""
