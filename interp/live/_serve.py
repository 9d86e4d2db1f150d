"""`interp serve`: the live page with the model behind it, for whoever has the address and nobody else.

1. The standard library's server listens on 127.0.0.1. The address holds a random token; the page is at
   /TOKEN/, questions are POSTs to /TOKEN/ask, and there is nothing else.
2. Host must be this machine's and Origin, where a browser sends one, this page's: so no other site that is
   open in the browser can ask, whatever its name resolves to.
3. One computation at a time. A question that waits gives way to a newer one of its kind, and one that runs
   stops at its next step.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from interp._verbs import verb
from interp.live._answers import Answer, Answers, Superseded
from interp.live._page import Page, document

LARGEST = 65_536  # bytes of a question
_NAMES = ("127.0.0.1", "localhost")
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "frame-ancestors 'none'",
}


class Asking:
    """Answers, one at a time; the newest question of a kind is the one that counts."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self._running, self._counting = threading.Lock(), threading.Lock()
        self._newest: Counter[str] = Counter()

    def ask(self, kind: str, args: dict[str, Any]) -> Answer:
        """As `Answers.ask`, live; {"error": ..., "superseded": True} where a newer question came."""
        with self._counting:
            self._newest[kind] += 1
            number = self._newest[kind]
        with self._running:
            try:
                answer = self.answers.ask(kind, args, self._checkpoint(kind, number))
            except Superseded:
                return {"error": "a newer question has taken the place of this one.", "superseded": True}
        return answer | {"live": True} if kind == "meta" else answer

    def _checkpoint(self, kind: str, number: int) -> Callable[[], None]:
        def check() -> None:
            if self._newest[kind] != number:
                raise Superseded

        return check


class Server:
    """A page that is served, until it is closed: `with interp.live.serve(page) as server: ...`."""

    def __init__(self, page: Page, port: int) -> None:
        token = secrets.token_urlsafe(24)
        handler = _handler(document(page.title, {}), Asking(page.answers), token)
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/{token}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the server is closed, or the program interrupted."""
        while self._thread.is_alive():
            self._thread.join(1)  # in steps, so that an interruption is seen on every system

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@verb
def serve(page: Page, *, port: int = 0) -> Server:
    """Serve a page on this machine, so that a click may ask the model: any head, position or prompt.

    page: of `interp.explore`, with model and task. port: 0 takes any that is free. Returns a Server, which
    runs in the background: its `url` is the only way in, `close()` ends it. Nobody on another machine can
    reach it. Raises ValueError for a page without a model and for a port that cannot be had.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> page = interp.explore([], model, interp.tasks.ioi(model, n=2))
        >>> with interp.live.serve(page) as server:
        ...     server.url.startswith("http://127.0.0.1:")
        True
    """
    if page.answers.model is None:
        raise ValueError("this page has no model to ask. Give model= and task= to interp.explore.")
    try:
        return Server(page, port)
    except (OSError, OverflowError) as error:
        raise ValueError(f"port {port} cannot be had: {error}. Take another, or 0 for any.") from None


def _handler(page: str, asking: Asking, token: str) -> type[BaseHTTPRequestHandler]:
    """The handler of requests for one page."""
    return type("Handler", (_Handler,), {"page": page, "asking": asking, "token": token})


class _Handler(BaseHTTPRequestHandler):
    """Requests for one page; `_handler` makes the class of a page."""

    page: str
    asking: Asking
    token: str
    server_version, sys_version = "interp", ""
    timeout = 30  # seconds that a request may take to arrive

    def do_GET(self) -> None:
        if self._refused(""):
            return
        self._send(HTTPStatus.OK, self.page.encode(), "text/html; charset=utf-8")

    def do_POST(self) -> None:
        if self._refused("ask"):
            return
        if self.headers.get_content_type() != "application/json":
            return self._error(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a question is application/json.")
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            return self._error(HTTPStatus.LENGTH_REQUIRED, "the question does not say its length.")
        if int(length) > LARGEST:
            return self._error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {LARGEST:,} bytes are read.")
        self._answer(self.rfile.read(int(length)))

    def _answer(self, body: bytes) -> None:
        try:
            question = json.loads(body)
            kind, args = question["kind"], question.get("args", {})
            fits = isinstance(kind, str) and isinstance(args, dict)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            fits, kind, args = False, "", {}
        if not fits:
            return self._error(HTTPStatus.BAD_REQUEST, 'a question is {"kind": "grid", "args": {...}}.')
        if kind not in self.asking.answers.kinds:
            return self._error(HTTPStatus.BAD_REQUEST, self.asking.answers.ask(kind)["error"])
        answer = json.dumps(self.asking.ask(kind, args), allow_nan=False).encode()
        self._send(HTTPStatus.OK, answer, "application/json")

    def _refused(self, wanted: str) -> bool:
        """Whether a request is not this page's; it is then answered."""
        port = self.connection.getsockname()[1]
        hosts = [f"{name}:{port}" for name in _NAMES]
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in hosts:
            self._error(HTTPStatus.FORBIDDEN, "this server is asked by its own address only.")
        elif origin is not None and origin not in [f"http://{host}" for host in hosts]:
            self._error(HTTPStatus.FORBIDDEN, "this server answers its own page only.")
        elif not hmac.compare_digest(self.path.encode(), f"/{self.token}/{wanted}".encode()):
            self._error(HTTPStatus.NOT_FOUND, "there is nothing here.")
        else:
            return False
        return True

    def _error(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True
        self._send(status, json.dumps({"error": text}).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **_HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address, which is the key, would be in every line."""
