"""The step and its parts, and the loop around it; called, it is `jaxtl.api.train`."""

from jaxtl.callable_folder import make_callable

make_callable(__name__)
