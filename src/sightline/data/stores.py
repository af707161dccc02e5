"""Object stores (``s3://…``), each read and written by its own package: what is said when one fails or is silent.

A package tries again for a minute or more, in silence or with a traceback in its log. Here a failure is one line, a
long silence is another, and a store that fails is told from a file that does.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sightline.errors import StoreError
from sightline.files import reason

# In these an object appears at once and whole, and replaces the one before it.
STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "memory")
# What stands for a connection that failed: of Python and botocore, of aiohttp (gcsfs), of azure-core (adlfs).
LOST = {
    "ConnectionError", "HTTPClientError", "ClientConnectionError", "ClientPayloadError",
    "ServiceRequestError", "ServiceResponseError", "TransportError",
}  # fmt: skip
BUSY = (408, 429)  # a store's statuses for "later", besides 500 and more
SILENT = 60.0  # seconds after which a silence is told
AGAIN = "run the same command again, once the store answers"

# Without a handler, `logging` prints what they log, tracebacks too.
for _package in ("fsspec", "gcsfs", "azure", "adlfs", "botocore", "s3fs"):
    logging.getLogger(_package).addHandler(logging.NullHandler())


@contextmanager
def asked(url: str, how: str) -> Iterator[None]:
    """While a store is asked: a long silence is told, and its failure is a `StoreError` (see `check_answered`).

    ``how``: what is asked for, as in "it cannot be read".
    """
    timer = threading.Timer(SILENT, _tell, [f"sightline: {url} is not {how} after {SILENT:.0f} s"])
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        check_answered(url, error, how)
        raise
    finally:
        timer.cancel()


def check_answered(url: str, error: BaseException, how: str = "read") -> None:
    """Raise `StoreError` if ``error`` means that an object store fails, not that this file cannot be had.

    >>> check_answered("s3://b/a.jpg", FileNotFoundError())
    >>> check_answered("https://host/a.jpg", ConnectionError())  # of many hosts one may be gone
    >>> check_answered("s3://b/a", ConnectionError("gone"))
    Traceback (most recent call last):
    sightline.errors.StoreError: s3://b/a cannot be read: gone; run the same command again, once the store answers
    """
    if url.partition("://")[0].lower() in STORES and _fails(error):
        raise StoreError(f"{url} cannot be {how}: {store_reason(error)}; {AGAIN}") from error


def store_reason(error: BaseException) -> str:
    """What a store's package says, in one short line.

    >>> store_reason(ValueError("No such container.\\nRequestId:1\\nTime:2")), store_reason(TimeoutError())
    ('No such container.', 'it did not answer in time')
    """
    if isinstance(error, RecursionError):
        return "its package calls itself without end; is the bucket in another region?"
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)) and not str(error):
        return "it did not answer in time"
    words, mark, _ = str(error).partition("\nRequestId:")  # as Azure goes on, for ten lines
    return " ".join(words.split()) if mark else reason(error)


def _fails(error: BaseException | None) -> bool:
    """Whether an error, or the one that it was made of, is of the connection or of a server's own."""
    if error is None:
        return False
    status = _status(error)
    if status is not None:
        return status >= 500 or status in BUSY
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return True
    return bool(LOST & {kind.__name__ for kind in type(error).__mro__}) or _fails(error.__cause__)


def _status(error: BaseException) -> int | None:
    """The HTTP status that a package's error holds: azure-core's, aiohttp's, gcsfs's or botocore's."""
    response = getattr(error, "response", None)
    answer = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    found = (getattr(error, name, None) for name in ("status_code", "status", "code"))
    for one in (*found, answer.get("HTTPStatusCode")):
        if str(one).isdecimal():
            return int(str(one))
    return None


_lock, _told = threading.Lock(), [-SILENT]


def _tell(words: str) -> None:
    """One line on stderr, and no other soon: many threads may wait for one store."""
    with _lock:
        if time.monotonic() - _told[0] < SILENT:
            return
        _told[0] = time.monotonic()
    print(
        f"{words}; the store is slow or does not answer, and its package tries on",
        file=sys.stderr,
        flush=True,
    )
