"""The get section of scripts/bench: files from nginx on loopback, by bae and by those who do the same.

Every client writes to the same memory-backed folder. nginx shares the processors, so only ratios say something; the slow
location sends 5 MiB/s on each connection, where only the number of connections and their end count.
"""

import os
import shutil
import statistics
import subprocess

import bench_clients as clients
from bench_clients import MIB, Failed, Work, helper, stop
from bench_servers import SERVERS, free_ports

CONFIG = """
worker_processes 2;
daemon off;
pid {dir}/pid;
error_log {dir}/error.log;
{user}
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  sendfile on; tcp_nopush on;
  server {{
    listen 127.0.0.1:{plain};
    listen 127.0.0.1:{tls} ssl http2;
    ssl_certificate {dir}/both.pem; ssl_certificate_key {dir}/both.pem;
    location /f/ {{ alias {data}/; }}
    location /slow/ {{ alias {data}/; limit_rate 5m; }}
  }}
}}
"""


class Nginx:
    """Ready when entered. It has no output to read, unlike a seeder."""

    def __init__(self, data):
        self.data = data

    def __enter__(self):
        self.dir = Work.fresh("nginx")
        self.plain, self.tls = free_ports(2)
        self.ca = os.path.join(self.dir, "both.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
                        "-addext", "basicConstraints=critical,CA:FALSE",
                        "-keyout", f"{self.dir}/key", "-out", f"{self.dir}/cert"], check=True, stderr=subprocess.DEVNULL)
        with open(self.ca, "w") as both:
            both.write(open(f"{self.dir}/key").read() + open(f"{self.dir}/cert").read())
        config = os.path.join(self.dir, "nginx.conf")
        with open(config, "w") as f:
            user = "user root;" if os.getuid() == 0 else ""
            f.write(CONFIG.format(dir=self.dir, data=self.data, plain=self.plain, tls=self.tls, user=user))
        self.process = helper(["nginx", "-c", config, "-e", f"{self.dir}/error.log"])
        clients.wait_port("127.0.0.1", self.plain)
        return self

    def __exit__(self, *_):
        # Killed, the master would leave its workers.
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        stop(self.process)

    def drain(self):
        pass

    def url(self, place, name):
        return f"http://127.0.0.1:{self.plain}/{place}/{name}"

    def tls_url(self, name):
        return f"https://127.0.0.1:{self.tls}/f/{name}"


def bae(url, out, connections, *more):
    return [os.environ["BENCH_BAE"], "-q", "get", url, "-o", out, "-x", str(connections), *more]


def curl(url, out, *more):
    return ["curl", "-s", "-f", "-o", out, url, *more]


def aria2(url, out, connections):
    n = str(connections)
    return ["aria2c", "--no-conf=true", "-q", "-x", n, "-s", n, "-k", "1M", "--file-allocation=none",
            "-d", os.path.dirname(out), "-o", os.path.basename(out), url]


def axel(url, out, connections):
    return ["axel", "-q", "-n", str(connections), "-o", out, url]


# A part a connection: shorter ones would each have the burst that nginx allows before its limit counts.
def wget2(url, out, connections):
    return ["wget2", "-q", "--chunk-size=20M", f"--max-threads={connections}", "-O", out, url]


def run(server, name, args, size, raw, tell):
    """One client once; None when it failed. What it wrote must have the right length."""
    out = os.path.join(Work.fresh("got"), "file")
    try:
        result = clients.measure(args(out), server, 900, os.environ | {"HOME": Work.dir})
        if os.path.getsize(out) != size:
            raise Failed(f"it wrote {os.path.getsize(out)} bytes")
    except (Failed, OSError) as e:
        tell(f"{name} failed: {e}")
        raw.append({"section": "get", "client": name, "failed": str(e)})
        return None
    finally:
        shutil.rmtree(os.path.dirname(out), ignore_errors=True)
    raw.append({"section": "get", "client": name, "wall": result.wall, "cpu": result.cpu, "rss": result.rss})
    tell(f"{name} {result.wall:.2f} s, cpu {result.cpu:.2f} s, rss {result.rss / MIB:.0f} MiB")
    return result


def medians(server, ways, size, rounds, raw, tell):
    """Wall and CPU of each way, and its highest RSS; the ways take turns."""
    results = {name: [] for name in ways}
    for _ in range(rounds):
        for name, args in ways.items():
            result = run(server, name, args, size, raw, tell)
            if result:
                results[name].append(result)
    middle = statistics.median
    return {name: (middle(r.wall for r in done), middle(r.cpu for r in done), max(r.rss for r in done))
            for name, done in results.items() if done}


def rows_of(what, found, ours, limits, row):
    """What each took, and ours against the others: `limits` has the most that each ratio of walls may be."""
    for name, (wall, cpu, rss) in found.items():
        row(f"{name}: wall", wall, "s")
        row(f"{name}: cpu", cpu, "s")
        row(f"{name}: peak RSS", rss / MIB, "MiB", 48 if name == ours else None)
    for other, limit in limits.items():
        both = ours in found and other in found
        row(f"{what}: wall of bae / {other}", found[ours][0] / found[other][0] if both else None, "x", limit)


def get(folder, size, rounds, row, tell, raw):
    """`folder` has `get.bin`, of `size` bytes."""
    slow = min(size, 320 * MIB)
    with open(os.path.join(folder, "get.bin"), "rb") as whole, open(os.path.join(folder, "slow.bin"), "wb") as part:
        shutil.copyfileobj(_first(whole, slow), part, MIB)
    with Nginx(folder) as server:
        url, slow_url, tls = server.url("f", "get.bin"), server.url("slow", "slow.bin"), server.tls_url("get.bin")
        one = medians(server, {
            "bae -x1": lambda out: bae(url, out, 1),
            "curl": lambda out: curl(url, out),
        }, size, rounds, raw, tell)
        rows_of("one connection", one, "bae -x1", {"curl": 1.05}, row)
        if len(one) == 2:
            row("one connection: cpu of bae / curl", one["bae -x1"][1] / one["curl"][1], "x", 1.2)
        many = medians(server, {
            "bae -x16": lambda out: bae(slow_url, out, 16),
            "aria2 -x16": lambda out: aria2(slow_url, out, 16),
            "axel -n16": lambda out: axel(slow_url, out, 16),
            "wget2, 16 threads": lambda out: wget2(slow_url, out, 16),
        }, slow, rounds, raw, tell)
        limits = {"aria2 -x16": 1.0, "axel -n16": 1.0, "wget2, 16 threads": 1.0}
        rows_of("5 MiB/s each", many, "bae -x16", limits, row)
        secure = medians(server, {
            "bae, TLS": lambda out: bae(tls, out, 1, "--cacert", server.ca),
            "curl, TLS": lambda out: curl(tls, out, "--cacert", server.ca),
        }, size, rounds, raw, tell)
        rows_of("TLS", secure, "bae, TLS", {"curl, TLS": 1.1}, row)
        into_storage(server, url, size, rounds, row, tell, raw)


def into_storage(server, url, size, rounds, row, tell, raw):
    walls, peak = {"bae": [], "rclone": []}, 0
    for _ in range(rounds):
        with SERVERS["seaweedfs"]() as s:
            home = Work.fresh("bae")
            args = [os.environ["BENCH_BAE"], "--data-dir", f"{home}/data", "-q", "import", url, "--storage", s.storage()]
            ours = clients.measure(args, server, 900, os.environ | s.keys() | {"HOME": home})
        with SERVERS["seaweedfs"]() as s:
            args = s.rclone_args("copyurl", url, s.remote("rclone/get.bin"), "--s3-chunk-size", "16M",
                                 "--s3-upload-concurrency", "8", "--s3-no-check-bucket", "--retries", "1")
            theirs = clients.measure(args, server, 900, os.environ | s.keys())
        walls["bae"].append(ours.wall)
        walls["rclone"].append(theirs.wall)
        peak = max(peak, ours.rss)
        raw.append({"section": "get", "what": "into storage", "bae": ours.wall, "rclone": theirs.wall, "rss": ours.rss})
        tell(f"into storage: bae {ours.wall:.2f} s, rclone copyurl {theirs.wall:.2f} s, rss {ours.rss / MIB:.0f} MiB")
    wall = {way: statistics.median(took) for way, took in walls.items()}
    row("HTTP to S3: bae", wall["bae"], "s")
    row("HTTP to S3: rclone copyurl", wall["rclone"], "s")
    row("HTTP to S3: wall of bae / rclone", wall["bae"] / wall["rclone"], "x", 0.9)
    row("HTTP to S3: bae's peak RSS", peak / MIB, "MiB", 192)


class _first:
    """The first `len` bytes of a file."""

    def __init__(self, file, length):
        self.file, self.left = file, length

    def read(self, n):
        data = self.file.read(min(n, self.left))
        self.left -= len(data)
        return data
