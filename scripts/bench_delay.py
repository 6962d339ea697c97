"""A TCP proxy that gives an HTTP server the latency of a distant one: `bench_delay.py HOST:PORT MILLISECONDS`.

It listens on a free port of loopback and prints the port. It delays each request by MILLISECONDS. The response is
not delayed, and is moved inside the kernel (splice), so that the proxy itself uses little CPU. After a line on stdin
(or its end) it prints one JSON object and exits:

    {"gets": N, "bytes": bytes of all responses, "shortest": length of the shortest requested range}
"""

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time

RANGE = re.compile(rb"\r\nrange: bytes=(\d+)-(\d+)\r\n", re.IGNORECASE)
lock = threading.Lock()
stats = {"gets": 0, "bytes": 0, "ranges": []}


def forward_requests(client, server, delay):
    """Delays and forwards the client's bytes, one recv at a time. A GET has no body, so one recv is one request."""
    with contextlib.suppress(OSError):
        while data := client.recv(1 << 16):
            if data.startswith(b"GET "):
                found = RANGE.search(data)
                with lock:
                    stats["gets"] += 1
                    if found:
                        stats["ranges"].append(int(found[2]) + 1 - int(found[1]))
            time.sleep(delay)
            server.sendall(data)
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_WR)


def forward_responses(server, client):
    pipe_out, pipe_in = os.pipe()
    try:
        while moved := os.splice(server.fileno(), pipe_in, 1 << 20):
            with lock:
                stats["bytes"] += moved
            while moved > 0:
                moved -= os.splice(pipe_out, client.fileno(), moved)
    except OSError:
        pass
    finally:
        os.close(pipe_out)
        os.close(pipe_in)
        for end in (server, client):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    delay = float(sys.argv[2]) / 1000
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listener.getsockname()[1], flush=True)

    def serve():
        while True:
            client, _ = listener.accept()
            server = socket.create_connection((host, int(port)))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=forward_requests, args=(client, server, delay), daemon=True).start()
            threading.Thread(target=forward_responses, args=(server, client), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    sys.stdin.readline()
    with lock:
        ranges = sorted(stats.pop("ranges"))
    print(json.dumps(stats | {"shortest": ranges[0] if ranges else 0}), flush=True)
    os._exit(0)


main()
