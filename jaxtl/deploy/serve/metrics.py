"""What a server has done, in the text that Prometheus reads."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of requests, images and batches, each server's own."""

    def __init__(self, waiting: Callable[[], int], ready: Callable[[], bool]):
        """Takes what tells how many images are waiting, and whether it is ready."""
        self._registry = CollectorRegistry()
        self.requests = Counter("jaxtl_requests", "Requests to predict, by status", ["status"], registry=self._registry)
        self.images = Counter("jaxtl_images", "Images, by what became of them", ["outcome"], registry=self._registry)
        self.seconds = Histogram(
            "jaxtl_request_seconds", "Seconds to answer a request", buckets=_SECONDS, registry=self._registry
        )
        self.batch_images = Histogram(
            "jaxtl_batch_images", "Images of a batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=self._registry
        )
        self.batch_seconds = Histogram(
            "jaxtl_batch_seconds", "Seconds to compute a batch", buckets=_SECONDS, registry=self._registry
        )
        gauge = Gauge("jaxtl_waiting_images", "Images taken and not answered yet", registry=self._registry)
        gauge.set_function(waiting)
        gauge = Gauge("jaxtl_ready", "Whether requests are answered", registry=self._registry)
        gauge.set_function(ready)

    def computed(self, images: int, seconds: float) -> None:
        """Counts a batch."""
        self.batch_images.observe(images)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """Returns all of them."""
        return generate_latest(self._registry)
