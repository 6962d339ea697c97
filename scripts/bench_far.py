"""A TCP proxy that makes a server as slow to answer as one far away: `bench_far.py HOST:PORT RTT_MS WINDOW`.

It listens on a free port of loopback and prints it. Each direction of a connection is a line of its own: what goes in comes
out half a round trip later, and no more than WINDOW bytes go in within a round trip, as TCP would have it. A connection
takes its first bytes one round trip late, which is what a handshake takes. It runs until it is killed.
"""

import collections
import contextlib
import socket
import sys
import threading
import time

AT_ONCE = 1 << 17


class Line:
    """One direction. A thread reads into it and another writes out of it."""

    def __init__(self, source, sink, delay, window):
        self.source, self.sink, self.delay = source, sink, delay
        # A window is what is under way there and its acknowledgements on the way back: half of it is here.
        self.room, self.under_way = window // 2, 0
        self.parts, self.changed = collections.deque(), threading.Condition()

    def start(self, handshake):
        threading.Thread(target=self.read, args=(handshake,), daemon=True).start()
        threading.Thread(target=self.write, daemon=True).start()

    def read(self, handshake):
        time.sleep(handshake)
        data = True
        while data:
            try:
                data = self.source.recv(AT_ONCE)
            except OSError:
                data = b""
            with self.changed:
                self.parts.append((time.monotonic() + self.delay, data))
                self.under_way += len(data)
                self.changed.notify_all()
                self.changed.wait_for(lambda: self.under_way < self.room)

    def write(self):
        with contextlib.suppress(OSError):
            while part := self.next():
                self.sink.sendall(part)
        for end, how in ((self.sink, socket.SHUT_WR), (self.source, socket.SHUT_RD)):
            with contextlib.suppress(OSError):
                end.shutdown(how)
        with self.changed:
            self.room = sys.maxsize
            self.changed.notify_all()

    def next(self):
        with self.changed:
            self.changed.wait_for(lambda: self.parts)
            due, data = self.parts.popleft()
        time.sleep(max(0, due - time.monotonic()))
        with self.changed:
            self.under_way -= len(data)
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
        Line(client, server, rtt / 2, window).start(rtt)
        Line(server, client, rtt / 2, window).start(rtt)


main()
