"""The seed section of scripts/bench: bae seeds from a distant S3 server to libtorrent leechers.

The import into SeaweedFS does not use the proxy. Then bae seeds through bench_delay.py, which delays each request as a
storage at that distance would. The same run measures what users do without bae: a libtorrent client on `rclone mount`
(where FUSE works). All processes share the processors, so with two of them a rate depends as much on the leecher and
the server as on the seeder. Ratios and byte counts are the meaningful figures.
"""

import json
import os
import select
import shutil
import subprocess
import time

import bench_clients as clients
from bench_clients import MIB, NET, PORT, PYTHON, Failed, Work, helper, stop
from bench_servers import BUCKET, SeaweedFS

LEECHERS = 8
# Minimum MiB/s to one leecher, by milliseconds to the storage.
MIN_RATE = {30: 100, 100: 60}
# PEX is off: each row decides whether its leechers know each other.
TORRENT_FLAGS = ["--no-dht", "--no-lsd", "--no-utp", "--no-pex"]
# libtorrent's own settings: no suggestions, and its default upload watermarks.
DEFAULTS = """
[network]
suggest = false
[network.libtorrent]
send_buffer_low_watermark = 10_240
send_buffer_watermark = 512_000
send_buffer_watermark_factor = 50
"""


class Delay:
    """The delaying proxy. `seen` has its counts after the context is left."""

    def __init__(self, server, milliseconds):
        self.process = helper([*PYTHON, os.path.join(clients.HERE, "bench_delay.py"), f"127.0.0.1:{server.port}",
                               str(milliseconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
        self.seen = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.seen = json.loads(self.process.stdout.readline() or "{}")
        stop(self.process)


def environment(server, port):
    """The environment of bae, with a storage profile `bench` at `port`; without a server, with no profile (a folder).

    The catalog refers to the profile by name, so the endpoint can be another in each run.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("BAE_", "AWS_"))}
    home = os.path.join(Work.dir, "bae")
    clean |= {"HOME": home, "XDG_CONFIG_HOME": home}
    if server is None:
        return clean
    keys = {"TYPE": "s3", "BUCKET": BUCKET, "PREFIX": "bae", "ENDPOINT": f"http://127.0.0.1:{port}",
            "REGION": server.region, "PATH_STYLE": "true"}
    return clean | server.keys() | {
        f"BAE_STORAGE_BENCH_{key}": value for key, value in keys.items()}


def import_torrent(torrent, folder, server, layout="chunks"):
    """Imports with a new data directory, so that `bae seed` seeds this import alone."""
    with clients.Seeder(torrent, folder) as seeder:
        clients.bae(torrent, seeder, folder, storage="bench", env=environment(server, server.port),
                    options=["--layout", layout])


class Bae:
    """`bae seed` of all imports in the data directory, with the storage at `port`."""

    def __init__(self, server, port, memory=None, config=None):
        data = os.path.join(Work.dir, "bae", "data")
        self.addr = f"{NET}.200:{PORT}"
        args = [os.environ["BENCH_BAE"], "--data-dir", data, "--json", "seed", "--listen", self.addr, *TORRENT_FLAGS]
        if config:
            path = os.path.join(Work.dir, "bae", "bench.toml")
            with open(path, "w") as f:
                f.write(config)
            args += ["--config", path]
        args += ["--memory", memory] if memory else []
        log = open(os.path.join(Work.dir, "seed.log"), "wb")
        self.process = helper(args, stdout=log, stderr=log, env=environment(server, port))
        clients.wait_port(*self.addr.rsplit(":", 1))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        _, self.rss = clients.daemon_usage(self.process.pid)
        stop(self.process)


def run_leechers(torrent, peers, count=1, limit=600, between=()):
    """Runs `count` leechers at once. Returns the seconds of each from ready to done. `between`: they know each other."""
    leechers = []
    for n in range(count):
        save = Work.fresh(f"leech{n}")
        listen = f"{NET}.{100 + n}:{PORT}"
        args = [*PYTHON, clients.LTPEER, "get", torrent, save, "--listen", listen, "--exit"]
        for peer in [*peers, *(f"{NET}.{100 + other}:{PORT}" for other in range(n) if between)]:
            args += ["--peer", peer]
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        leechers.append(helper(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env))
    began, took, end = [None] * count, [None] * count, time.monotonic() + limit
    rest = [b""] * count
    while None in took:
        if time.monotonic() > end:
            raise Failed(f"leechers are not complete after {limit} s")
        ready, _, _ = select.select([l.stdout for n, l in enumerate(leechers) if took[n] is None], [], [], 1)
        for n in (n for n, leecher in enumerate(leechers) if leecher.stdout in ready):
            data = os.read(leechers[n].stdout.fileno(), 1 << 16)
            if not data:
                raise Failed("a leecher exited before it was complete")
            *lines, rest[n] = (rest[n] + data).split(b"\n")
            for event in map(clients.parsed, lines):
                if event.get("event") == "ready":
                    began[n] = time.monotonic()
                if event.get("event") == "done":
                    took[n] = time.monotonic() - began[n]
    for n, leecher in enumerate(leechers):
        stop(leecher)
        shutil.rmtree(os.path.join(Work.dir, f"leech{n}"), ignore_errors=True)
    return took


def run_one(server, torrent, size, milliseconds, note, what="one leecher", **options):
    with Delay(server, milliseconds) as delay, Bae(server, delay.port, **options) as bae:
        took = run_leechers(torrent, [bae.addr])[0]
    note(f"{what}, {milliseconds} ms", {"seconds": took, "rate": size / took / MIB, "rss": bae.rss} | delay.seen)
    return size / took / MIB, delay.seen, bae.rss


def run_eight(server, torrent, size, milliseconds, note, between, memory=None):
    with Delay(server, milliseconds) as delay, Bae(server, delay.port, memory) as bae:
        took = run_leechers(torrent, [bae.addr], LEECHERS, between=between)
    what = f"eight leechers{' that know each other' if between else ''}, {milliseconds} ms, memory {memory or 'default'}"
    note(what, {"seconds": max(took), "rate": size * LEECHERS / max(took) / MIB, "rss": bae.rss} | delay.seen)
    return max(took), delay.seen


def run_mount(server, torrent, folder, size, milliseconds, mode, note):
    """A libtorrent seeder on an rclone mount of the bucket, which holds the torrent's file as one object."""
    name = os.path.basename(torrent).rsplit(".", 2)[0]
    if not server.rclone("copyto", os.path.join(folder, name), server.remote(f"plain/{name}")):
        raise Failed("rclone copyto failed")
    point = Work.fresh("mount")
    with Delay(server, milliseconds) as delay:
        remote = server.remote("plain").replace(f":{server.port}'", f":{delay.port}'")
        args = server.rclone_args("mount", remote, point, "--read-only", "--vfs-cache-mode", mode, "--dir-cache-time",
                                  "1h", "--cache-dir", Work.fresh("vfs"))
        log = open(os.path.join(Work.dir, "mount.log"), "wb")
        mount = helper(args, stdout=log, stderr=log, env=os.environ | server.keys())
        try:
            end = time.monotonic() + 20
            while not os.path.ismount(point):
                if mount.poll() is not None or time.monotonic() > end:
                    raise Failed("FUSE does not work here: " + open(log.name, errors="replace").read()[-300:])
                time.sleep(0.05)
            addr = f"{NET}.210:{PORT}"
            seeder = helper([*PYTHON, clients.LTPEER, "seed", torrent, point, "--listen", addr, "--unverified"],
                            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            try:
                clients.wait_port(*addr.rsplit(":", 1))
                took = run_leechers(torrent, [addr], limit=900)[0]
            finally:
                stop(seeder)
        finally:
            subprocess.run(["fusermount3", "-uz", point], check=False, stderr=subprocess.DEVNULL)
            stop(mount)
    note(f"rclone mount, cache {mode}, {milliseconds} ms", {"seconds": took, "rate": size / took / MIB} | delay.seen)
    return size / took / MIB, delay.seen


def seed(make, size, row, log, runs):
    def note(what, figures):
        runs.append({"section": "seed", "what": what} | figures)
        log(f"{what}: {figures['seconds']:.1f} s, {figures['rate']:.1f} MiB/s, {figures['gets']} gets, "
            f"{figures['bytes'] / MIB:.0f} MiB from storage, shortest {figures['shortest'] >> 10} KiB"
            + (f", rss {figures['rss'] / MIB:.0f} MiB" if "rss" in figures else ""))

    torrent, folder = make("seed.bin", size, MIB)
    with SeaweedFS() as server:
        import_torrent(torrent, folder, server)
        ours = {ms: run_one(server, torrent, size, ms, note) for ms in (30, 100)}
        for ms, (rate, seen, rss) in ours.items():
            row(f"one leecher, storage {ms} ms away", rate, "MiB/s")
            row(f"one leecher, {ms} ms: {MIN_RATE[ms]} MiB/s / its rate", MIN_RATE[ms] / rate, "x", 1)
            row(f"one leecher, {ms} ms: bytes from storage / payload", seen["bytes"] / size, "x", 1.02)
            row(f"one leecher, {ms} ms: peak RSS", rss / MIB, "MiB", 192)
        short = max(0, 256 - (ours[100][1]["shortest"] >> 10))
        row("one leecher, 100 ms: KiB by which the shortest get is below 256", short, "KiB", 0)
        rate, _, _ = run_one(server, torrent, size, 100, note, "libtorrent's defaults", config=DEFAULTS)
        row("one leecher, 100 ms, libtorrent's defaults", rate, "MiB/s")
        row("one leecher, 100 ms: rate with libtorrent's defaults / with bae's", rate / ours[100][0], "x", 0.1)
        # The cache of windows is 5/16 of the memory: 256 MiB, which is a quarter of the payload.
        took, seen = run_eight(server, torrent, size, 100, note, between=True, memory="819MiB")
        row("eight with a cache of 256 MiB, 100 ms: bytes from storage / payload", seen["bytes"] / size, "x", 1.3)
        import_torrent(torrent, folder, server, "files")
        whole = run_one(server, torrent, size, 100, note, "one leecher of a whole file")
        row("one leecher of a whole file, storage 100 ms away", whole[0], "MiB/s")
        row("one leecher of a whole file: bytes from storage / payload", whole[1]["bytes"] / size, "x", 1.02)
        compare_with_mount(server, torrent, folder, size, ours[100], whole, row, log, note)
    small = min(size, 256 * MIB)
    torrent, folder = make("seed8.bin", small, MIB)
    with SeaweedFS() as server:
        import_torrent(torrent, folder, server)
        alone, _, _ = run_one(server, torrent, small, 100, note)
        took, seen = run_eight(server, torrent, small, 100, note, between=True)
        row("eight leechers, 100 ms: bytes from storage / payload", seen["bytes"] / small, "x", 1.15)
        row("eight leechers, 100 ms: seconds / eight times one alone", took / (LEECHERS * small / MIB / alone), "x", 1.3)
        took, seen = run_eight(server, torrent, small, 100, note, between=False)
        row("eight that do not know each other: bytes from storage / payload", seen["bytes"] / small, "x", 1.3)


def compare_with_mount(server, torrent, folder, size, chunks, whole, row, log, note):
    """The same from `rclone mount`, which serves a whole file."""
    for mode in ("off", "minimal"):
        try:
            theirs, requests = run_mount(server, torrent, folder, size, 100, mode, note)
        except Failed as e:
            return log(f"rclone mount: {e}")
        row(f"rclone mount (cache {mode}), 100 ms", theirs, "MiB/s")
        row(f"rclone mount (cache {mode}) / bae, 100 ms: rate", theirs / min(chunks[0], whole[0]), "x", 0.34)
        row(f"bae / rclone mount (cache {mode}): bytes from storage", whole[1]["bytes"] / requests["bytes"], "x", 1)
        # rclone requests each range to the end of the object, and closes the connection early.
        gets = max(requests["gets"], 1)
        row(f"bae / rclone mount (cache {mode}): gets, whole file", whole[1]["gets"] / gets, "x", 0.1)
        # Each object of 16 MiB takes at least one get.
        row(f"bae / rclone mount (cache {mode}): gets, chunks", chunks[1]["gets"] / gets, "x")
