//! Tells public from private addresses, for URLs from untrusted sources. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Whether `ip` is a public address: not loopback, private, link-local, multicast or otherwise reserved.
#[must_use]
pub fn is_public_address(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_ipv4(ip),
        IpAddr::V6(ip) => is_public_ipv6(ip),
    }
}

fn is_public_ipv4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let carrier_grade_nat = a == 100 && (64..128).contains(&b);
    let reserved = (a, b, c) == (192, 0, 0) || a == 198 && (18..20).contains(&b);
    !(a == 0
        || a >= 224
        || ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || carrier_grade_nat
        || reserved)
}

fn is_public_ipv6(ip: Ipv6Addr) -> bool {
    let [a, b, c, .., x, y] = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    if let Some(mapped) = ip.to_ipv4_mapped() {
        return is_public_ipv4(mapped);
    }
    match (a, b) {
        // NAT64 and 6to4 addresses contain an IPv4 address.
        (0x64, 0xff9b) => is_public_ipv4(v4(x, y)),
        (0x2002, _) => is_public_ipv4(v4(b, c)),
        // Of the other ranges, only 2000::/3 is assigned for public use.
        _ => a & 0xe000 == 0x2000,
    }
}

/// Whether the host of `url` is a literal private address or a `localhost` name. Names are not resolved.
#[must_use]
pub fn has_private_host(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => !is_public_ipv4(ip),
        Some(Host::Ipv6(ip)) => !is_public_ipv6(ip),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_and_private_addresses_are_not_public() {
        for ip in ["1.1.1.1", "100.128.0.1", "172.32.0.1", "2606:4700::1", "64:ff9b::101:101"] {
            assert!(is_public_address(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "0.0.0.0",
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::7f00:1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ] {
            assert!(!is_public_address(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn urls_with_private_or_localhost_hosts_are_recognised() {
        let named = |url: &str| has_private_host(&url.parse().unwrap());
        assert!(named("http://127.1/") && named("http://0x7f000001/") && named("http://[::1]/"));
        assert!(named("https://LOCALHOST./x") && named("http://a.localhost/"));
        assert!(!named("http://localhost.example/") && !named("http://1.1.1.1/"));
    }
}
