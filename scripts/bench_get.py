"""The get section of scripts/bench: downloads from servers on loopback, by bae and by other download clients.

Every client writes to the same memory-backed folder. The servers share the processors, so only ratios are meaningful.
The slow location sends 5 MiB/s per connection, and the far servers have a round trip of 50 ms: there only the number of
connections, the read-ahead and the end of the download matter.
"""

import os
import shutil
import statistics
import subprocess
import threading

import bench_clients as clients
from bench_clients import MIB, Failed, Work
from bench_get_servers import Apache, Far, Nginx, Sshd, Vsftpd
from bench_servers import SERVERS

GIB = 1024 * MIB
RTT = 50
# TCP windows for a long round trip: Linux's default maximum of a receive buffer, and of a send buffer.
RECEIVE_WINDOW, SEND_WINDOW = 6 * MIB, 4 * MIB


def bae(url, out, *more):
    return [os.environ["BENCH_BAE"], "-q", "get", url, "-o", out, *more]


def curl(url, out, *more):
    return ["curl", "-s", "-f", "-o", out, url, *more]


def aria2(url, out, connections):
    n = str(connections)
    return ["aria2c", "--no-conf=true", "-q", "-x", n, "-s", n, "-k", "1M", "--file-allocation=none",
            "-d", os.path.dirname(out), "-o", os.path.basename(out), url]


def axel(url, out, connections):
    return ["axel", "-q", "-n", str(connections), "-o", out, url]


# One part per connection. Each shorter part would get the burst that nginx sends before limit_rate applies.
def wget2(url, out, connections):
    return ["wget2", "-q", "--chunk-size=20M", f"--max-threads={connections}", "-O", out, url]


def lftp(url, out):
    return ["lftp", "--norc", "-c", f"set cmd:fail-exit yes; get {url} -o {out}"]


def sftp(server, port, name, out):
    return ["sftp", "-q", "-F", "none", "-i", server.identity, "-P", str(port), "-o", "BatchMode=yes",
            "-o", f"UserKnownHostsFile={server.known_hosts(port)}", f"{server.user}@127.0.0.1:{server.path(name)}", out]


def bae_sftp(server, port, name, out, *more):
    url = f"sftp://{server.user}@127.0.0.1:{port}{server.path(name)}"
    return bae(url, out, "--identity", server.identity, "--known-hosts", server.known_hosts(port), *more)


class Bench:
    """Runs the rounds of every group and adds the rows."""

    def __init__(self, rounds, row, log, runs):
        self.rounds, self.row, self.log, self.runs = rounds, row, log, runs

    def run(self, server, name, args, size, exact=True):
        """Runs one client once. Returns None when it failed or, where `exact`, its file has the wrong length."""
        out = os.path.join(Work.fresh("got"), "file")
        try:
            result = clients.measure(args(out), server, 900, os.environ | {"HOME": Work.dir})
            if exact and os.path.getsize(out) != size:
                raise Failed(f"it wrote {os.path.getsize(out)} bytes")
        except (Failed, OSError) as e:
            self.log(f"{name} failed: {e}")
            self.runs.append({"section": "get", "client": name, "failed": str(e)})
            return None
        finally:
            shutil.rmtree(os.path.dirname(out), ignore_errors=True)
        self.runs.append({"section": "get", "client": name, "wall": result.wall, "cpu": result.cpu, "rss": result.rss})
        self.log(f"{name} {result.wall:.2f} s, cpu {result.cpu:.2f} s, rss {result.rss / MIB:.0f} MiB")
        return result

    def compare(self, what, server, ways, size, limits, once=(), exact=True, rss_limit=48):
        """Runs the ways in turn and adds rows for each, and for the ratio of the first way to the others.

        `limits` maps a tuple of ways to the maximum ratio of bae's wall time to the best wall time among them.
        The ways in `once` are so slow that they run in the first round only. `exact` is false where only bae's file has
        `size` bytes. `rss_limit` is the maximum of bae's memory in MiB.
        """
        results = {name: [] for name in ways}
        for n in range(self.rounds):
            for name, args in ways.items():
                if (n == 0 or name not in once) and (
                        result := self.run(server, name, args, size, exact or name.startswith("bae"))):
                    results[name].append(result)
        median = statistics.median
        found = {name: (median(r.wall for r in done), median(r.cpu for r in done), max(r.rss for r in done))
                 for name, done in results.items() if done}
        for name, (wall, cpu, rss) in found.items():
            self.row(f"{name}: wall", wall, "s")
            self.row(f"{name}: cpu per GiB", cpu * GIB / size, "s")
            self.row(f"{name}: peak RSS", rss / MIB, "MiB", rss_limit if name.startswith("bae") else None)
        ours = next(iter(ways))
        for others, limit in limits.items():
            walls = [found[other][0] for other in others if other in found]
            ratio = found[ours][0] / min(walls) if ours in found and walls else None
            self.row(f"{what}: wall of bae / {' or '.join(others)}", ratio, "x", limit)
        return found


def get(folder, size, rounds, row, log, runs):
    """`folder` contains `get.bin`, of `size` bytes."""
    bench, part = Bench(rounds, row, log, runs), min(size, 320 * MIB)
    with open(os.path.join(folder, "part.bin"), "wb") as f:
        subprocess.run(["head", "-c", str(part), os.path.join(folder, "get.bin")], stdout=f, check=True)
    with Nginx(folder) as server:
        from_nginx(bench, server, folder, size, part)
        into_storage(server, server.url("get.bin"), size, rounds, row, log, runs)
    with Vsftpd(folder) as server:
        url = server.url("get.bin")
        bench.compare("FTP", server, {
            "bae, FTP": lambda out: bae(url, out, "-x", "1"),
            "curl, FTP": lambda out: curl(url, out),
            "lftp": lambda out: lftp(url, out),
        }, size, {("curl, FTP", "lftp"): 1.1})
    with Apache(folder) as server:
        url = server.url("get.bin")
        bench.compare("WebDAV", server, {
            "bae, WebDAV": lambda out: bae(url, out, "-x", "1"),
            "curl, WebDAV": lambda out: curl(url.replace("dav:", "http:"), out),
        }, size, {("curl, WebDAV",): None})
    with Sshd(folder) as server, Far(server, RTT, RECEIVE_WINDOW) as far:
        over_ssh(bench, "SFTP", server, server.port, "get.bin", size, 1 / 0.9)
        over_ssh(bench, f"SFTP, {RTT} ms", server, far.port, "part.bin", part, 1 / 2)


def over_ssh(bench, what, server, port, name, size, limit):
    """Compares the clients with their default number of connections, and bae also with one connection."""
    bench.compare(what, server, {
        f"bae, {what}": lambda out: bae_sftp(server, port, name, out),
        f"sftp, {what}": lambda out: sftp(server, port, name, out),
        f"bae -x1, {what}": lambda out: bae_sftp(server, port, name, out, "-x", "1"),
    }, size, {(f"sftp, {what}",): limit})


def from_nginx(bench, server, folder, size, part):
    url, tls = server.url("get.bin"), server.tls_url("get.bin")
    one = bench.compare("one connection", server, {
        "bae -x1": lambda out: bae(url, out, "-x", "1"),
        "curl": lambda out: curl(url, out),
    }, size, {("curl",): 1.05})
    if len(one) == 2:
        bench.row("one connection: cpu of bae / curl", one["bae -x1"][1] / one["curl"][1], "x", 1.2)
    # Without a rate limit each connection buffers the most.
    bench.compare("16 connections", server, {
        "bae -x16, fast": lambda out: bae(url, out, "-x", "16"),
        "aria2 -x16, fast": lambda out: aria2(url, out, 16),
    }, size, {("aria2 -x16, fast",): 1.0})
    slow_url = server.url("part.bin", "slow")
    bench.compare("5 MiB/s each", server, {
        "bae -x16": lambda out: bae(slow_url, out, "-x", "16"),
        "aria2 -x16": lambda out: aria2(slow_url, out, 16),
        "axel -n16": lambda out: axel(slow_url, out, 16),
        "wget2, 16 threads": lambda out: wget2(slow_url, out, 16),
    }, part, {("aria2 -x16",): 1.0, ("axel -n16",): 1.0, ("wget2, 16 threads",): 1.0}, once=["wget2, 16 threads"])
    with Far(server, RTT, SEND_WINDOW) as far:
        far_url = server.url("get.bin", port=far.port)
        bench.compare(f"{RTT} ms", server, {
            f"bae -x16, {RTT} ms": lambda out: bae(far_url, out, "-x", "16"),
            f"aria2 -x16, {RTT} ms": lambda out: aria2(far_url, out, 16),
        }, size, {(f"aria2 -x16, {RTT} ms",): 1 / 0.95})
    bench.compare("TLS", server, {
        "bae, TLS": lambda out: bae(tls, out, "-x", "1", "--cacert", server.ca),
        "curl, TLS": lambda out: curl(tls, out, "--cacert", server.ca),
    }, size, {("curl, TLS",): 1.1})
    memory(bench, server, folder)


def memory(bench, server, folder):
    """A long file must need no more memory than a short one. Source and result are sparse and use no space."""
    free = shutil.disk_usage(Work.dir).free
    peaks = []
    for size in (GIB, min(20 * GIB, free - GIB)):
        name = f"bae, {size / GIB:.0f} GiB"
        with open(os.path.join(folder, "zeros.bin"), "wb") as f:
            f.truncate(size)
        with HolePuncher(os.path.join(Work.dir, "got", "file.part"), size):
            result = bench.run(server, name, lambda out: bae(server.url("zeros.bin"), out), size)
        peaks.append(result and result.rss)
        bench.row(f"{name}: cpu per GiB", result and result.cpu * GIB / size, "s")
        bench.row(f"{name}: peak RSS", result and result.rss / MIB, "MiB", 48)
    # 10 % is the variation between runs.
    bench.row("the long file: peak RSS / the short one's", peaks[1] / peaks[0] if all(peaks) else None, "x", 1.1)


class HolePuncher:
    """Punches holes into a file while it is written, so that the file uses no space."""

    def __init__(self, path, size):
        self.args = ["fallocate", "--punch-hole", "--offset", "0", "--length", str(size), path]
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.punch, daemon=True)

    def punch(self):
        while not self.stopped.wait(0.2):
            # The file does not exist at the start and at the end.
            subprocess.run(self.args, stderr=subprocess.DEVNULL, check=False)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()


def into_storage(server, url, size, rounds, row, log, runs):
    walls, cpus, peak = {"bae": [], "rclone": []}, [], 0
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
        cpus.append(ours.cpu)
        peak = max(peak, ours.rss)
        runs.append({"section": "get", "what": "into storage", "bae": ours.wall, "rclone": theirs.wall, "rss": ours.rss})
        log(f"into storage: bae {ours.wall:.2f} s, rclone copyurl {theirs.wall:.2f} s, rss {ours.rss / MIB:.0f} MiB")
    wall = {way: statistics.median(took) for way, took in walls.items()}
    row("HTTP to S3: bae", wall["bae"], "s")
    row("HTTP to S3: rclone copyurl", wall["rclone"], "s")
    row("HTTP to S3: wall of bae / rclone", wall["bae"] / wall["rclone"], "x", 0.9)
    row("HTTP to S3: bae's cpu per GiB", statistics.median(cpus) * GIB / size, "s")
    row("HTTP to S3: bae's peak RSS", peak / MIB, "MiB", 192)
