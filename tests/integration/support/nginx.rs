//! nginx, which serves one folder in many ways: with and without ranges, lengths and ETags, slowly, to a few
//! connections at a time, behind a login, over TLS.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, SocketAddrV6, TcpStream},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use bae::protocols::{FetchOptions, conformance::WRONG_PASSWORD};

use super::{
    LONG,
    certificates::Certificates,
    ports,
    process::Process,
    require_program,
    served_folder::{Client, ConformanceFolder, ServedFolder, next_date},
    wait_until,
};

/// Names between `@` are replaced when nginx starts. Modules are loaded one by one: some need directories that only
/// root can create.
const CONFIG: &str = r#"
include /etc/nginx/modules-enabled/*-mod-http-ndk.conf;
include /etc/nginx/modules-enabled/*-mod-http-lua.conf;
include /etc/nginx/modules-enabled/*-mod-http-headers-more-filter.conf;
include /etc/nginx/modules-enabled/*-mod-stream.conf;
worker_processes 2;
@USER@
daemon off;
pid @DIR@/pid;
error_log @DIR@/error.log info;
events { worker_connections 1024; }
http {
  log_format ranges '$uri $status $body_bytes_sent $http_range';
  access_log @DIR@/access.log ranges;
  client_body_temp_path @DIR@/tmp/b; proxy_temp_path @DIR@/tmp/p; fastcgi_temp_path @DIR@/tmp/f;
  uwsgi_temp_path @DIR@/tmp/u; scgi_temp_path @DIR@/tmp/s;
  default_type application/octet-stream;
  sendfile on; tcp_nopush on;
  limit_req_zone $binary_remote_addr zone=requests:1m rate=2r/s;
  limit_conn_zone $binary_remote_addr zone=connections:1m;
  lua_shared_dict counts 1m;
  server {
    listen @PLAIN@;
    @IPV6@
    listen unix:@DIR@/h2.sock http2;
    listen @TLS@ ssl http2;
    ssl_certificate @BOTH@; ssl_certificate_key @BOTH@;
    root @WWW@;
    location /f/       { alias @WWW@/; }
    location /slow/    { alias @WWW@/; limit_rate 2m; }
    location /limc/    { alias @WWW@/; limit_rate 8m; limit_conn connections 2; limit_conn_status 429; }
    location /limr/    { alias @WWW@/; limit_req zone=requests burst=1 nodelay; limit_req_status 429; }
    location /norange/ { alias @WWW@/; max_ranges 0; }
    location /noetag/  { alias @WWW@/; etag off; more_clear_headers Last-Modified; }
    location /noetag-slow/ { alias @WWW@/; limit_rate 2m; etag off; more_clear_headers Last-Modified; }
    location /chunked/ { alias @WWW@/; sub_filter_types *; sub_filter_once off; sub_filter 'NEVERxMATCHxTHIS' ''; }
    location /auth/    { alias @WWW@/; auth_basic bae; auth_basic_user_file @DIR@/passwords; }
    location /r301/    { rewrite ^/r301/(.*)$ /f/$1 permanent; }
    location /loop     { return 302 /loop; }
    location /down/    { rewrite ^/down/(.*)$ http://@PLAIN@/f/$1 redirect; }
    location /busy     { more_set_headers 'Retry-After: 1'; return 503; }
    location /flaky/   { access_by_lua_block {
                           local c = ngx.shared.counts:incr("flaky", 1, 0)
                           if c % 3 ~= 0 then ngx.header["Retry-After"] = "1"; return ngx.exit(503) end }
                         alias @WWW@/; }
    location /cuts/    { alias @WWW@/; body_filter_by_lua_block {
                           ngx.ctx.sent = (ngx.ctx.sent or 0) + #ngx.arg[1]
                           if ngx.ctx.sent > 1500000 then return ngx.ERROR end } }
    location /endless/ { content_by_lua_block {
                           local part = string.rep("endless ", 8192)
                           while ngx.print(part) do ngx.flush(true) end } }
    location /cd/      { alias @WWW@/; add_header Content-Disposition "attachment; filename=\"x.bin\"; filename*=UTF-8''na%C3%AFve.bin"; }
    location /login/   { add_header Set-Cookie "pass=yes; Path=/members"; rewrite ^/login/(.*)$ /members/$1 redirect; }
    location /members/ { if ($cookie_pass != yes) { return 403; } alias @WWW@/; }
    location = /auth/secret.bin { deny all; }
    location = /f/secret.bin { deny all; }
    location /encoded/ { alias @WWW@/; add_header Content-Encoding gzip; }
    location ~ ^/ipfs/(?<cid>[A-Za-z0-9]+)$ {
                         default_type application/vnd.ipld.raw; try_files /ipfs/$cid =404; }
    location ~ ^/slow/ipfs/(?<cid>[A-Za-z0-9]+)$ {
                         default_type application/vnd.ipld.raw; try_files /ipfs/$cid =404; limit_rate 256k; }
    location ~ ^/ipns/(?<name>[a-z0-9]+)$ {
                         default_type application/vnd.ipfs.ipns-record; try_files /ipns/$name =404; }
  }
  server { listen @EXPIRED@ ssl; ssl_certificate @DIR@/expired.pem; ssl_certificate_key @KEY@; root @WWW@; }
}
stream {
  server {
    listen @H2@ ssl; ssl_alpn h2;
    ssl_certificate @BOTH@; ssl_certificate_key @BOTH@;
    proxy_pass unix:@DIR@/h2.sock;
  }
}
"#;

/// A running nginx.
#[derive(Debug)]
pub(crate) struct Nginx {
    pub(crate) process: Process,
    pub(crate) served: ServedFolder,
    pub(crate) addr: SocketAddrV4,
    tls: SocketAddrV4,
    expired: SocketAddrV4,
    h2: SocketAddrV4,
    ipv6: Option<SocketAddrV6>,
    pub(crate) certificates: Certificates,
}

impl Nginx {
    pub(crate) fn start() -> Self {
        require_program("nginx", "nginx-extras");
        let served = ServedFolder::new();
        let dir = served.server_dir();
        let addr = ports::unused();
        let [tls, expired, h2] = std::array::from_fn(|_| free_port(*addr.ip()));
        let ipv6 = ports::ipv6();
        fs::create_dir(dir.join("tmp")).unwrap();
        let certificates = Certificates::new(dir, *addr.ip());
        expire(&certificates);
        let password =
            Command::new("openssl").args(["passwd", "-apr1", "secret"]).output().unwrap();
        let password = String::from_utf8(password.stdout).unwrap();
        fs::write(dir.join("passwords"), format!("bob:{password}")).unwrap();
        let root = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) == 0;
        let config = CONFIG
            .replace("@DIR@", dir.to_str().unwrap())
            .replace("@WWW@", served.dir().to_str().unwrap())
            .replace("@PLAIN@", &addr.to_string())
            .replace("@TLS@", &tls.to_string())
            .replace("@EXPIRED@", &expired.to_string())
            .replace("@H2@", &h2.to_string())
            .replace("@IPV6@", &ipv6.map(|addr| format!("listen {addr};")).unwrap_or_default())
            .replace("@BOTH@", certificates.key_and_certificate.to_str().unwrap())
            .replace("@KEY@", certificates.key.to_str().unwrap())
            .replace("@USER@", if root { "user root;" } else { "" });
        let path = dir.join("nginx.conf");
        fs::write(&path, config).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&path).arg("-e").arg(dir.join("error.log"));
        let mut process = Process::start("nginx", &command);
        wait_until("nginx answers", LONG, || {
            assert!(process.is_running(), "nginx ended\n{}", process.log());
            TcpStream::connect(addr).is_ok()
        });
        Self { process, served, addr, tls, expired, h2, ipv6, certificates }
    }

    /// The URL of `path`, which begins with a location of the configuration, such as `/f/x`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub(crate) fn tls_url(&self, path: &str) -> String {
        format!("https://{}{path}", self.tls)
    }

    /// A URL at the port that speaks only HTTP/2.
    pub(crate) fn h2_url(&self, path: &str) -> String {
        format!("https://{}{path}", self.h2)
    }

    /// A URL with an IPv6 address; `None` on a machine without IPv6.
    pub(crate) fn ipv6_url(&self, path: &str) -> Option<String> {
        self.ipv6.map(|addr| format!("http://{addr}{path}"))
    }

    /// The location at `url` for the conformance suite. The suite kills the server, so this must be its last use.
    pub(crate) fn conformance_folder(&self, url: &str) -> ConformanceFolder<'_> {
        let options =
            FetchOptions { cacert: Some(self.certificates.ca.clone()), ..Default::default() };
        let client = |url: &str| Some(Client::new(url.to_owned(), options.clone()));
        let rejected_url = url.replace(":secret@", &format!(":{WRONG_PASSWORD}@"));
        ConformanceFolder {
            folders: false,
            rejected: if rejected_url == url { None } else { client(&rejected_url) },
            forbidden: client(url),
            process: Some(&self.process),
            ..ConformanceFolder::new(&self.served, url)
        }
    }

    /// A URL at the port whose certificate has expired: it was valid until the second in which it was made.
    pub(crate) fn expired_url(&self, path: &str) -> String {
        let pem = self.served.server_dir().join("expired.pem");
        let made = fs::metadata(pem).unwrap().modified().unwrap();
        wait_until("the certificate expires", LONG, || {
            made.elapsed().is_ok_and(|age| age >= Duration::from_secs(1))
        });
        format!("https://{}{path}", self.expired)
    }

    /// Replaces the file `name` atomically (temp file and rename).
    pub(crate) fn serve(&self, name: &str, bytes: &[u8]) {
        let path = self.path_of(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = self.served.server_dir().join("tmp/new");
        fs::write(&new, bytes).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).unwrap();
        let file = fs::File::options().write(true).open(&new).unwrap();
        file.set_modified(next_date()).unwrap();
        fs::rename(&new, &path).unwrap();
    }

    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.served.dir().join(name)
    }

    /// One line per completed request: path, status, bytes of the body, and the requested range.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log =
            fs::read_to_string(self.served.server_dir().join("access.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.process.terminate();
    }
}

fn free_port(ip: Ipv4Addr) -> SocketAddrV4 {
    let listener = std::net::TcpListener::bind((ip, 0)).unwrap();
    SocketAddrV4::new(ip, listener.local_addr().unwrap().port())
}

/// A certificate for the same key that expires the moment it is made.
fn expire(certificates: &Certificates) {
    let dir = certificates.certificate.parent().unwrap();
    let done = Command::new("openssl")
        .args(["x509", "-req", "-in", "srv.csr", "-CA", "ca.pem", "-CAkey", "ca.key"])
        .args(["-CAcreateserial", "-days", "0", "-extfile", "srv.ext", "-out", "expired.pem"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(done.status.success(), "openssl: {}", String::from_utf8_lossy(&done.stderr));
}
