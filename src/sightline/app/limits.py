"""What a visitor may send, and how often."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """``megabytes`` and ``megapixels`` of a photo; ``photos`` at a time; a visitor's ``photos_per_minute``.

    ``requests_per_minute``: of one address, whatever they are (moving a slider makes several). ``visitors``: whose
    photos are in memory at the same time; the one who has been away the longest gives way. ``idle_minutes``: after
    these a visitor's photos are forgotten, as they are when the page is closed.
    """

    megabytes: float = 20.0
    megapixels: float = 40.0
    photos: int = 24
    photos_per_minute: int = 60
    requests_per_minute: int = 1200
    visitors: int = 32
    idle_minutes: float = 30.0

    @property
    def body_bytes(self) -> int:
        """The largest request: photos come as base64, all in one request.

        >>> Limits(megabytes=3, photos=1).body_bytes
        4064000
        """
        return round(self.megabytes * 4 / 3 * 1e6) + 64_000


class RateLimit:
    """At most ``per_minute`` events of one key in any 60 seconds.

    >>> now = iter([0.0, 1.0, 2.0, 61.0])
    >>> limit = RateLimit(2, clock=lambda: next(now))
    >>> [limit.allows("a") for _ in range(4)]
    [True, True, False, True]
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._seen: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def allows(self, key: str, events: int = 1) -> bool:
        """Whether ``key`` may do ``events`` more now; if so, they count."""
        with self._lock:
            now = self._clock()
            seen = self._seen.setdefault(key, deque())
            while seen and seen[0] <= now - 60:
                seen.popleft()
            if len(seen) + events > self.per_minute:
                return False
            seen.extend([now] * events)
            if len(self._seen) > 10_000:  # addresses that have not been heard of for a minute
                self._seen = {name: times for name, times in self._seen.items() if times[-1] > now - 60}
            return True
