"""Receivers of usage events in threads of their own, for gateways in processes of their own."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server


class Inbox:
    """What a receiver got, and how it answers: `status` after `wait_s`; 0 closes the connection without a word."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.wait_s = 0.0
        self.got: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()


@contextmanager
def inbox() -> Iterator[Inbox]:
    """A running receiver."""
    box = Inbox()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with box.lock:
                box.got.append(json.loads(body))
                box.ids.append(self.headers["webhook-id"])
                box.headers.append({name.lower(): value for name, value in self.headers.items()})
            time.sleep(box.wait_s)
            if box.status == 0:
                self.close_connection = True
                return
            self.send_response(box.status)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with _running(server):
        box.url = f"http://127.0.0.1:{server.server_port}/llm-usage"
        yield box


@contextmanager
def wsgi(application: Callable[..., Any]) -> Iterator[str]:
    """A running WSGI application; its address."""

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server: WSGIServer = make_server("127.0.0.1", 0, application, handler_class=Quiet)
    with _running(server):
        yield f"http://127.0.0.1:{server.server_port}"


@contextmanager
def _running(server: Any) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
