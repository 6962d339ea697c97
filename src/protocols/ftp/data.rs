//! Addresses of data connections: parses all forms of the replies to `EPSV` and `PASV`, and writes the command of
//! active mode. Pure.
//!
//! Only the port of a reply is used. The host is that of the control connection, because a server could name any host.

use std::net::SocketAddr;

/// The port in `229 Entering Extended Passive Mode (|||6446|)`. Any printable character may be the delimiter (RFC
/// 2428).
pub(super) fn extended_port(text: &[u8]) -> Option<u16> {
    let inside = text.iter().position(|b| *b == b'(').map_or(text, |at| &text[at + 1..]);
    (0..inside.len()).find_map(|at| {
        let rest = &inside[at..];
        let delimiter = *rest.first().filter(|b| b.is_ascii_graphic() && !b.is_ascii_digit())?;
        let mut parts = rest.split(|b| *b == delimiter);
        // The text before the first delimiter, then network and address, which may be empty.
        let [Some(_), Some(_), Some(_), Some(port)] =
            [parts.next(), parts.next(), parts.next(), parts.next()]
        else {
            return None;
        };
        parts.next()?;
        number(port)
    })
}

/// The port in `227 Entering Passive Mode (127,0,0,1,203,217)`. Any text may surround the numbers (RFC 1123, 4.1.2.6).
pub(super) fn passive_port(text: &[u8]) -> Option<u16> {
    let text = String::from_utf8_lossy(text);
    let starts = text.char_indices().filter(|(at, c)| {
        c.is_ascii_digit() && !text[..*at].ends_with(|before: char| before.is_ascii_digit())
    });
    starts
        .map(|(at, _)| &text[at..])
        .find_map(six_numbers)
        .map(|n| u16::from(n[4]) << 8 | u16::from(n[5]))
}

/// Parses `h1,h2,h3,h4,p1,p2` at the start of `text`. Spaces around the commas are accepted.
fn six_numbers(text: &str) -> Option<[u8; 6]> {
    let mut numbers = [0; 6];
    let mut rest = text;
    for (n, number) in numbers.iter_mut().enumerate() {
        if n > 0 {
            rest = rest.trim_start().strip_prefix(',')?.trim_start();
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        *number = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
    }
    Some(numbers)
}

fn number(text: &[u8]) -> Option<u16> {
    std::str::from_utf8(text).ok()?.trim().parse().ok().filter(|port| *port != 0)
}

/// The command that makes the server connect to `addr`.
pub(super) fn port_command(addr: SocketAddr) -> String {
    let port = addr.port();
    match addr.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => {
            let ip = ip.to_string().replace('.', ",");
            format!("PORT {ip},{},{}", port >> 8, port & 0xff)
        }
        std::net::IpAddr::V6(ip) => format!("EPRT |2|{ip}|{port}|"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_passive_ports_have_any_delimiter() {
        for (text, port) in [
            ("Entering Extended Passive Mode (|||6446|)", Some(6446)),
            ("ok (!!!50006!)", Some(50006)),
            ("ok (###7#).", Some(7)),
            ("ok |||6446|", Some(6446)),
            ("(|1|127.0.0.1|6446|)", Some(6446)),
            ("ok (|||70000|)", None),
            ("ok (|||0|)", None),
            ("ok (|||6446)", None),
            ("ok", None),
            ("", None),
        ] {
            assert_eq!(extended_port(text.as_bytes()), port, "{text}");
        }
    }

    #[test]
    fn passive_ports_are_found_in_any_text() {
        for (text, port) in [
            ("Entering Passive Mode (127,0,0,1,203,217)", Some(52_185)),
            ("Entering Passive Mode 127,0,0,1,203,217", Some(52_185)),
            ("ok (127, 0, 0, 1, 203, 217).", Some(52_185)),
            ("=127,0,0,1,203,217", Some(52_185)),
            ("mode 2, (10,0,0,1,0,21)", Some(21)),
            ("ok (127,0,0,1,203)", None),
            ("ok (127,0,0,1,300,217)", None),
            ("127.0.0.1:52185", None),
        ] {
            assert_eq!(passive_port(text.as_bytes()), port, "{text}");
        }
    }

    #[test]
    fn port_commands_contain_the_address() {
        for (addr, command) in [
            ("127.0.0.1:258", "PORT 127,0,0,1,1,2"),
            ("[::ffff:10.0.0.1]:258", "PORT 10,0,0,1,1,2"),
            ("[::1]:258", "EPRT |2|::1|258|"),
        ] {
            assert_eq!(port_command(addr.parse().unwrap()), command);
        }
    }
}
