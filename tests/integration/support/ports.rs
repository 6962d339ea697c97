//! Addresses: every peer gets an IP of its own out of 127.0.0.0/8, and a port that was free a moment ago.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, TcpListener, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// An address that nobody else in this or another test process uses.
pub(crate) fn own() -> SocketAddrV4 {
    loop {
        let ip = own_ip();
        let Ok(tcp) = TcpListener::bind((ip, 0)) else { continue };
        let port = tcp.local_addr().unwrap().port();
        // Trackers and DHT use the same number over UDP.
        if UdpSocket::bind((ip, port)).is_ok() {
            return SocketAddrV4::new(ip, port);
        }
    }
}

/// A free port of IPv6's one loopback address; `None` on a machine without IPv6.
pub(crate) fn ipv6() -> Option<SocketAddrV6> {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok()?;
    Some(SocketAddrV6::new(Ipv6Addr::LOCALHOST, listener.local_addr().unwrap().port(), 0, 0))
}

/// Test processes start at different places of the 2^24 addresses, so that they can run side by side.
fn own_ip() -> Ipv4Addr {
    loop {
        let start = std::process::id().wrapping_mul(0x9E37_79B9) >> 8;
        let n = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let [_, a, b, c] = n.to_be_bytes();
        // 127.0.x.x is where people run things by hand; .0 and .255 look like network addresses.
        if a != 0 && !matches!(c, 0 | 255) {
            return Ipv4Addr::new(127, a, b, c);
        }
    }
}
