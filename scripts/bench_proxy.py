"""A TCP proxy that counts HTTP requests and bytes: `bench_proxy.py HOST:PORT` listens on a free port of loopback.

It prints the port. After a line on stdin (or its end) it prints one JSON object and exits:

    {"sent": bytes from the client, "requests": {"PUT": N, ...}}

It parses only request lines, Content-Length and chunk sizes, and forwards every byte unchanged. It uses CPU, so times
are measured without it.
"""

import asyncio
import json
import sys
from collections import Counter

sent, requests = 0, Counter()


class RequestParser:
    """Finds the requests in the bytes that a client sends on one connection."""

    def __init__(self):
        self.head, self.body, self.chunked = b"", 0, False

    def feed(self, data):
        while data:
            if self.body:
                skipped = min(self.body, len(data))
                self.body -= skipped
                data = data[skipped:]
                continue
            self.head += data
            end = b"\r\n" if self.chunked else b"\r\n\r\n"
            head, found, data = self.head.partition(end)
            if not found:
                return
            self.head = b""
            self.chunk(head) if self.chunked else self.request(head)

    def request(self, head):
        lines = head.decode("latin-1").split("\r\n")
        method, target = lines[0].split(" ")[:2]
        query = target.partition("?")[2]
        # An UploadPart request is a PUT and is billed as one.
        requests[method + (" part" if "partNumber=" in query else "")] += 1
        fields = dict(line.lower().split(":", 1) for line in lines[1:])
        self.body = int(fields.get("content-length", 0))
        self.chunked = "chunked" in fields.get("transfer-encoding", "")

    def chunk(self, line):
        size = int(line.split(b";")[0], 16)
        # The data of a chunk and its line end. After the last chunk there is only the empty line.
        self.body, self.chunked = size + 2, size > 0


async def pump(reader, writer, parser=None):
    global sent
    try:
        while data := await reader.read(1 << 18):
            if parser:
                sent += len(data)
                parser.feed(data)
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def main():
    host, port = sys.argv[1].rsplit(":", 1)

    async def serve(reader, writer):
        to_reader, to_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, to_writer, RequestParser()), pump(to_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    print(json.dumps({"sent": sent, "requests": requests}), flush=True)


asyncio.run(main())
