"""The servers for the get section of scripts/bench, each on loopback with a folder to serve.

A server is ready on entering its context. On leaving it is stopped. vsftpd is BENCH_VSFTPD, which scripts/bench sets.
"""

import os
import pwd
import subprocess
import sys

import bench_clients as clients
from bench_clients import Work, helper, stop
from bench_servers import free_ports

HERE = os.path.dirname(os.path.abspath(__file__))

NGINX = """
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
    location /ipfs/ {{ alias {data}/ipfs/; types {{}} default_type application/vnd.ipld.raw; }}
    location /slow/ {{ alias {data}/; limit_rate 5m; }}
  }}
}}
"""

VSFTPD = """
listen=YES
listen_address=127.0.0.1
listen_port={port}
background=NO
run_as_launching_user=YES
local_enable=NO
anonymous_enable=YES
no_anon_password=YES
anon_root={data}
anon_world_readable_only=NO
allow_writeable_chroot=YES
seccomp_sandbox=NO
isolate=NO
isolate_network=NO
connect_from_port_20=NO
port_promiscuous=YES
pasv_address=127.0.0.1
xferlog_enable=NO
"""

SSHD = """
ListenAddress 127.0.0.1:{port}
HostKey {dir}/host
PidFile none
StrictModes no
UsePAM no
AuthorizedKeysFile {dir}/identity.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
UseDNS no
MaxStartups 100
LogLevel QUIET
Subsystem sftp internal-sftp
ForceCommand internal-sftp
"""

APACHE = """
ServerRoot {dir}
ServerName localhost
PidFile {dir}/pid
ErrorLog {dir}/error.log
Listen 127.0.0.1:{port}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule dav_module {modules}/mod_dav.so
LoadModule dav_fs_module {modules}/mod_dav_fs.so
{user}
Mutex file:{dir}/locks default
DavLockDB {dir}/locks/dav
DocumentRoot {data}
EnableSendfile On
<Location />
Dav On
Require all granted
</Location>
"""


class Server:
    """A server process. Unlike a seeder it has no output to drain."""

    def __init__(self, data):
        self.data = data

    def __enter__(self):
        self.dir = Work.fresh(type(self).__name__.lower())
        self.port, self.tls = free_ports(2)
        self.process = helper(self.command())
        clients.wait_port("127.0.0.1", self.port)
        return self

    def __exit__(self, *_):
        # SIGKILL would leave its worker processes running.
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        stop(self.process)

    def drain(self):
        pass

    def write_config(self, text, **more):
        path = os.path.join(self.dir, "conf")
        with open(path, "w") as f:
            f.write(text.format(dir=self.dir, data=self.data, port=self.port, **more))
        return path

    def url(self, name):
        return f"{self.scheme}://127.0.0.1:{self.port}/{name}"


class Nginx(Server):
    def command(self):
        self.ca = os.path.join(self.dir, "both.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
                        "-addext", "basicConstraints=critical,CA:FALSE",
                        "-keyout", f"{self.dir}/key", "-out", f"{self.dir}/cert"], check=True, stderr=subprocess.DEVNULL)
        with open(self.ca, "w") as both:
            both.write(open(f"{self.dir}/key").read() + open(f"{self.dir}/cert").read())
        user = "user root;" if os.getuid() == 0 else ""
        config = self.write_config(NGINX, plain=self.port, tls=self.tls, user=user)
        return ["nginx", "-c", config, "-e", f"{self.dir}/error.log"]

    def url(self, name, location="f", port=None):
        return f"http://127.0.0.1:{port or self.port}/{location}/{name}"

    def tls_url(self, name):
        return f"https://127.0.0.1:{self.tls}/f/{name}"


class Vsftpd(Server):
    """For anonymous users."""

    scheme = "ftp"

    def command(self):
        return [os.environ["BENCH_VSFTPD"], self.write_config(VSFTPD)]


class Sshd(Server):
    """OpenSSH for the current user, with a key."""

    def command(self):
        for name in ("host", "identity"):
            subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", f"{self.dir}/{name}"], check=True)
        if os.getuid() == 0:
            # The directory of sshd's privilege separation; sshd does not start without it.
            os.makedirs("/run/sshd", exist_ok=True)
        self.user, self.identity = pwd.getpwuid(os.getuid()).pw_name, f"{self.dir}/identity"
        return ["/usr/sbin/sshd", "-D", "-e", "-f", self.write_config(SSHD)]

    def known_hosts(self, port):
        """Writes a known_hosts file with the server's key at that port."""
        path = f"{self.dir}/known_hosts.{port}"
        with open(path, "w") as f:
            f.write(f"[127.0.0.1]:{port} {open(f'{self.dir}/host.pub').read()}")
        return path

    def path(self, name):
        return os.path.join(self.data, name)


class Apache(Server):
    """apache with mod_dav, without a login."""

    scheme = "dav"

    def command(self):
        # Started by root, apache runs as nobody, which must be able to reach the data and to create the lock files.
        os.mkdir(f"{self.dir}/locks")
        os.chmod(f"{self.dir}/locks", 0o777)
        for folder in (Work.dir, self.dir, self.data):
            os.chmod(folder, 0o711)
        user = "User nobody\nGroup nogroup" if os.getuid() == 0 else ""
        config = self.write_config(APACHE, modules="/usr/lib/apache2/modules", user=user)
        return ["/usr/sbin/apache2", "-f", config, "-D", "FOREGROUND"]


class Far:
    """A proxy to a server on loopback with a round trip of `rtt` milliseconds; see bench_far.py."""

    def __init__(self, server, rtt, window):
        self.args = [f"127.0.0.1:{server.port}", str(rtt), str(window)]

    def __enter__(self):
        script = os.path.join(HERE, "bench_far.py")
        self.process = helper([sys.executable, "-B", script, *self.args], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
        return self

    def __exit__(self, *_):
        stop(self.process)
