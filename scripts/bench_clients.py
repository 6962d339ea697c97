"""The clients that scripts/bench.py measures, with the seeder and the tracker that they need.

A client that runs one process per torrent (bae, plain libtorrent, aria2) is measured from its start to its exit. A
daemon (Transmission, qBittorrent) is started first and measured from adding the torrent until it reports completion.
"""

import atexit
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
SUPPORT = os.path.join(HERE, "..", "tests", "integration", "support")
LTPEER = os.path.join(SUPPORT, "ltpeer.py")
PYTHON = [sys.executable, "-W", "ignore"]
TICK = os.sysconf("SC_CLK_TCK")
KIB, MIB = 1 << 10, 1 << 20
# Addresses of this run alone: trackers and Transmission identify peers by IP, and two runs at once must not mix.
NET = f"127.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
PORT = 20000 + os.getpid() % 10000

running = []


def stop(process):
    if process in running:
        running.remove(process)
    if process.poll() is None:
        process.kill()
        process.wait()


@atexit.register
def stop_all():
    for process in list(running):
        stop(process)


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: sys.exit(130))


def helper(args, **more):
    """Starts a process that is not measured. It is killed when this process ends in any way."""
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *args], **more)
    running.append(process)
    return process


def wait_port(host, port, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing listens on {host}:{port}")


class Seeder:
    """python3-libtorrent with its default disk I/O (mmap): one session, or several with an IP each."""

    def __init__(self, torrent, folder, count=1, rate_each=0):
        self.addrs = [f"{NET}.{10 + i}:{PORT}" for i in range(count)]
        args = [*PYTHON, LTPEER, "seed", torrent, folder, "--up-limit", str(rate_each)]
        for addr in self.addrs:
            args += ["--listen", addr]
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self.process = helper(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.wait_for(lambda e: e["event"] == "ready")

    def wait_for(self, matches):
        for line in self.process.stdout:
            if matches(json.loads(line)):
                return
        raise RuntimeError("the seeder ended")

    def drain(self):
        """Reads the seeder's output, so that the seeder never blocks on a full pipe."""
        while select.select([self.process.stdout], [], [], 0)[0]:
            if not os.read(self.process.stdout.fileno(), 1 << 16):
                return

    def send_command(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        stop(self.process)


class Result:
    def __init__(self, wall, cpu, rss, inner=None, lines=(), written=None):
        self.wall, self.cpu, self.rss = wall, cpu, rss
        # Bytes written to a disk. Writes to memory-backed folders do not count.
        self.written = written
        # The time that the client itself measured, without the start of its interpreter.
        self.inner = inner
        # The printed JSON objects, each with the seconds since the start.
        self.lines = list(lines)


class Failed(Exception):
    pass


def measure(args, seeder, limit, env=None):
    """Runs one process to its end. CPU (user+sys seconds) and peak RSS include the children it waited for."""
    log = open(os.path.join(Work.dir, "client.log"), "wb")
    began = time.monotonic()
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.PIPE, env=env)
    running.append(process)
    lines, rest, wall = [], b"", None
    while wall is None:
        if select.select([process.stdout], [], [], 0.2)[0]:
            data = os.read(process.stdout.fileno(), 1 << 16)
            now = time.monotonic() - began
            *complete, rest = (rest + data).split(b"\n")
            lines += [(now, parsed(line)) for line in complete]
            if not data:
                _, status, usage = os.wait4(process.pid, 0)
                wall = time.monotonic() - began
        seeder.drain()
        if time.monotonic() - began > limit:
            stop(process)
            raise Failed(f"not complete after {limit} s")
    running.remove(process)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = open(log.name, errors="replace").read()[-2000:]
        raise Failed(f"exit code {process.returncode}: {tail}")
    inner = next((e["seconds"] for _, e in lines if e.get("event") in ("done", "imported")), None)
    # Between fork and exec the child counts this driver's pages as its own, and ru_maxrss keeps that peak. So the
    # driver stays small: it holds no data and leaves hashing to another process.
    #
    # On Linux ru_oublock is `write_bytes` of /proc/PID/io in blocks of 512 bytes.
    return Result(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, inner, lines, usage.ru_oublock * 512)


def parsed(line):
    try:
        value = json.loads(line)
        return value if isinstance(value, dict) else {}
    except ValueError:
        return {}


class Work:
    """The working directory of a run: in memory, removed at the end."""

    dir = None

    @classmethod
    def fresh(cls, name):
        path = os.path.join(cls.dir, name)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        return path


def bae(torrent, seeder, _data, limit=600, memory=None, upload_limit=None, storage=None, data=None, env=None,
        options=()):
    home = Work.fresh("bae")
    url = storage or f"file://{home}/objects" + (f"?upload_limit={upload_limit}" if upload_limit else "")
    data = data or f"{home}/data"
    args = [os.environ["BENCH_BAE"], "--data-dir", data, "--json", "import", torrent, "--storage", url]
    for addr in seeder.addrs:
        args += ["--peer", addr]
    args += ["--listen", f"{NET}.200:{PORT}", "--no-dht", "--no-lsd", "--no-utp", "--timeout", "60s"]
    args += [*options, *(["--memory", memory] if memory else [])]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("BAE_", "AWS_"))}
    result = measure(args, seeder, limit, clean | {"HOME": home, "XDG_CONFIG_HOME": home} | (env or {}))
    if not any(e.get("event") == "imported" for _, e in result.lines):
        raise Failed("bae ended without an `imported` line")
    return result


def plain(torrent, seeder, _data, limit=600):
    """libtorrent 2.0.8 with default disk I/O and settings, except that uTP, DHT, LSD and port mapping are off."""
    folder = Work.fresh("plain")
    args = [*PYTHON, LTPEER, "get", torrent, folder, "--plain", "--exit", "--listen", f"{NET}.201:{PORT}"]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return measure([*args, "--peer", seeder.addrs[0]], seeder, limit, env)


def aria2(torrent, seeder, _data, limit=600):
    """aria2 takes no peer address: `torrent` names a tracker that knows the seeder."""
    return measure(
        ["aria2c", "--no-conf=true", "--seed-time=0", "--enable-dht=false", "--enable-dht6=false",
         "--bt-enable-lpd=false", "--enable-peer-exchange=false", "--disable-ipv6=true",
         "--file-allocation=none", "--summary-interval=0", "--quiet=true", f"--listen-port={PORT}",
         f"--interface={NET}.202", "-d", Work.fresh("aria2"), torrent], seeder, limit)


def daemon_usage(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    with open(f"/proc/{pid}/status") as f:
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", f.read()).group(1)) * 1024
    return (int(fields[11]) + int(fields[12])) / TICK, peak


def measure_daemon(process, seeder, limit, add, complete):
    cpu_before, _ = daemon_usage(process.pid)
    began = time.monotonic()
    add()
    while not complete():
        seeder.drain()
        if time.monotonic() - began > limit:
            raise Failed(f"not complete after {limit} s")
        time.sleep(0.05)
    wall = time.monotonic() - began
    cpu, rss = daemon_usage(process.pid)
    return Result(wall, cpu - cpu_before, rss)


def transmission(torrent, seeder, _data, limit=600):
    """Transmission 3.00 never dials 127/8, so the seeder dials it."""
    home, ip, rpc = Work.fresh("transmission"), f"{NET}.203", PORT + 1
    os.makedirs(f"{home}/cfg")
    with open(f"{home}/cfg/settings.json", "w") as f:
        json.dump({
            "rpc-bind-address": ip, "rpc-port": rpc, "rpc-authentication-required": False,
            "rpc-whitelist-enabled": False, "rpc-host-whitelist-enabled": False, "bind-address-ipv4": ip,
            "bind-address-ipv6": "::1", "peer-port": PORT, "peer-port-random-on-start": False,
            "port-forwarding-enabled": False, "dht-enabled": False, "lpd-enabled": False, "pex-enabled": False,
            "utp-enabled": False, "encryption": 1, "download-dir": home, "incomplete-dir-enabled": False,
        }, f)
    process = helper(["transmission-daemon", "-f", "-g", f"{home}/cfg"], stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL)
    session = {}

    def call(method, **arguments):
        body = json.dumps({"method": method, "arguments": arguments}).encode()
        while True:
            request = urllib.request.Request(f"http://{ip}:{rpc}/transmission/rpc", body, session)
            try:
                with urllib.request.urlopen(request, timeout=10) as response:
                    return json.load(response)["arguments"]
            except urllib.error.HTTPError as e:
                if e.code != 409:
                    raise
                session["X-Transmission-Session-Id"] = e.headers["X-Transmission-Session-Id"]

    def complete():
        state = call("torrent-get", fields=["percentDone", "peersConnected"])["torrents"][0]
        return state["percentDone"] >= 1

    def add():
        call("torrent-add", filename=torrent, **{"download-dir": home})
        seeder.send_command(f"connect {ip}:{PORT}")

    try:
        wait_port(ip, rpc)
        call("session-get")
        wait_port(ip, PORT)
        return measure_daemon(process, seeder, limit, add, complete)
    finally:
        stop(process)


QBITTORRENT = """[BitTorrent]
Session\\BTProtocol=TCP
Session\\DHTEnabled=false
Session\\Interface=lo
Session\\InterfaceAddress={ip}
Session\\InterfaceName=lo
Session\\LSDEnabled=false
Session\\PeXEnabled=false
Session\\Port={port}
Session\\QueueingSystemEnabled=false
Session\\RefreshInterval=100

[LegalNotice]
Accepted=true

[Meta]
MigrationVersion=4

[Network]
PortForwardingEnabled=false

[Preferences]
WebUI\\Address={ip}
WebUI\\CSRFProtection=false
WebUI\\HostHeaderValidation=false
WebUI\\AuthSubnetWhitelist=127.0.0.0/8
WebUI\\AuthSubnetWhitelistEnabled=true
WebUI\\LocalHostAuth=false
WebUI\\Port={web}
"""


def qbittorrent(torrent, seeder, _data, limit=600):
    home, ip, web = Work.fresh("qbittorrent"), f"{NET}.204", PORT + 1
    os.makedirs(f"{home}/qBittorrent/config")
    with open(f"{home}/qBittorrent/config/qBittorrent.conf", "w") as f:
        f.write(QBITTORRENT.format(ip=ip, port=PORT, web=web))
    process = helper(["qbittorrent-nox", f"--profile={home}"], stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL)

    def call(path, body=None, kind="application/x-www-form-urlencoded"):
        request = urllib.request.Request(f"http://{ip}:{web}/api/v2/{path}", body, {"Content-Type": kind})
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.read()

    def add():
        boundary = "----bench"
        with open(torrent, "rb") as f:
            parts = [(b'name="torrents"; filename="x.torrent"', f.read()), (b'name="savepath"', home.encode())]
        body = b"".join(b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (boundary.encode(), head, value)
                        for head, value in parts) + b"--%s--\r\n" % boundary.encode()
        call("torrents/add", body, f"multipart/form-data; boundary={boundary}")
        while not (listed := json.loads(call("torrents/info"))):
            time.sleep(0.02)
        call("torrents/addPeers", f"hashes={listed[0]['hash']}&peers={seeder.addrs[0]}".encode())

    def complete():
        return json.loads(call("torrents/info"))[0]["progress"] >= 1

    try:
        wait_port(ip, web)
        return measure_daemon(process, seeder, limit, add, complete)
    finally:
        stop(process)


class Tracker:
    """opentracker with one torrent on its whitelist (Debian's build answers only for listed info-hashes)."""

    def __init__(self, info_hash):
        self.dir = Work.fresh("tracker")
        os.chmod(self.dir, 0o755)
        with open(f"{self.dir}/whitelist.txt", "w") as f:
            f.write(info_hash + "\n")
        self.url = f"http://{NET}.2:{PORT}/announce"

    def __enter__(self):
        self.process = helper(
            ["opentracker", "-i", f"{NET}.2", "-p", str(PORT), "-P", str(PORT), "-d", self.dir, "-u", "nobody",
             "-w", "whitelist.txt"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_port(f"{NET}.2", PORT)
        return self

    def __exit__(self, *_):
        stop(self.process)
