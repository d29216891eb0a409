"""What a service tells Prometheus. The library is imported with the first Metrics: whoever serves none goes without."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import Response

if TYPE_CHECKING:
    from prometheus_client import Counter

__all__ = ["Metrics"]


class Metrics:
    """The numbers of one service."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry

        self._registry = CollectorRegistry()

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A number that `read` gives whenever it is asked for."""
        from prometheus_client import Gauge

        Gauge(f"kilocall_{name}", text, registry=self._registry).set_function(read)

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A number that grows, one for each value of the labels."""
        from prometheus_client import Counter

        return Counter(f"kilocall_{name}", text, labels, registry=self._registry)

    def response(self) -> Response:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)
