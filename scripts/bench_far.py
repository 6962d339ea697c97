"""A TCP proxy that gives a server the latency of a distant one: `bench_far.py HOST:PORT RTT_MS WINDOW`.

It listens on a free port of loopback and prints the port. Each direction of a connection delays its bytes by half a
round trip and accepts at most WINDOW bytes per round trip, as TCP does. The first bytes of a connection are accepted
one round trip late, which is the time of a handshake. The proxy runs until it is killed.
"""

import collections
import contextlib
import socket
import sys
import threading
import time

READ_LEN = 1 << 17


class Direction:
    """One direction of a connection. One thread reads from the source, another writes to the sink."""

    def __init__(self, source, sink, delay, window):
        self.source, self.sink, self.delay = source, sink, delay
        # A TCP window covers the bytes in flight and the acknowledgements on their way back: only half of it is
        # here.
        self.capacity, self.in_flight = window // 2, 0
        self.parts, self.changed = collections.deque(), threading.Condition()

    def start(self, handshake):
        threading.Thread(target=self.read, args=(handshake,), daemon=True).start()
        threading.Thread(target=self.write, daemon=True).start()

    def read(self, handshake):
        time.sleep(handshake)
        data = True
        while data:
            try:
                data = self.source.recv(READ_LEN)
            except OSError:
                data = b""
            with self.changed:
                self.parts.append((time.monotonic() + self.delay, data))
                self.in_flight += len(data)
                self.changed.notify_all()
                self.changed.wait_for(lambda: self.in_flight < self.capacity)

    def write(self):
        with contextlib.suppress(OSError):
            while part := self.next():
                self.sink.sendall(part)
        for end, how in ((self.sink, socket.SHUT_WR), (self.source, socket.SHUT_RD)):
            with contextlib.suppress(OSError):
                end.shutdown(how)
        with self.changed:
            self.capacity = sys.maxsize
            self.changed.notify_all()

    def next(self):
        with self.changed:
            self.changed.wait_for(lambda: self.parts)
            due, data = self.parts.popleft()
        time.sleep(max(0, due - time.monotonic()))
        with self.changed:
            self.in_flight -= len(data)
            self.changed.notify_all()
        return data


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    rtt, window = float(sys.argv[2]) / 1000, int(sys.argv[3])
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listener.getsockname()[1], flush=True)
    while True:
        client, _ = listener.accept()
        server = socket.create_connection((host, int(port)))
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        Direction(client, server, rtt / 2, window).start(rtt)
        Direction(server, client, rtt / 2, window).start(rtt)


main()
