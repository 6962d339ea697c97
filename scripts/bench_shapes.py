"""Torrents of realistic shapes, for the speed and seed sections of scripts/bench: imported and seeded.

The shapes are large files, an album, thousands of small files, and very long pieces. They are imported into a folder,
compared with libtorrent's own client. They are seeded from a folder, compared with libtorrent's own seeder, and from an
S3 server that is 0, 30 and 100 ms away, in chunks and in whole files. `--quick` takes an eighth of the bytes and the
farthest storage only. BENCH_SHAPES selects shapes: parts of their names, separated by commas.
"""

import contextlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass

import bench_clients as clients
from bench_clients import KIB, MIB, NET, PORT, PYTHON, Failed, Work, helper, stop
from bench_cloud import import_via_disk, import_directly
from bench_seed import Bae, Delay, import_torrent, run_leechers
from bench_servers import SeaweedFS


@dataclass
class Shape:
    """`files` files of `each` bytes in pieces of `piece` bytes."""

    name: str
    files: int
    each: int
    piece: int
    # Whether its rows have limits.
    has_limits: bool = False

    @property
    def size(self):
        return self.files * self.each

    def quick(self):
        files = max(1, self.files // 8)
        return Shape(self.name, files, self.each if self.files > 1 else self.each // 8, self.piece)


SHAPES = [
    Shape("one file, 1 MiB pieces", 1, 1024 * MIB, MIB, True),
    Shape("one file, 256 KiB pieces", 1, 512 * MIB, 256 * KIB, True),
    Shape("one file, 16 KiB pieces", 1, 128 * MIB, 16 * KIB),
    Shape("one file, 16 MiB pieces", 1, 1024 * MIB, 16 * MIB),
    Shape("album, 256 KiB pieces", 40, 12 * MIB, 256 * KIB, True),
    Shape("10,000 files of 20 KiB", 10_000, 20 * KIB, 256 * KIB),
]
ALBUM, SMALL = SHAPES[4], SHAPES[5]


def make_torrent(shape):
    """The torrent of a shape and the folder of its data. They are made once, with random bytes."""
    name = shape.name.replace(",", "").replace(" ", "-")
    folder, torrent = os.path.join(Work.dir, "shapes"), os.path.join(Work.dir, f"{name}.torrent")
    if not os.path.exists(torrent):
        os.makedirs(folder, exist_ok=True)
        root = os.path.join(folder, name)
        with open("/dev/urandom", "rb") as source:
            if shape.files > 1:
                os.makedirs(root)
            for n in range(shape.files):
                path = os.path.join(root, f"{n % 97:02}", f"{n:05}.bin") if shape.files > 100 else \
                    os.path.join(root, f"{n:03}.bin") if shape.files > 1 else root
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as out:
                    for at in range(0, shape.each, MIB):
                        out.write(source.read(min(MIB, shape.each - at)))
        script = os.path.join(clients.SUPPORT, "mktorrent.py")
        subprocess.run([*PYTHON, script, root, torrent, "v1", str(shape.piece)], check=True,
                       stdout=subprocess.DEVNULL)
    return torrent, folder


@contextlib.contextmanager
def measure_usage(process):
    """Measures a process inside the context. On leaving, the yielded list is [CPU seconds, peak RSS]."""
    usage, (before, _) = [None, None], clients.daemon_usage(process.pid)
    yield usage
    after, usage[1] = clients.daemon_usage(process.pid)
    usage[0] = after - before


def seed_with_libtorrent(torrent, folder):
    """libtorrent's own seeder, which does not verify its data: (seconds, CPU seconds)."""
    addr = f"{NET}.210:{PORT}"
    args = [*PYTHON, clients.LTPEER, "seed", torrent, folder, "--listen", addr, "--unverified", "--plain"]
    seeder = helper(args, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        clients.wait_port(*addr.rsplit(":", 1))
        with measure_usage(seeder) as usage:
            seconds = run_leechers(torrent, [addr])[0]
    finally:
        stop(seeder)
    return seconds, usage[0]


def seed_with_bae(torrent, server=None, port=None, count=1):
    with Bae(server, port) as bae:
        with measure_usage(bae.process) as usage:
            seconds = max(run_leechers(torrent, [bae.addr], count))
    return seconds, usage[0], usage[1]


class Shapes:
    def __init__(self, rounds, row, log, runs):
        self.rounds, self.row, self.log, self.runs = rounds, row, log, runs

    def note(self, what, **figures):
        self.runs.append({"section": "shapes", "what": what} | figures)
        text = ", ".join(f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}"
                         for name, value in figures.items())
        self.log(f"{what}: {text}")

    def seed_from_folder(self, shape):
        """Runs both seeders in turn and takes the best of each, because other load on the machine only adds time."""
        torrent, folder = make_torrent(shape)
        with clients.Seeder(torrent, folder) as seeder:
            clients.bae(torrent, seeder, folder)
        best = {"bae": [1e9, 1e9], "libtorrent": [1e9, 1e9]}
        for _ in range(self.rounds):
            for seeder, run in (("libtorrent", lambda: seed_with_libtorrent(torrent, folder)),
                                ("bae", lambda: seed_with_bae(torrent))):
                seconds, cpu = run()[:2]
                self.note(f"{shape.name}: seeded from a folder by {seeder}", seconds=seconds, cpu=cpu)
                best[seeder] = [min(best[seeder][0], seconds), min(best[seeder][1], cpu)]
        wall, cpu = (ours / theirs for ours, theirs in zip(best["bae"], best["libtorrent"]))
        self.row(f"{shape.name}: seeded from a folder, bae / libtorrent", wall, "x", 1.05 if shape.has_limits else None)
        self.row(f"{shape.name}: seeded from a folder, CPU of bae / libtorrent", cpu, "x",
                 1.2 if shape.has_limits else None)

    def seed_from_storage(self, shape, server, layout, milliseconds, count=1):
        torrent, _ = make_torrent(shape)
        what = f"{shape.name}: {layout}, {milliseconds} ms" + (f", {count} leechers" if count > 1 else "")
        with Delay(server, milliseconds) as delay:
            seconds, cpu, rss = seed_with_bae(torrent, server, delay.port, count)
        rate, fetched = shape.size * count / seconds / MIB, delay.seen["bytes"] / shape.size
        gets = delay.seen["gets"] / (shape.size / 1024 / MIB)
        self.note(what, seconds=seconds, rate=rate, fetched=fetched, gets=delay.seen["gets"], cpu=cpu, rss=rss / MIB)
        self.row(f"{what}: rate", rate, "MiB/s")
        self.row(f"{what}: bytes from storage / payload", fetched, "x", 1.04 if count == 1 else 1.1)
        self.row(f"{what}: gets per GiB", gets, "")
        return rate

    def seed_all_from_storage(self, shapes, distances):
        rates = {}
        for shape in shapes:
            torrent, folder = make_torrent(shape)
            for layout in ("chunks", "files"):
                with SeaweedFS() as server:
                    import_torrent(torrent, folder, server, layout)
                    for milliseconds in distances:
                        rates[shape.name, layout, milliseconds] = self.seed_from_storage(shape, server, layout, milliseconds)
                    if shape.name == ALBUM.name:
                        self.seed_from_storage(shape, server, layout, distances[-1], 4)
        far, large = distances[-1], shapes[0].name
        for layout in ("chunks", "files"):
            rate = rates.get((ALBUM.name, layout, far))
            if rate:
                self.row(f"{ALBUM.name}: {layout}, {far} ms: 95.4 MiB/s / its rate", 95.4 / rate, "x", 1)
        small = rates.get((SMALL.name, "chunks", far))
        if small and (large, "chunks", far) in rates:
            self.row(f"{SMALL.name}: {far} ms: rate of one large file / its rate", rates[large, "chunks", far] / small, "x",
                     1 / 0.7)

    def import_to_folder(self, shape):
        """Imports into a folder, by bae and by libtorrent's own client in turn."""
        torrent, folder = make_torrent(shape)
        best, rss = {}, 0
        for _ in range(self.rounds):
            for run in (clients.plain, clients.bae):
                with clients.Seeder(torrent, folder) as seeder:
                    result = run(torrent, seeder, folder)
                shutil.rmtree(os.path.join(Work.dir, run.__name__), ignore_errors=True)
                self.note(f"{shape.name}: imported into a folder by {run.__name__}", seconds=result.wall, cpu=result.cpu,
                          rss=result.rss / MIB)
                best[run.__name__] = min(best.get(run.__name__, (1e9, 1e9)), (result.wall, result.cpu))
            rss = max(rss, result.rss)
        self.row(f"{shape.name}: imported into a folder, bae / libtorrent", best["bae"][0] / best["plain"][0], "x")
        self.row(f"{shape.name}: imported into a folder, CPU of bae / libtorrent", best["bae"][1] / best["plain"][1], "x")
        self.row(f"{shape.name}: imported into a folder, peak RSS of bae", rss / MIB, "MiB", 100)

    def import_small_files(self, shape):
        """Imports directly into S3, compared with libtorrent's client and then rclone."""
        torrent, folder = make_torrent(shape)
        with SeaweedFS() as server:
            ours = import_directly(torrent, folder, server)
        with SeaweedFS() as server:
            fetched, copied = import_via_disk(torrent, folder, server)
        self.note(f"{shape.name}: import to S3", bae=ours.wall, client=fetched.wall, rclone=copied.wall,
                  rss=ours.rss / MIB)
        self.row(f"{shape.name}: import to S3, bae / client and rclone", ours.wall / (fetched.wall + copied.wall),
                 "x", 0.8)
        self.row(f"{shape.name}: import to S3, peak RSS of bae", ours.rss / MIB, "MiB", 100)


def shapes(parts, rounds, quick, row, log, runs):
    """`parts`: "import", "local" (seeding from a folder) and "storage" (seeding from S3)."""
    words = os.environ.get("BENCH_SHAPES", "").split(",")
    chosen = [s.quick() if quick else s for s in SHAPES if any(word in s.name for word in words)]
    run = Shapes(1 if quick else rounds, row, log, runs)
    for shape in chosen if "import" in parts else []:
        run.import_to_folder(shape)
        if shape.name == SMALL.name:
            run.import_small_files(shape)
    for shape in chosen if "local" in parts else []:
        run.seed_from_folder(shape)
    if "storage" in parts:
        run.seed_all_from_storage(chosen, [100] if quick else [0, 30, 100])
    shutil.rmtree(os.path.join(Work.dir, "shapes"), ignore_errors=True)
