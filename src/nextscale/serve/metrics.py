"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

OUTCOMES = ("answered", "refused", "cancelled", "failed")


class Counted(Protocol):
    """What is looked at whenever somebody asks."""

    waiting: Sized


class Metrics:
    """The counters of one server."""

    def __init__(self, service: Counted) -> None:
        self.registry = registry = CollectorRegistry()
        about: Any = {"registry": registry}
        self.requests = Counter(
            "nextscale_requests", "Requests by what became of them", ["endpoint", "outcome"], **about
        )
        self.seconds = Histogram(
            "nextscale_request_seconds", "From a request's arrival to its end", ["endpoint"], **about
        )
        self.pictures = Counter("nextscale_pictures", "Pictures that were drawn to the end", **about)
        self.batches = Histogram(
            "nextscale_batch_pictures", "Pictures drawn together", buckets=(1, 2, 4, 8, 16, 32, 64), **about
        )
        self.restarts = Counter("nextscale_worker_restarts", "Workers that died or stood still", **about)
        waiting = Gauge("nextscale_waiting_pictures", "Pictures that wait", **about)
        waiting.set_function(lambda: len(service.waiting))

    def batch(self, pictures: int) -> None:
        """Pictures begin to be drawn together."""
        self.batches.observe(pictures)

    def request(self, endpoint: str, outcome: str, seconds: float) -> None:
        """A request came to its end."""
        self.requests.labels(endpoint, outcome).inc()
        self.seconds.labels(endpoint).observe(seconds)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
