"""A shop that is asked for things over HTTP/1.1, and its customers: instrumented by OpenTelemetry's packages for Flask and
requests alone. Where its spans go stands in the standard OTEL_* environment variables.

    shop.py server HOST PORT
    shop.py client ADDRESS CONNECTIONS RATE SECONDS EVERY

It is the one of ../go/main.go in another language: the same requests, the same faults.
"""

import logging
import os
import queue
import signal
import socket
import struct
import sys
import threading
import time

import flask
import requests
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from werkzeug.serving import WSGIRequestHandler, make_server

# What can go wrong with a request, in the order in which requests ask for it, and the status of its answer.
FAULTS = {
    "request-lost": 200,
    "answer-lost": 221,
    "request-kept": 200,
    "answer-kept": 222,
    "reset": 200,
    "abort": 200,
}


def serve(host: str, port: str) -> None:
    shop = flask.Flask("shop")
    FlaskInstrumentor().instrument_app(shop)

    @shop.get("/abort/<number>")
    def abort(number: str) -> str:
        # Closed like this, a connection is reset.
        connection = flask.request.environ["werkzeug.socket"]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(connection.detach())
        return ""

    @shop.get("/<kind>/<number>")
    def goods(kind: str, number: str) -> tuple[str, int]:
        return "here you are", FAULTS.get(kind, 200)

    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    server = make_server(host, int(port), shop, threaded=True)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()


def ask(address: str, connections: int, rate: int, seconds: int, every: int) -> None:
    RequestsInstrumentor().instrument()
    due: queue.Queue[int | None] = queue.Queue(maxsize=1)
    failed = [0] * connections
    workers = [
        threading.Thread(target=work, args=(address, every, due, failed, worker)) for worker in range(connections)
    ]
    for worker in workers:
        worker.start()
    made, started = 0, time.monotonic()
    while (passed := time.monotonic() - started) < seconds:
        while made < passed * rate and time.monotonic() - started < seconds:
            due.put(made)
            made += 1
        time.sleep(0.001)
    for _ in workers:
        due.put(None)
    for worker in workers:
        worker.join()
    print(f"requests={made} failed={sum(failed)}", flush=True)


def work(address: str, every: int, due: queue.Queue, failed: list[int], worker: int) -> None:
    secret = os.environ.get("SHOP_SECRET", "")
    # A pool of its own: one connection, which is kept.
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {secret}"
    session.cookies["session"] = secret
    while (number := due.get()) is not None:
        try:
            session.get(f"http://{address}{path_of(number, every)}")
        except requests.exceptions.ConnectionError:
            failed[worker] += 1


def path_of(number: int, every: int) -> str:
    if not every or number % every != every - 1:
        return f"/goods/{number}"
    return f"/{list(FAULTS)[number // every % len(FAULTS)]}/{number}"


def main(arguments: list[str]) -> None:
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    match arguments:
        case ["server", host, port]:
            serve(host, port)
        case ["client", address, *numbers]:
            ask(address, *map(int, numbers))
        case _:
            sys.exit(__doc__)
    provider.shutdown()


main(sys.argv[1:])
