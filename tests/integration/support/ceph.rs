//! Ceph's S3 gateway on the smallest cluster: one monitor, one manager, one in-memory object store.

use std::{
    fs,
    net::SocketAddrV4,
    path::{Path, PathBuf},
    process::Command,
};

use super::{LONG, ports, process::Process, require_program, wait_until};

/// A cluster that is being started.
struct Cluster {
    dir: PathBuf,
    processes: Vec<Process>,
}

/// Starts the cluster in `dir` with the gateway at `gateway`. Returns the processes in the order of their start.
pub(super) fn start(dir: &Path, gateway: SocketAddrV4, access: &str, secret: &str) -> Vec<Process> {
    for (program, package) in [
        ("ceph-mon", "ceph-mon"),
        ("ceph-osd", "ceph-osd"),
        ("ceph-mgr", "ceph-mgr"),
        ("radosgw", "radosgw"),
        ("ceph", "ceph-common"),
    ] {
        require_program(program, package);
    }
    let mut cluster = Cluster { dir: dir.to_owned(), processes: Vec::new() };
    for name in ["mon", "osd", "mgr", "rgw", "run", "log"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned();
    fs::write(cluster.path("ceph.conf"), cluster.config(&id, gateway)).unwrap();
    cluster.start_monitor(&id);
    cluster.start_store();
    cluster.start_gateway(access, secret);
    cluster.processes
}

impl Cluster {
    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn config(&self, id: &str, gateway: SocketAddrV4) -> String {
        // The monitor gets its own address: its default port may be in use.
        let (dir, monitor) = (self.dir.display(), ports::unused());
        let ip = monitor.ip();
        format!(
            "[global]\nfsid = {id}\nmon initial members = a\nmon host = v2:{monitor}\n\
             public addr = {ip}\nms bind ipv6 = false\n\
             auth cluster required = cephx\nauth service required = cephx\nauth client required = cephx\n\
             osd pool default size = 1\nosd pool default min size = 1\nosd pool default pg num = 8\n\
             mon allow pool size one = true\nmon warn on pool no redundancy = false\n\
             auth allow insecure global id reclaim = false\nosd crush chooseleaf type = 0\n\
             osd objectstore = memstore\nmemstore device bytes = 2147483648\n\
             run dir = {dir}/run\npid file = {dir}/run/$name.pid\nadmin socket = {dir}/run/$name.asok\n\
             log file = {dir}/log/$name.log\nkeyring = {dir}/keyring\n\
             mon data = {dir}/mon\nosd data = {dir}/osd\nmgr data = {dir}/mgr\nrgw data = {dir}/rgw\n\
             rgw frontends = beast endpoint={gateway}\n"
        )
    }

    /// Runs a command of the cluster to its end, for at most 60 s, and returns its stdout.
    fn run(&self, program: &str, args: &[&str]) -> String {
        let mut command = Command::new("timeout");
        command.args(["60", program, "-c", &self.path("ceph.conf")]).args(args);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?} failed: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn start(&mut self, program: &str, args: &[&str]) {
        let mut command = Command::new(program);
        command.args(["-f", "-c", &self.path("ceph.conf")]).args(args);
        self.processes.push(Process::start(program, &command));
    }

    fn make_keyring(&self) {
        let keyring = self.path("keyring");
        let key = |args: &[&str]| {
            let output = Command::new("ceph-authtool").arg(&keyring).args(args).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        key(&["--create-keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"]);
        let all = ["mon", "osd", "mgr"].map(|part| ["--cap", part, "allow *"]).concat();
        key(&[&["--gen-key", "-n", "client.admin"], &all[..]].concat());
    }

    fn start_monitor(&mut self, id: &str) {
        self.make_keyring();
        let conf = fs::read_to_string(self.path("ceph.conf")).unwrap();
        let host = conf.lines().find_map(|l| l.strip_prefix("mon host = ")).unwrap();
        let map = self.path("monmap");
        let addresses = format!("[{host}]");
        let output = Command::new("monmaptool")
            .args(["--create", "--clobber", "--fsid", id, "--addv", "a", &addresses, &map])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let keyring = self.path("keyring");
        self.run("ceph-mon", &["--mkfs", "-i", "a", "--monmap", &map, "--keyring", &keyring]);
        self.start("ceph-mon", &["-i", "a"]);
        wait_until("Ceph's monitor answers", LONG, || {
            let mut command = Command::new("timeout");
            command.args(["5", "ceph", "-c", &self.path("ceph.conf"), "mon", "stat"]);
            command.output().unwrap().status.success()
        });
    }

    /// Starts the object store and the manager.
    fn start_store(&mut self) {
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned();
        self.run("ceph", &["osd", "new", &id]);
        for (name, caps) in [
            ("osd.0", ["mon", "allow profile osd", "mgr", "allow profile osd", "osd", "allow *"]),
            ("mgr.x", ["mon", "allow profile mgr", "osd", "allow *", "mds", "allow *"]),
            ("client.rgw.a", ["mon", "allow rw", "osd", "allow rwx", "mgr", "allow rw"]),
        ] {
            let entry = self.run("ceph", &[&["auth", "get-or-create", name], &caps[..]].concat());
            let keyring = fs::read_to_string(self.path("keyring")).unwrap();
            fs::write(self.path("keyring"), format!("{keyring}\n{entry}")).unwrap();
        }
        self.run("ceph-osd", &["-i", "0", "--mkfs", "--osd-uuid", &id]);
        self.start("ceph-osd", &["-i", "0"]);
        self.start("ceph-mgr", &["-i", "x"]);
        wait_until("Ceph's store is up", LONG, || {
            self.run("ceph", &["osd", "stat"]).contains("1 up")
        });
    }

    fn start_gateway(&mut self, access: &str, secret: &str) {
        let keyring = self.path("keyring");
        self.start("radosgw", &["-n", "client.rgw.a", "--keyring", &keyring]);
        let user = ["user", "create", "--uid", "bae", "--display-name", "bae"];
        let keys = ["--access-key", access, "--secret-key", secret];
        self.run("radosgw-admin", &[&user[..], &keys[..]].concat());
    }
}
