"""Download a file over HTTP. A broken download resumes where it stopped; the caller verifies the content."""

import contextlib
import http.client
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from cnnjax import __version__
from cnnjax.errors import UserError

ATTEMPTS = 5
"""Consecutive attempts without a new byte before a download fails."""
TIMEOUT = 20.0
"""Seconds to wait for a connection, and for the next bytes."""
CHUNK = 2**18
PAUSE = 0.5
"""Seconds before the second attempt; doubled for each further one."""
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses of temporary failures."""

Report = Callable[[int, int | None], None]
"""Called with the number of bytes so far, and the total if the server states it."""


class Unreachable(UserError):
    """The server cannot be reached; there may be no network."""


class _Broken(Exception):
    """The transfer failed in a way that another attempt may not."""


def download(address: str, part: Path, largest: int, report: Report, *, resume: bool = True) -> None:
    """Download ``address`` to the file ``part``, which is complete when this returns.

    After an error or a kill, ``part`` holds the bytes received so far; another call continues from there.

    Args:
        address: http or https.
        part: the file to write; its folder must exist.
        largest: maximum bytes.
        report: progress callback.
        resume: False always starts from the first byte.

    Raises:
        Unreachable: there is no connection; raised at once if no byte was received.
        UserError: the server refuses, stays unreliable, or sends more than ``largest`` bytes.
    """
    if not resume:
        part.unlink(missing_ok=True)
    failures, problem, at_start = 0, "", _size(part)
    while failures < ATTEMPTS:
        size = _size(part)
        if failures:
            time.sleep(PAUSE * 2 ** (failures - 1))
        try:
            return _transfer(address, part, largest, report)
        except Unreachable as error:
            if size == at_start:  # there may be no network
                raise
            problem = str(error)
        except _Broken as error:
            problem = str(error)
        failures = 1 if _size(part) > size else failures + 1
    raise UserError(f"{address} could not be downloaded ({problem}); run the same command to resume")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _transfer(address: str, part: Path, largest: int, report: Report) -> None:
    """Receive the rest of the file in one request; return when it is complete."""
    first = _size(part)
    with contextlib.closing(_open(address, first)) as response:
        if response.status == 416:  # nothing is left, or the file on the server has become shorter
            if _total(response) == first:
                return
            part.unlink(missing_ok=True)
            raise _Broken("the file on the server has changed")
        resumed = response.status == 206
        if resumed and _range_start(response) != first:
            part.unlink(missing_ok=True)
            raise _Broken("the server sent another range")
        done = first if resumed else 0
        total = _total(response)
        if max(done, total or 0) > largest:
            raise UserError(f"{address} has {total:,} bytes; at most {largest:,} are expected; check the address")
        with part.open("ab" if resumed else "wb") as file:
            done = _copy(response, file, done, largest, lambda done: report(done, total))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done != total:
        raise _Broken(f"the connection broke after {done:,} of {total:,} bytes")


def _copy(response: Any, file: IO[bytes], done: int, largest: int, report: Callable[[int], None]) -> int:
    """Write the response to a file; return the position after its last byte."""
    report(done)
    while True:
        try:
            data = response.read(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(f"the connection broke: {_reason(error)}") from error
        if not data:
            return done
        done += len(data)
        if done > largest:
            raise UserError(f"{response.url} sent more than {largest:,} bytes, which is too many; check the address")
        file.write(data)
        report(done)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but not from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise UserError(f"{req.full_url} redirects to {newurl}, which is not encrypted; it was not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(address: str, first: int) -> Any:
    """Send the request for the bytes from ``first`` on; return the response, also for status 416."""
    headers = {"User-Agent": f"cnnjax/{__version__}", **({"Range": f"bytes={first}-"} if first else {})}
    request = urllib.request.Request(address, headers=headers)
    if request.type not in ("http", "https"):
        raise UserError(f"{address} is not an http or https address; correct it")
    try:
        return urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        error.close()
        answer = f"{error.code} {error.reason}"
        if error.code in TRY_AGAIN:
            raise _Broken(f"the server answers {answer}") from None
        raise UserError(f"{address} cannot be downloaded: the server answers {answer}; check the address") from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ConnectionResetError | http.client.HTTPException):
            raise _Broken(_reason(reason)) from error
        raise Unreachable(f"{address} cannot be reached ({_reason(reason)})") from error


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT:.0f} seconds"
    if isinstance(error, socket.gaierror):
        return "the server's name cannot be resolved"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _total(response: Any) -> int | None:
    """Return the size of the whole file, if the server states it."""
    if match := re.search(r"/(\d+)\s*$", response.headers.get("Content-Range", "")):
        return int(match[1])
    length = response.headers.get("Content-Length", "")
    return int(length) if response.status == 200 and length.isdecimal() else None


def _range_start(response: Any) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None
