"""The cloud section of scripts/bench: from the swarm into an S3 server, directly and through a disk.

The way through a disk is what users do without bae: libtorrent's own client to a disk (here tmpfs, which is faster than
a disk), then `rclone copy`. Both ways run in turn, each time on an empty server that was just started. Loopback has no
latency and the server shares the processors, so only ratios are meaningful.
"""

import json
import os
import shutil
import statistics
import subprocess
import tempfile

import bench_clients as clients
from bench_clients import MIB, PYTHON, Failed, Seeder, Work, helper, stop
from bench_servers import SERVERS

RCLONE = ["--s3-upload-cutoff", "16M", "--s3-chunk-size", "16M", "--s3-upload-concurrency", "8", "--transfers", "8",
          "--s3-no-check-bucket", "--retries", "1"]


def import_directly(torrent, folder, server, port=None, data=None):
    """bae from its start to its exit. `port`: of a proxy for the server. `data`: the data directory, else in memory."""
    with Seeder(torrent, folder) as seeder:
        try:
            return clients.bae(torrent, seeder, folder, storage=server.storage(port), data=data, env=server.keys())
        finally:
            shutil.rmtree(os.path.join(Work.dir, "bae"), ignore_errors=True)


def import_via_disk(torrent, folder, server):
    """The two steps, one after the other."""
    with Seeder(torrent, folder) as seeder:
        try:
            fetched = clients.plain(torrent, seeder, folder)
            args = server.rclone_args("copy", os.path.join(Work.dir, "plain"), server.remote("rclone"), *RCLONE)
            copied = clients.measure(args, seeder, 600, os.environ | server.keys())
        finally:
            shutil.rmtree(os.path.join(Work.dir, "plain"), ignore_errors=True)
    return fetched, copied


def import_counted(torrent, folder, server):
    """One more run of bae: a proxy counts its requests, and its data directory is on a real disk, to count writes."""
    proxy = helper([*PYTHON, os.path.join(clients.HERE, "bench_proxy.py"), f"127.0.0.1:{server.port}"],
                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    data = tempfile.mkdtemp(prefix="bae-bench.", dir=os.environ.get("BENCH_DISK", "/var/tmp"))
    try:
        result = import_directly(torrent, folder, server, int(proxy.stdout.readline()), data)
        proxy.stdin.close()
        return result, json.loads(proxy.stdout.readline())
    finally:
        stop(proxy)
        shutil.rmtree(data, ignore_errors=True)


def measure_server(server, torrent, folder, rounds, note):
    """Runs all rounds. Returns the wall seconds of each way and bae's peak RSS."""
    walls = {"bae": [], "client": [], "rclone": [], "via disk": []}
    peak = 0
    for n in range(rounds):
        with server() as s:
            ours = import_directly(torrent, folder, s)
        with server() as s:
            fetched, copied = import_via_disk(torrent, folder, s)
        times = {"bae": ours.wall, "client": fetched.wall, "rclone": copied.wall,
                 "via disk": fetched.wall + copied.wall}
        for way, wall in times.items():
            walls[way].append(wall)
        peak = max(peak, ours.rss)
        note(f"{server.name} round {n + 1}", times | {"rss": ours.rss, "cpu": ours.cpu})
    return walls, peak


def cloud(torrent, folder, size, rounds, row, log, runs):
    def note(what, times):
        runs.append({"section": "cloud", "what": what} | times)
        log(f"{what}: bae {times['bae']:.2f} s; client {times['client']:.2f} + rclone {times['rclone']:.2f} s; "
            f"bae's rss {times['rss'] / MIB:.0f} MiB")

    for name in os.environ.get("BENCH_SERVERS", " ".join(SERVERS)).split():
        server = SERVERS[name]
        try:
            walls, peak = measure_server(server, torrent, folder, rounds, note)
            with server() as s:
                result, traffic = import_counted(torrent, folder, s)
        except Failed as e:
            log(f"{name}: {e}")
            runs.append({"section": "cloud", "what": name, "failed": str(e)})
            row(f"{name}: completes", None, "", 0)
            continue
        runs.append({"section": "cloud", "what": f"{name} counted", "written": result.written} | traffic)
        rows(name, {way: statistics.median(times) for way, times in walls.items()}, peak, result, traffic, size, row)


def rows(name, wall, peak, result, traffic, size, row):
    row(f"{name}: bae, swarm to storage", wall["bae"], "s")
    row(f"{name}: libtorrent's client to tmpfs", wall["client"], "s")
    row(f"{name}: rclone copy to storage", wall["rclone"], "s")
    row(f"{name}: bae / both steps", wall["bae"] / wall["via disk"], "x", 0.7)
    row(f"{name}: bae / the slower step alone", wall["bae"] / max(wall["client"], wall["rclone"]), "x", 1.25)
    row(f"{name}: bae's peak RSS", peak / MIB, "MiB", 192)
    row(f"{name}: bytes sent / payload", traffic["sent"] / size, "x", 1.01)
    puts = sum(n for method, n in traffic["requests"].items() if method.startswith("PUT"))
    row(f"{name}: PUT requests", puts, "", size // (12 * MIB) + 20)
    row(f"{name}: written to the local disk", result.written / MIB, "MiB", 8 * size / (1024 * MIB))
