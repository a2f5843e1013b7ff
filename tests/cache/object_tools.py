"""An S3 server on this machine, and a proxy before it that counts, refuses and drops requests."""

from __future__ import annotations

import http.client
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from moto.server import ThreadedMotoServer

from cache.s3 import Bucket
from cache.storage import locate

BUCKET = "teacher-caches"
SECRET = "w7Jr0Nq2hiddenSecretKey9fZb4TtQx"
KEY_ID = "AKIATESTKEYOFNOBODY"
# What a fault does to a request: an answer of that status, a connection closed without one ("drop") or half-way through
# it ("cut"), or no answer at all ("stall").
Fault = Callable[["Request"], str | None]


@dataclass
class Request:
    """One request as the proxy saw it."""

    number: int
    method: str
    path: str
    range: str | None
    agent: str
    is_signed: bool
    status: int | None = None
    sent: int = 0

    @property
    def key(self) -> str:
        """The object's key in the bucket."""
        return self.path.partition("?")[0].removeprefix(f"/{BUCKET}/")


@dataclass
class Proxy:
    """Hands requests on to a server, but for those that `fault` names."""

    server: str
    fault: Fault = lambda request: None
    requests: list[Request] = field(default_factory=list)
    endpoint: str = ""
    closed: threading.Event = field(default_factory=threading.Event)

    def of(self, method: str) -> list[Request]:
        return [request for request in self.requests if request.method == method]

    def sent(self) -> int:
        """Bytes of all answers' bodies."""
        return sum(request.sent for request in self.requests)


def environment(endpoint: str, **changes: str) -> dict[str, str]:
    """What a process needs to reach the server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "4",
    } | changes


@contextmanager
def s3_server() -> Iterator[str]:
    """A server with one bucket; yields its endpoint."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    # It writes a line for each of thousands of requests, and pytest keeps them.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server.start()
    host, port = server.get_host_and_port()
    connection = http.client.HTTPConnection(host, port)
    connection.request("PUT", f"/{BUCKET}")
    assert connection.getresponse().status == 200
    connection.close()
    yield f"http://{host}:{port}"
    server.stop()


@contextmanager
def proxy_of(server: str) -> Iterator[Proxy]:
    """A proxy before a server, on a port of its own."""
    proxy = Proxy(server)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body of an answer in one packet, at once: small packets wait for each other's receipts.
        disable_nagle_algorithm = True
        wbufsize = -1

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                headers, number = self.headers, len(proxy.requests) + 1
                agent, signed = headers.get("User-Agent", ""), "Authorization" in headers
                request = Request(number, self.command, self.path, headers.get("Range"), agent, signed)
                proxy.requests.append(request)
            fault = proxy.fault(request)
            if fault in ("drop", "stall"):
                if fault == "stall":
                    proxy.closed.wait()
                self.close_connection = True
            elif fault is not None and fault.isdecimal():
                request.status = int(fault)
                self.send_response(request.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.hand_on(request, body, half=fault == "cut")

        def hand_on(self, request: Request, body: bytes, half: bool) -> None:
            connection = http.client.HTTPConnection(proxy.server.removeprefix("http://"))
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            data = answer.read()
            request.status, request.sent = answer.status, len(data)
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            # An answer to HEAD has the length of the object and no body.
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(data)))
            self.end_headers()
            if half and len(data) > 1:
                data, self.close_connection = data[: len(data) // 2], True
            self.wfile.write(data)
            connection.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *arguments: Any) -> None:
            """Requests are counted, not printed."""

    server_of_proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server_of_proxy.serve_forever, daemon=True)
    thread.start()
    proxy.endpoint = f"http://127.0.0.1:{server_of_proxy.server_port}"
    yield proxy
    proxy.closed.set()
    server_of_proxy.shutdown()
    server_of_proxy.server_close()


def every(number: int, *kinds: str) -> Fault:
    """Every so many-th request fails, in one way after the other."""
    return lambda request: None if request.number % number else kinds[request.number // number % len(kinds)]


def make_public(endpoint: str, url: str) -> None:
    """Let anybody read the objects of a store."""
    bucket = locate(url)
    assert isinstance(bucket, Bucket)
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
    for key in bucket.sizes():
        # The server asks for a signature and does not look at it.
        signed = f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/us-east-1/s3/aws4_request, SignedHeaders=, Signature=0"
        headers = {"x-amz-acl": "public-read", "Authorization": signed}
        connection.request("PUT", f"/{BUCKET}/{bucket.prefix}/{key}?acl", headers=headers)
        answer = connection.getresponse()
        assert answer.status in (200, 204), answer.status
        answer.read()
    connection.close()


def remote_contents(url: str) -> dict[str, bytes]:
    """Every object of a store by its key, as `contents` gives a folder's."""
    bucket = locate(url)
    assert isinstance(bucket, Bucket)
    return {key: bucket.read(key) for key in sorted(bucket.sizes())}
