//! Reads the answers of delegated routers: peers that provide a CID, with their addresses. Pure.

use serde::Deserialize;
use url::Url;

/// Maximum number of gateways in one answer.
const MAX_GATEWAYS: usize = 16;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    providers: Option<Vec<Peer>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Peer {
    #[serde(default)]
    addrs: Option<Vec<String>>,
}

/// The gateways in an answer: a JSON object, or a line of JSON for each peer. What cannot be read is left out.
pub(super) fn gateways(body: &[u8]) -> Vec<Url> {
    let peers: Vec<Peer> = match serde_json::from_slice::<Answer>(body) {
        Ok(Answer { providers: Some(peers) }) => peers,
        _ => {
            let lines = body.split(|byte| *byte == b'\n');
            lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()
        }
    };
    let mut gateways: Vec<Url> = Vec::new();
    for address in peers.into_iter().filter_map(|peer| peer.addrs).flatten() {
        match gateway(&address) {
            Some(url) if gateways.len() < MAX_GATEWAYS && !gateways.contains(&url) => {
                gateways.push(url);
            }
            _ => {}
        }
    }
    gateways
}

/// The URL of an address such as `/dns/gw.example/tcp/443/https` or `/ip4/10.0.0.1/tcp/8080/http`. `None` for
/// addresses of other protocols.
fn gateway(address: &str) -> Option<Url> {
    let parts: Vec<&str> = address.strip_prefix('/')?.split('/').collect();
    let (kind, host, port, rest) = match parts.as_slice() {
        [kind, host, "tcp", port, rest @ ..] => (*kind, *host, port.parse::<u16>().ok()?, rest),
        _ => return None,
    };
    let scheme = match rest {
        ["https"] | ["tls", "http"] | ["tls", "sni", _, "http"] => "https",
        ["http"] => "http",
        _ => return None,
    };
    let host = match kind {
        "dns" | "dns4" | "dns6" | "ip4" => host.to_owned(),
        "ip6" => format!("[{host}]"),
        _ => return None,
    };
    let url = Url::parse(&format!("{scheme}://{host}:{port}/")).ok()?;
    // The host of an address could contain anything.
    (url.path() == "/" && url.username().is_empty() && url.query().is_none()).then_some(url)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(body: &str) -> Vec<String> {
        gateways(body.as_bytes()).into_iter().map(Into::into).collect()
    }

    #[test]
    fn gateways_are_read_from_both_forms_of_an_answer() {
        let json = r#"{"Providers":[
            {"Schema":"peer","ID":"x","Addrs":["/dns/a.example/tcp/443/https","/ip4/1.2.3.4/udp/1/quic-v1"],"Protocols":["transport-ipfs-gateway-http"]},
            {"Schema":"peer"}, {"Schema":"unknown","Addrs":null},
            {"Addrs":["/dns4/b.example/tcp/8443/tls/http","/dns/a.example/tcp/443/https"]}]}"#;
        let wanted = ["https://a.example/", "https://b.example:8443/"];
        assert_eq!(of(json), wanted);
        let lines = "{\"Schema\":\"peer\",\"Addrs\":[\"/dns/a.example/tcp/443/https\"]}\nnot JSON\n\
                     {\"Addrs\":[\"/dns6/b.example/tcp/8443/tls/sni/b.example/http\"]}\n";
        assert_eq!(of(lines), wanted);
        assert_eq!(of("{\"Providers\":null}"), [] as [String; 0]);
        assert_eq!(of(""), [] as [String; 0]);
    }

    #[test]
    fn only_addresses_of_web_servers_are_gateways() {
        let url = |text: &str| gateway(text).map(String::from);
        assert_eq!(url("/ip6/::1/tcp/80/http").unwrap(), "http://[::1]/");
        for other in [
            "/ip4/1.2.3.4/tcp/4001",
            "/ip4/1.2.3.4/tcp/4001/ws",
            "/dns/a.example/tcp/443/https/p2p/x",
            "/dns/u:p@a.example/tcp/443/https",
            "/dns/a.example?x/tcp/443/https",
            "/dns/a.example/tcp/99999/https",
            "dns/a.example/tcp/443/https",
            "/onion3/x/tcp/1/https",
            "",
        ] {
            assert_eq!(url(other), None, "{other}");
        }
    }

    #[test]
    fn the_number_of_gateways_is_limited() {
        let addrs: Vec<_> =
            (0..100).map(|n| format!("\"/dns/h{n}.example/tcp/443/https\"")).collect();
        let json = format!("{{\"Providers\":[{{\"Addrs\":[{}]}}]}}", addrs.join(","));
        assert_eq!(of(&json).len(), MAX_GATEWAYS);
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(text in ".{0,80}") {
            let _ = gateways(text.as_bytes());
            let _ = gateway(&text);
        }
    }
}
