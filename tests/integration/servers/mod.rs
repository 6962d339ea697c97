//! Files from servers: every protocol of `bae get` and of `bae import URL`.
//!
//! A protocol's module runs the conformance suite against real servers (nginx, apache, vsftpd, proftpd, OpenSSH,
//! rclone and more). Its `_oddities` are scripted servers with answers that exist in the field. `get` and its relatives
//! test the command: resuming, faults, logins and targets. `import_url` stores the same files as an import.

mod dash;
mod ftp;
mod ftp_oddities;
mod get;
mod get_faults;
mod get_logins;
mod get_protocols;
mod get_stdout;
mod get_targets;
mod hls;
mod hls_faults;
mod hls_live;
mod http;
mod http_oddities;
mod import_url;
mod ipfs;
mod ipfs_faults;
mod ipfs_names;
mod proxies;
mod s3_source;
mod sftp;
mod sftp_keys;
mod sftp_oddities;
mod webdav;
