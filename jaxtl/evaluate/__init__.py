"""How good it is: accumulators over batches, then metrics; probes of frozen features."""
