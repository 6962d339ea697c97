"""The catalog section of scripts/bench: how long commands take with a large catalog, and how large it is.

A catalog of 10,000 imports with 1,000 objects each is written into bae's own tables. 10 million extents are 160 TB in
chunks of 16 MiB. BENCH_EXTENTS sets their number.
"""

import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import time

EXTENTS = int(os.environ.get("BENCH_EXTENTS", 10_000_000))
EACH = 1_000
CHUNK = 16 << 20

NUMBERS = """WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :count)"""
IMPORTS = f"""{NUMBERS}
    INSERT INTO imports(num, id, name, source, len, storage, chunk_len, state, created_at, completed_at, remote,
        wanted_files, wanted_bytes, wanted_stored)
    SELECT n + 1, printf('%08x', n), 'file ' || n || '.bin', 'https://example.org/files/file-' || n || '.bin',
        :len, 'file', {CHUNK}, 'imported', 1700000000, 1700000100, '{{}}', 1, :len, :len FROM numbers"""
FILES = f"""{NUMBERS}
    INSERT INTO files(import, idx, path, start, len, pad) SELECT n + 1, 0, 'file ' || n || '.bin', 0, :len, 0
    FROM numbers"""
OBJECTS = f"""{NUMBERS}
    INSERT INTO objects(num, storage, home, key, len, state, packed, role, root)
    SELECT n + 1, 1, n / {EACH} + 1, printf('%s/%08x/%08x-%s', (SELECT value FROM meta WHERE key = 'catalog_id'),
        n / {EACH}, n + 1, lower(hex(randomblob(8)))), {CHUNK}, 'stored', 0, 'chunk', randomblob(32) FROM numbers"""
STORAGES = "INSERT INTO storages(num, name) VALUES(1, 'file')"
EXTENT_ROWS = f"""{NUMBERS}
    INSERT INTO extents(import, start, "end", object, "offset")
    SELECT n / {EACH} + 1, n % {EACH} * {CHUNK}, (n % {EACH} + 1) * {CHUNK}, n + 1, 0 FROM numbers"""
# An import of one extent, for comparison.
SMALL = f"""
    INSERT INTO imports(num, id, name, source, len, storage, chunk_len, state, created_at, remote, wanted_files,
        wanted_bytes) VALUES(:num, 'ffffffff', 'small', 'https://example.org/small', {CHUNK}, 'file', {CHUNK},
        'imported', 1700000000, '{{}}', 1, {CHUNK})"""
SMALL_FILE = f"INSERT INTO files(import, idx, path, start, len, pad) VALUES(:num, 0, 'small', 0, {CHUNK}, 0)"
SMALL_EXTENT = f'INSERT INTO extents(import, start, "end", object, "offset") VALUES(:num, 0, {CHUNK}, 1, 0)'


class DataFolder:
    def __init__(self, folder):
        self.folder = folder
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("BAE_", "AWS_"))}
        self.env |= {"HOME": folder, "XDG_CONFIG_HOME": folder}

    def run(self, *args):
        """Runs a command. Returns its seconds, those of its CPU, and its lines."""
        command = [os.environ["BENCH_BAE"], "--data-dir", f"{self.folder}/data", "--json", *args]
        began, before = time.monotonic(), os.times()
        done = subprocess.run(command, env=self.env, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return time.monotonic() - began, cpu, done.stdout.splitlines()

    def median(self, *args, times=9):
        """The median of the seconds, and the mean of those of the CPU, which the system counts in steps of 10 ms."""
        runs = [self.run(*args) for _ in range(times)]
        return statistics.median(run[0] for run in runs), statistics.fmean(run[1] for run in runs)

    def fill(self, imports):
        db = sqlite3.connect(f"{self.folder}/data/catalog.db")
        count, of_import = {"count": imports * EACH}, {"count": imports, "len": EACH * CHUNK}
        for sql, values in [(STORAGES, {}), (IMPORTS, of_import), (FILES, of_import), (OBJECTS, count),
                            (EXTENT_ROWS, count)]:
            db.execute(sql, values)
        for sql in (SMALL, SMALL_FILE, SMALL_EXTENT):
            db.execute(sql, {"num": imports + 1})
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
        return os.path.getsize(f"{self.folder}/data/catalog.db")


def catalog(row, log, runs):
    imports = max(EXTENTS // EACH, 1)
    folder = tempfile.mkdtemp(prefix="bae-bench.", dir=os.environ.get("BENCH_DISK", "/var/tmp"))
    try:
        data = DataFolder(folder)
        data.run("gc", "--yes")
        started, _ = data.median("queue", "list")
        log(f"catalog of {imports} imports and {imports * EACH} extents …")
        size = data.fill(imports)
        data.run("queue", "list")
        _, _, lines = data.run("ls")
        assert len(lines) == imports + 1, json.dumps(lines[:2])
        listed, _ = data.median("ls", times=5)
        start, _ = data.median("queue", "list")
        _, small = data.median("info", "ffffffff", times=20)
        _, large = data.median("info", f"{imports // 2:08x}", times=20)
        runs.append({"section": "catalog", "imports": imports, "extents": imports * EACH, "ls": listed, "start": start,
                     "empty": started, "small": small, "large": large, "bytes": size})
        what = f"{imports:,} imports, {imports * EACH:,} extents"
        row(f"{what}: bae ls", listed, "s", 1)
        row(f"{what}: start of the engine, longer than with an empty catalog", 1e3 * (start - started), "ms", 50)
        row(f"{what}: CPU of bae info for {EACH:,} extents, more than for 1", 1e3 * (large - small), "ms", 25)
        row(f"{what}: bytes of an object with its extent", size / imports / EACH, "B", 280)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
