"""The servers of the commands in docs/book, on loopback: book_servers.py DIR

It makes the files in DIR, starts the servers, writes one line to standard output when all of them answer, and stops
them when standard input closes. Everything is the same in each run: contents, addresses, passwords.

    http://127.0.7.1:7080/               files, with ranges and strong tags
    http://127.0.7.1:7080/cut/NAME       the first answer ends after 3 MiB, all later ones are complete (again with ?2)
    http://127.0.7.1:7080/replaced/NAME  as /cut/, and from then on the file has another version
    http://127.0.7.1:7081/               an IPFS gateway that has NAME as one block
    http://127.0.7.1:7082/               a gateway that changes one byte of it
    ftp://127.0.7.1:7021/ sftp://127.0.7.1:7022/ dav://127.0.7.1:7090/    user bob, password secret
    127.0.7.1:7881                       a libtorrent seeder of album.torrent
    http://127.0.7.1:7333/               an S3 server with the bucket music
"""

import base64
import hashlib
import http.server
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import unquote

HOST = "127.0.7.1"
MIB = 1 << 20
HERE = Path(__file__).parent
TOOLS = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bae/tools"
SYSTEM_PYTHON = "/usr/bin/python3"
children = []


def tool(name):
    found = shutil.which(name) or next(map(str, TOOLS.glob(f"*/bin/{name}")), None)
    if not found:
        sys.exit(f"error: {name} not found; run scripts/setup test")
    return found


def make_files(root):
    files = {
        "disc.iso": 8 * MIB,
        "note.txt": 2000,
        "music/01 first.flac": 6 * MIB,
        "music/02 second.flac": 5 * MIB,
        "music/cover.jpg": 90_000,
    }
    for number, (name, length) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(number).randbytes(length))
        os.utime(path, (1_750_000_000, 1_750_000_000))
    digest = hashlib.sha256((root / "disc.iso").read_bytes()).hexdigest()
    (root / "disc.iso.sha256").write_text(f"{digest}  disc.iso\n")


class Files(http.server.BaseHTTPRequestHandler):
    """Files with ranges. `cut` are the paths whose first answer was cut already."""

    protocol_version = "HTTP/1.1"
    root = None
    cut = set()

    def log_message(self, *_):
        pass

    def do_GET(self):
        mode, name = "", unquote(self.path.split("?")[0]).lstrip("/")
        for prefix in ("cut", "replaced"):
            if name.startswith(prefix + "/"):
                mode, name = prefix, name[len(prefix) + 1:]
        path = self.root / name
        if ".." in name or not path.is_file():
            return self.answer(404, b"not found\n", {})
        body = path.read_bytes()
        seen = self.path in self.cut
        tag = '"v2"' if mode == "replaced" and seen else '"v1"'
        first, last, status = 0, len(body) - 1, 200
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found and self.headers.get("If-Range", tag) == tag:
            first, status = int(found[1]), 206
            last = min(int(found[2] or last), last)
        headers = {"ETag": tag, "Accept-Ranges": "bytes", "Last-Modified": "Sun, 15 Jun 2025 15:06:40 GMT"}
        if status == 206:
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        if mode and not seen:
            if first:
                return self.answer(503, b"", {})
            self.cut.add(self.path)
            self.answer(status, body[first:last + 1], headers, sent=3 * MIB)
            return self.connection.shutdown(socket.SHUT_WR)
        self.answer(status, body[first:last + 1], headers)

    do_HEAD = do_GET

    def answer(self, status, body, headers, sent=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            try:
                self.wfile.write(body[:sent])
            except OSError:
                self.close_connection = True


def cid_of(block):
    """The CID of a block of bytes: version 1, raw, sha2-256, in base 32."""
    multihash = bytes([0x01, 0x55, 0x12, 0x20]) + hashlib.sha256(block).digest()
    return "b" + base64.b32encode(multihash).decode().rstrip("=").lower()


class Gateway(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    blocks = {cid_of(b""): b""}
    lies = False

    def log_message(self, *_):
        pass

    def do_GET(self):
        block = self.blocks.get(self.path.removeprefix("/ipfs/").split("?")[0])
        status = 404 if block is None else 200
        block = block or b""
        if self.lies and block:
            block = bytes([block[0] ^ 1]) + block[1:]
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.ipld.raw")
        self.send_header("Content-Length", str(len(block)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(block)

    do_HEAD = do_GET


class LyingGateway(Gateway):
    lies = True


def serve(handler, port):
    server = http.server.ThreadingHTTPServer((HOST, port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def start(log, *command, **options):
    # A child ends with this process, however it ends. Nothing in the servers is worth an orderly stop.
    command = ["setpriv", "--pdeathsig", "KILL", *command]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, **options)
    children.append(child)
    return child


def wait_for(port, child):
    for _ in range(600):
        if child.poll() is not None:
            sys.exit(f"error: {child.args[3]} ended with {child.returncode}; see the log in the folder")
        with socket.socket() as s:
            if s.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.1)
    sys.exit(f"error: nothing listens on port {port}")


def start_s3(folder, log):
    folder.mkdir()
    identity = {"name": "book", "credentials": [{"accessKey": "book", "secretKey": "book-secret"}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    child = start(
        log, tool("weed"), f"-logdir={folder}", "server", f"-dir={folder}", f"-ip={HOST}", f"-ip.bind={HOST}", "-s3",
        f"-s3.config={folder}/s3.json", "-s3.port=7333", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.port=7334",
        "-volume.port=7340", "-filer.port=7350", f"-s3.localSocket={folder}/s3.sock",
        f"-filer.localSocket={folder}/filer.sock", "-master.volumeSizeLimitMB=64", "-volume.max=20")
    wait_for(7333, child)
    bucket = ["curl", "-s", "--max-time", "5", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "book:book-secret",
              "-o", "/dev/null", "-w", "%{http_code}", "-X", "PUT", f"http://{HOST}:7333/music"]
    for _ in range(300):
        if subprocess.run(bucket, capture_output=True, text=True).stdout == "200":
            return
        time.sleep(0.1)
    sys.exit("error: the S3 server creates no bucket")


def main():
    root = Path(sys.argv[1]).resolve()
    files = root / "files"
    files.mkdir(parents=True)
    make_files(files)
    Files.root = files
    note = (files / "note.txt").read_bytes()
    Gateway.blocks[cid_of(note)] = note
    serve(Files, 7080)
    serve(Gateway, 7081)
    serve(LyingGateway, 7082)
    with open(root / "servers.log", "wb") as log:
        for kind, port in (("ftp", 7021), ("sftp", 7022), ("webdav", 7090)):
            command = [tool("rclone"), "serve", kind, str(files), "--addr", f"{HOST}:{port}", "--user", "bob",
                       "--pass", "secret", "--cache-dir", str(root / "rclone")]
            command += ["--passive-port", "30400-30450"] if kind == "ftp" else []
            wait_for(port, start(log, *command))
        torrent = files / "album.torrent"
        support = HERE.parent / "tests/integration/support"
        subprocess.run([tool("mktorrent"), "-d", "-l", "18", "-o", torrent, files / "music"], check=True,
                       stdout=log)
        seeder = start(log, SYSTEM_PYTHON, "-W", "ignore", support / "ltpeer.py", "seed", torrent, files,
                       "--listen", f"{HOST}:7881")
        wait_for(7881, seeder)
        start_s3(root / "s3", log)
        print("ready", flush=True)
        sys.stdin.read()


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
try:
    main()
finally:
    for child in children:
        child.kill()
        child.wait()
