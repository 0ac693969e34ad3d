"""Counts of what the server does, as Prometheus reads them."""

from starlette.types import Scope

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        self._requests = Counter(
            "retrieval_requests", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "retrieval_request_seconds",
            "Time to answer a request.",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.photos = Gauge("retrieval_photos", "Photos that can be found.", registry=self.registry)
        self.waiting = Gauge(
            "retrieval_waiting", "Requests that wait for a reader.", registry=self.registry
        )
        self.indexing = Gauge(
            "retrieval_indexing", "1 while an index run is going on.", registry=self.registry
        )

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request by its route, not by its path: paths are without number."""
        route = getattr(scope.get("route"), "path", "other")
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of them, in the text format of Prometheus."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
