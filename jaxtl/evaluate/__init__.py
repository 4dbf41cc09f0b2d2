"""How good it is: accumulators over batches, then metrics; probes of frozen features; called, `jaxtl.api.evaluate`."""

from jaxtl.callable_folder import make_callable

make_callable(__name__)
