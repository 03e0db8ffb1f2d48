"""A real HTTP server on loopback that misbehaves on request."""

import contextlib
import http.server
import re
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple


class Answer(NamedTuple):
    """How the server answers one request."""

    status: int = 200
    cut: int | None = None
    """Close the connection after this many bytes of the body."""
    ranges: bool = True
    """Whether a Range header is respected."""
    body: bytes | None = None
    """Send this instead of the file."""
    shift: int = 0
    """Send the range that starts this many bytes later than asked."""
    location: str = ""
    """Redirect to this path."""
    length: bool = True
    """Whether Content-Length is sent; otherwise the end of the connection ends the body."""
    pause: float = 0.0
    """Seconds between chunks of 64 KiB."""


class Server:
    """Serves one file under every path; ``answers`` are used first, in order; then all answers are correct."""

    def __init__(self, content: bytes):
        self.content, self.answers = content, []
        self.requests: list[tuple[str, str | None]] = []
        """Path and Range header of each request."""

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        plan = self.answers.pop(0) if self.answers else Answer()
        handler.close_connection = True
        if plan.location:
            handler.send_response(302)
            handler.send_header("Location", plan.location)
            handler.end_headers()
            return
        if plan.status >= 400:
            handler.send_error(plan.status)
            return
        content = self.content if plan.body is None else plan.body
        first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and plan.ranges else 0
        if first >= len(content) and first:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.end_headers()
            return
        sent = content[first + plan.shift if first else 0 :]
        handler.send_response(206 if first else 200)
        if first:
            handler.send_header("Content-Range", f"bytes {first + plan.shift}-{len(content) - 1}/{len(content)}")
        if plan.length:
            handler.send_header("Content-Length", str(len(sent)))
        handler.end_headers()
        sent = sent[: plan.cut]
        with contextlib.suppress(ConnectionError):  # the client was killed
            for start in range(0, len(sent), 2**16):
                handler.wfile.write(sent[start : start + 2**16])
                time.sleep(plan.pause)


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[tuple[Server, str]]:
    """Yield a server and its address."""
    server = Server(content)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.answer(self)

        def log_message(self, *arguments):
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
