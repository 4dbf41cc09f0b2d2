"""The layers that several families share."""
