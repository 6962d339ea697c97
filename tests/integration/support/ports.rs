//! Addresses of peers: each has its own IP in 127.0.0.0/8 and a port that was free a moment ago.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, TcpListener, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// An address that no other peer of this or another test process has.
pub(crate) fn unused() -> SocketAddrV4 {
    loop {
        let ip = next_ip();
        let Ok(tcp) = TcpListener::bind((ip, 0)) else { continue };
        let port = tcp.local_addr().unwrap().port();
        // Trackers and the DHT use the same port number over UDP.
        if UdpSocket::bind((ip, port)).is_ok() {
            return SocketAddrV4::new(ip, port);
        }
    }
}

/// A free port of the IPv6 loopback address; `None` on a machine without IPv6.
pub(crate) fn ipv6() -> Option<SocketAddrV6> {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok()?;
    Some(SocketAddrV6::new(Ipv6Addr::LOCALHOST, listener.local_addr().unwrap().port(), 0, 0))
}

/// The next unused IP. Each test process starts at a different one of the 2^24 addresses, so that test processes
/// can run at the same time.
fn next_ip() -> Ipv4Addr {
    loop {
        let start = std::process::id().wrapping_mul(0x9E37_79B9) >> 8;
        let n = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let [_, a, b, c] = n.to_be_bytes();
        // 127.0.x.x is left to programs started by hand. Addresses that end in 0 or 255 look like network
        // addresses.
        if a != 0 && !matches!(c, 0 | 255) {
            return Ipv4Addr::new(127, a, b, c);
        }
    }
}
