"""A store that fails is told from a file that cannot be had, in each package's own errors; a long silence is told."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import pytest

from sightline.data import stores
from sightline.data.stores import asked, check_answered, store_reason
from sightline.errors import StoreError


def stub(name: str, base: type[Exception] = Exception, **fields: Any) -> Exception:
    """An error whose class has the name of a package's."""
    made = type(name, (base,), {})("said")
    vars(made).update(fields)
    return made


def botocore(status: int, errno: int = 121) -> OSError:
    """What s3fs makes of a `ClientError` of botocore."""
    made = OSError(errno, "said")
    made.__cause__ = stub("ClientError", response={"ResponseMetadata": {"HTTPStatusCode": status}})
    return made


FAILS = [
    botocore(500),
    botocore(503, errno=16),
    stub("ConnectionClosedError", type("HTTPClientError", (Exception,), {})),
    stub("HttpError", code=500),  # gcsfs
    stub("HttpError", code="503"),
    stub("HttpError", code=429),
    stub("ServerDisconnectedError", type("ClientConnectionError", (Exception,), {})),  # aiohttp
    stub("HttpResponseError", status_code=503, response=object()),  # azure-core
    stub("ServiceRequestError", status_code=None),
    stub("ServiceResponseError"),
    TimeoutError(),
    asyncio.TimeoutError(),
    ConnectionResetError(104, "reset"),
]
OF_ONE_FILE = [
    FileNotFoundError(2, "no"),
    PermissionError(13, "no"),
    botocore(403, errno=5),  # an object in an archive
    OSError("Forbidden: b/photos/o"),  # gcsfs
    ValueError("Bad Request: b/photos/o"),
    stub("HttpError", code=404),
    stub("HttpResponseError", status_code=409),  # a blob in an archive
]


@pytest.mark.parametrize("error", FAILS, ids=repr)
def test_a_store_that_fails_is_told_from_a_file(error: Exception) -> None:
    with pytest.raises(
        StoreError, match=r"^gs://b/a cannot be read: .*; run the same command again, once"
    ) as told:
        check_answered("gs://b/a", error)
    assert told.value.__cause__ is error
    check_answered("https://host/a", error)  # one host of many
    check_answered("a/b", error)


@pytest.mark.parametrize("error", OF_ONE_FILE, ids=repr)
def test_a_file_that_cannot_be_had_is_no_store_that_fails(error: Exception) -> None:
    check_answered("AZ://b/a", error)
    with pytest.raises(type(error)), asked("az://b/a", "read"):
        raise error


def test_what_a_store_says_is_one_short_line() -> None:
    azure = "The specified container does not exist.\nRequestId:0d1b\nTime:2026\nErrorCode:ContainerNotFound"
    assert store_reason(stub("HttpResponseError")) == "said"
    assert store_reason(ValueError(azure)) == "The specified container does not exist."
    assert store_reason(asyncio.TimeoutError()) == "it did not answer in time"
    assert store_reason(TimeoutError("on reading")) == "on reading"
    assert store_reason(RecursionError("deep")).endswith("is the bucket in another region?")


def test_a_long_silence_is_told_once_for_all_threads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stores, "SILENT", 0.05)
    monkeypatch.setattr(stores, "_told", [-1.0])

    def wait(seconds: float) -> None:
        with asked("s3://b/a", "written"):
            time.sleep(seconds)

    wait(0.0)
    threads = [threading.Thread(target=wait, args=(0.09,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "sightline: s3://b/a is not written after 0 s; the store is slow or does not answer, and its package tries on"
    ]


def test_what_a_package_logs_is_not_printed() -> None:
    for name in ("fsspec", "gcsfs", "azure", "adlfs", "botocore", "s3fs"):
        assert any(isinstance(one, logging.NullHandler) for one in logging.getLogger(name).handlers)
