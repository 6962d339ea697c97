"""S3 servers on loopback for scripts/bench. Each starts empty with its data in memory and is stopped by process id.

The programs are BENCH_WEED, BENCH_GARAGE and BENCH_RCLONE, which scripts/bench sets.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import time

import bench_clients as clients
from bench_clients import Work, helper, stop

BUCKET = "bench"


def free_ports(count, offset=0):
    """Ports that are free now; the ports `offset` above them are free too."""
    found = []
    while len(found) < count:
        with socket.socket() as s, socket.socket() as upper:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
            if port + offset > 65535 or port in found:
                continue
            try:
                upper.bind(("127.0.0.1", port + offset)) if offset else None
            except OSError:
                continue
            found.append(port)
    return found


class Server:
    """On entering, the bucket exists and holds an object: no run measures the server's first allocation."""

    region = "us-east-1"

    def __enter__(self):
        self.dir = Work.fresh(self.name)
        log = open(os.path.join(Work.dir, f"{self.name}.log"), "wb")
        self.access, self.secret = f"GK{secrets.token_hex(12)}", secrets.token_hex(32)
        args, env = self.command()
        self.process = helper(args, stdout=log, stderr=log, env=os.environ | env)
        try:
            self.wait(log.name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        stop(self.process)
        shutil.rmtree(self.dir, ignore_errors=True)

    def wait(self, log, seconds=60):
        end = time.monotonic() + seconds
        warm = os.path.join(Work.dir, "warm")
        with open(warm, "wb") as f:
            f.write(b"warm" * (1 << 20))
        while self.process.poll() is None and time.monotonic() < end:
            if self.rclone("mkdir", self.remote(), quiet=True) and \
                    self.rclone("copyto", warm, self.remote("warm"), quiet=True):
                os.remove(warm)
                return
            time.sleep(0.1)
        tail = open(log, errors="replace").read()[-2000:]
        raise clients.Failed(f"{self.name} did not become ready: {tail}")

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def keys(self):
        return {"AWS_ACCESS_KEY_ID": self.access, "AWS_SECRET_ACCESS_KEY": self.secret}

    def storage(self, port=None):
        """The storage URL for bae; `port` is that of a proxy in front of the server."""
        endpoint = f"http%3A%2F%2F127.0.0.1%3A{port or self.port}"
        return f"s3://{BUCKET}/bae?endpoint={endpoint}&path_style=true&region={self.region}"

    def remote(self, path=""):
        """The same bucket for rclone, without a config file."""
        return (f":s3,provider=Other,env_auth=true,endpoint='{self.endpoint}',region={self.region},"
                f"force_path_style=true:{BUCKET}/{path}")

    def rclone_args(self, *args):
        return [os.environ["BENCH_RCLONE"], "--config", "/dev/null", *args]

    def rclone(self, *args, quiet=False):
        args = self.rclone_args(*args, "--retries", "1", "--low-level-retries", "1")
        done = subprocess.run(args, env=os.environ | self.keys(), timeout=60, check=False,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL if quiet else None)
        return done.returncode == 0


class SeaweedFS(Server):
    name = "seaweedfs"

    def command(self):
        # Every port has a gRPC port 10000 above it.
        self.port, master, volume, filer = self.ports = free_ports(4, 10000)
        config = os.path.join(self.dir, "s3.json")
        identity = {"name": "bench", "credentials": [{"accessKey": self.access, "secretKey": self.secret}],
                    "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        with open(config, "w") as f:
            json.dump({"identities": [identity]}, f)
        os.mkdir(os.path.join(self.dir, "logs"))
        return [os.environ["BENCH_WEED"], f"-logdir={self.dir}/logs", "server", f"-dir={self.dir}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                "-s3", f"-s3.port={self.port}", f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0",
                f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
                f"-s3.localSocket={self.dir}/s3.sock", f"-filer.localSocket={self.dir}/filer.sock",
                "-master.volumeSizeLimitMB=512", "-volume.max=20"], {}

    def __exit__(self, *_):
        super().__exit__()
        # SeaweedFS leaves these socket files behind, one for each gRPC port.
        for port in self.ports:
            for part in ("s3", "master", "volume", "filer"):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(f"/tmp/seaweedfs-{part}-grpc-{port + 10000}.sock")


class Garage(Server):
    name = "garage"
    region = "garage"

    def command(self):
        self.port, rpc = free_ports(2)
        config = os.path.join(self.dir, "garage.toml")
        with open(config, "w") as f:
            f.write(f'metadata_dir = "{self.dir}/meta"\ndata_dir = "{self.dir}/data"\ndb_engine = "lmdb"\n'
                    f'replication_factor = 1\nrpc_bind_addr = "127.0.0.1:{rpc}"\n'
                    f'rpc_public_addr = "127.0.0.1:{rpc}"\nrpc_secret = "{secrets.token_hex(32)}"\n'
                    f'[s3_api]\ns3_region = "garage"\napi_bind_addr = "127.0.0.1:{self.port}"\n')
        env = {"GARAGE_DEFAULT_ACCESS_KEY": self.access, "GARAGE_DEFAULT_SECRET_KEY": self.secret,
               "GARAGE_DEFAULT_BUCKET": BUCKET}
        return [os.environ["BENCH_GARAGE"], "-c", config, "server", "--single-node", "--default-bucket"], env


SERVERS = {server.name: server for server in (SeaweedFS, Garage)}

if __name__ == "__main__":
    # For scripts that start a SeaweedFS themselves.
    print(*free_ports(4, 10000))
