"""The driver of scripts/bench: makes data, runs the clients in turn, prints a table. The usage is in scripts/bench."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

import bench_clients as clients
from bench_clients import MIB, Failed, Seeder, Tracker, Work
from bench_catalog import catalog
from bench_cloud import cloud
from bench_get import get
from bench_seed import seed
from bench_shapes import shapes
from bench_streams import streams

SIZE = int(os.environ.get("BENCH_MIB", 1024))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", 3))
CLIENTS = os.environ.get("BENCH_CLIENTS", "bae plain aria2 transmission qbittorrent").split()
BUDGET = 128 * MIB
rows, runs, hashes = [], [], {}


def log(text):
    print(text, file=sys.stderr, flush=True)


def row(what, value, unit, limit=None):
    """Adds a row to the table. `limit` is the maximum value that passes."""
    ok = None if limit is None else value is not None and value <= limit
    rows.append({"what": what, "value": value, "unit": unit, "limit": limit, "ok": ok})


def make_torrent(name, size, piece):
    """Makes a file of `size` random bytes (once per run) and a v1 torrent of it. Returns the torrent and the folder."""
    folder = os.path.join(Work.dir, "seed")
    os.makedirs(folder, exist_ok=True)
    data = os.path.join(folder, name)
    if not os.path.exists(data):
        with open(data, "wb") as f:
            subprocess.run(["head", "-c", str(size), "/dev/urandom"], stdout=f, check=True)
    torrent = os.path.join(Work.dir, f"{name}.{piece}.torrent")
    script = os.path.join(clients.SUPPORT, "mktorrent.py")
    result = subprocess.run([*clients.PYTHON, script, data, torrent, "v1", str(piece)], check=True,
                          stdout=subprocess.PIPE)
    hashes[torrent] = json.loads(result.stdout)["v1"]
    return torrent, folder


def with_tracker(torrent, url):
    """A copy of the torrent with an announce URL. `announce` sorts before every other key in it."""
    path = torrent + ".tracked"
    with open(torrent, "rb") as old, open(path, "wb") as new:
        new.write(b"d8:announce%d:%s" % (len(url), url.encode()) + old.read()[1:])
    return path


def run_client(name, torrent, folder):
    run = getattr(clients, name)
    if name != "aria2":
        with Seeder(torrent, folder) as seeder:
            return run(torrent, seeder, folder)
    with Tracker(hashes[torrent]) as tracker:
        known = with_tracker(torrent, tracker.url)
        with Seeder(known, folder) as seeder:
            seeder.wait_for(lambda e: "tracker_reply" in e.get("text", ""))
            return run(known, seeder, folder)


def speed(with_bae):
    torrent, folder = make_torrent("speed.bin", SIZE * MIB, MIB)
    names = [name for name in CLIENTS if with_bae or name != "bae"]
    results = {name: [] for name in names}
    for n in range(ROUNDS):
        for name in names:
            try:
                result = run_client(name, torrent, folder)
            except Failed as e:
                log(f"round {n + 1}: {name} failed: {e}")
                runs.append({"section": "speed", "client": name, "failed": str(e)})
                continue
            finally:
                shutil.rmtree(os.path.join(Work.dir, name), ignore_errors=True)
            results[name].append(result)
            runs.append({"section": "speed", "client": name, "wall": result.wall, "inner": result.inner,
                        "cpu": result.cpu, "rss": result.rss})
            log(f"round {n + 1}: {name} {result.wall:.2f} s, cpu {result.cpu:.2f} s, rss {result.rss / MIB:.0f} MiB")
    speed_table({name: summary(measured) for name, measured in results.items()})


def summary(results):
    if not results:
        return None
    median = statistics.median
    inner = [r.inner for r in results if r.inner is not None]
    return {"wall": median(r.wall for r in results), "inner": median(inner) if inner else None,
            "cpu": median(r.cpu for r in results) * 1024 / SIZE, "rss": max(r.rss for r in results)}


def speed_table(table):
    baseline = table.get("plain")
    print(f"\n{SIZE} MiB, 1 MiB pieces, one seeder, TCP, median of {ROUNDS} "
          "(wall from start to exit; daemons from adding to complete)\n")
    print(f"{'client':<14}{'wall s':>9}{'own s':>9}{'x plain':>9}{'cpu s/GiB':>11}{'x plain':>9}{'peak RSS MiB':>14}")
    for name, s in table.items():
        if s is None:
            print(f"{name:<14}{'failed':>9}")
            continue
        wall, cpu = (s["wall"] / baseline["wall"], s["cpu"] / baseline["cpu"]) if baseline else (0, 0)
        inner = f"{s['inner']:.2f}" if s["inner"] else "-"
        print(f"{name:<14}{s['wall']:>9.2f}{inner:>9}{wall:>9.2f}{s['cpu']:>11.2f}{cpu:>9.2f}{s['rss'] / MIB:>14.0f}")
    ours = table.get("bae")
    if "bae" not in table:
        return
    row("wall of bae / plain libtorrent", ours and baseline and ours["wall"] / baseline["wall"], "x", 1.05)
    row("cpu of bae / plain libtorrent", ours and baseline and ours["cpu"] / baseline["cpu"], "x", 1.0)
    for name in ("aria2", "transmission", "qbittorrent"):
        if table.get(name):
            row(f"wall of bae / {name}", ours and ours["wall"] / table[name]["wall"], "x", 1.0)


def run_bae(what, torrent, folder, peers, rate_each=0, limit=300, **options):
    """One run of bae against `peers` seeders. Returns None when it failed."""
    log(f"{what} …")
    try:
        with Seeder(torrent, folder, peers, rate_each) as seeder:
            result = clients.bae(torrent, seeder, folder, limit, **options)
    except Failed as e:
        log(f"{what}: {e}")
        runs.append({"what": what, "failed": str(e)})
        row(f"{what}: completes", None, "", 0)
        return None
    finally:
        shutil.rmtree(os.path.join(Work.dir, "bae"), ignore_errors=True)
    last = result.lines[-1][1]
    runs.append({"what": what, "wall": result.wall, "cpu": result.cpu, "rss": result.rss, "imported": last})
    return result


def imported_event(result):
    return next(e for _, e in reversed(result.lines) if e.get("event") == "imported")


def memory():
    for piece in (1, 16):
        torrent, folder = make_torrent("memory.bin", 512 * MIB, piece * MIB)
        what = f"16 peers, {piece} MiB pieces"
        result = run_bae(what, torrent, folder, 16)
        if result:
            row(f"{what}: peak RSS", result.rss / MIB, "MiB", 192)
            row(f"{what}: maximum bytes held", imported_event(result)["peak_held"] / MIB, "MiB", BUDGET / MIB)
    os.remove(os.path.join(Work.dir, "seed", "memory.bin"))
    torrent, folder = make_torrent("drain.bin", 256 * MIB, MIB)
    what = "--memory 64MiB, 16 peers at 100 MiB/s, storage 10 MiB/s"
    result = run_bae(what, torrent, folder, 16, 100 * MIB // 16, memory="64MiB", upload_limit="10MiB")
    if result:
        last = imported_event(result)
        row(f"{what}: peak RSS", result.rss / MIB, "MiB", 128)
        row(f"{what}: re-downloaded", 100 * (last["downloaded"] - last["bytes"]) / last["bytes"], "%", 5)
        row(f"{what}: maximum bytes held", last["peak_held"] / MIB, "MiB", 64)
        row(f"{what}: time", result.wall, "s")


def longest_gap(result):
    """The longest time in seconds during which `stored` did not grow."""
    stored, since, gap = 0, 0.0, 0.0
    for at, event in result.lines:
        if event.get("event") in ("progress", "imported"):
            now = event.get("stored", event.get("bytes", 0))
            if now > stored:
                gap = max(gap, at - since)
                stored, since = now, at
    return gap


def slow():
    torrent, folder = make_torrent("slow.bin", 128 * MIB, MIB)
    for peers in (1, 16, 64):
        what = f"storage 10 MiB/s, {peers} peers"
        result = run_bae(what, torrent, folder, peers, upload_limit="10MiB")
        if result:
            row(f"{what}: peak RSS", result.rss / MIB, "MiB", 192)
            row(f"{what}: maximum bytes held", imported_event(result)["peak_held"] / MIB, "MiB", BUDGET / MIB)
            # A 16 MiB chunk takes 1.6 s at this rate, and several are uploaded at the same time.
            row(f"{what}: longest time without progress", longest_gap(result), "s", 10)
            row(f"{what}: time (at least 12.8 s at this rate)", result.wall, "s")


def print_rows():
    if not rows:
        return
    width = max(len(r["what"]) for r in rows) + 2
    print(f"\n{'':<{width}}{'figure':>10} {'':<4}{'limit':>8}")
    for r in rows:
        value = "failed" if r["value"] is None else f"{r['value']:.2f}"
        limit = "-" if r["limit"] is None else f"{r['limit']:.3g}"
        verdict = {None: "", True: "ok", False: "FAIL"}[r["ok"]]
        print(f"{r['what']:<{width}}{value:>10} {r['unit']:<4}{limit:>8}  {verdict}")


def main():
    p = argparse.ArgumentParser(prog="scripts/bench")
    sections = ["speed", "memory", "slow", "cloud", "seed", "shapes", "get", "streams", "catalog", "all"]
    p.add_argument("section", nargs="?", default="all", choices=sections)
    p.add_argument("--json", metavar="FILE", help="also write every figure to FILE")
    p.add_argument("--quick", action="store_true", help="shapes with an eighth of the bytes, and only the most distant storage")
    p.add_argument("--without-bae", action="store_true", help="only the other clients, in the speed run")
    args = p.parse_args()
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    Work.dir = tempfile.mkdtemp(prefix="bae-bench.", dir=base)
    try:
        if args.section in ("speed", "all"):
            speed(not args.without_bae)
            shutil.rmtree(os.path.join(Work.dir, "seed"), ignore_errors=True)
        if args.section in ("memory", "all") and not args.without_bae:
            memory()
        if args.section in ("slow", "all") and not args.without_bae:
            slow()
            os.remove(os.path.join(Work.dir, "seed", "slow.bin"))
        if args.section in ("cloud", "all") and not args.without_bae:
            torrent, folder = make_torrent("cloud.bin", SIZE * MIB, MIB)
            cloud(torrent, folder, SIZE * MIB, ROUNDS, row, log, runs)
            shutil.rmtree(os.path.join(Work.dir, "seed"), ignore_errors=True)
        if args.section in ("seed", "all") and not args.without_bae:
            seed(make_torrent, SIZE * MIB, row, log, runs)
            shutil.rmtree(os.path.join(Work.dir, "seed"), ignore_errors=True)
        parts = {"speed": ["import"], "seed": ["local", "storage"]}.get(args.section, ["import", "local", "storage"])
        if args.section in ("speed", "seed", "shapes", "all") and not args.without_bae:
            shapes(parts, ROUNDS, args.quick, row, log, runs)
        if args.section in ("get", "all") and not args.without_bae:
            _, folder = make_torrent("get.bin", SIZE * MIB, MIB)
            get(folder, SIZE * MIB, ROUNDS, row, log, runs)
        if args.section in ("streams", "all") and not args.without_bae:
            _, folder = make_torrent("get.bin", SIZE * MIB, MIB)
            streams(folder, ROUNDS, row, log, runs)
        if args.section in ("catalog", "all") and not args.without_bae:
            catalog(row, log, runs)
        print_rows()
        if args.json:
            with open(args.json, "w") as f:
                json.dump({"rows": rows, "runs": runs}, f, indent=1)
    finally:
        clients.stop_all()
        shutil.rmtree(Work.dir, ignore_errors=True)
    return 0 if all(r["ok"] is not False for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
