//! Prices of common providers: one dated table, `prices.toml`, and the cost calculation.
//!
//! Prices are list prices, without free allowances, volume discounts and taxes. The result is what a large account pays
//! for one more import, so it is more likely too high than too low.

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// The price table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// The month in which the prices were read, such as `2026-09`.
    pub as_of: String,
    #[serde(rename = "provider")]
    pub providers: Vec<Provider>,
    pub drive: DriveLimits,
}

/// One provider. Prices are in dollars; those of requests are per million.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    pub id: String,
    pub name: String,
    /// Title of its price page.
    pub source: String,
    hosts: Vec<String>,
    unit: Unit,
    storage: f64,
    egress: f64,
    put: f64,
    copy: f64,
    list: f64,
    get: f64,
    delete: f64,
    /// Minimum number of days for which every object is billed.
    #[serde(default)]
    pub min_days: u32,
    /// Minimum monthly bill of the whole account.
    #[serde(default)]
    pub min_month: f64,
    pub note: String,
}

/// The meaning of GB on a bill.
#[derive(Debug, Clone, Copy, Deserialize)]
enum Unit {
    #[serde(rename = "GB")]
    Decimal,
    #[serde(rename = "GiB")]
    Binary,
}

/// The limits of a Google Drive account.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveLimits {
    pub source: String,
    pub creates_per_second: u64,
    /// In bytes.
    pub upload_per_day: u64,
    pub units_per_minute: u64,
    pub units_per_day: u64,
    pub units_create: u64,
    pub units_get: u64,
    pub units_list: u64,
    pub units_delete: u64,
}

/// The billed usage of an import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that stay stored.
    pub stored: u64,
    /// Requests that send bytes, or that start or complete an upload.
    pub put: u64,
    pub copy: u64,
    pub list: u64,
    pub delete: u64,
    /// Read and lookup requests of the import.
    pub lookups: u64,
    /// Bytes that the import reads back.
    pub read: u64,
    /// Requests to read the whole import once.
    pub get: u64,
}

/// Costs in dollars.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Cost {
    pub provider: String,
    /// Storage per month.
    pub month: f64,
    /// Requests and read-back of the import, once.
    pub import: f64,
    /// Requests and egress to read the whole import once, from outside the provider's network.
    pub read_back: f64,
    /// Minimum number of days for which every object is billed.
    pub min_days: u32,
    /// Minimum monthly bill of the account, whatever it stores.
    pub min_month: f64,
    pub note: String,
}

impl Provider {
    /// Dollars for `gets` requests that return `bytes`, from outside the provider's network.
    #[must_use]
    pub fn read_cost(&self, gets: u64, bytes: u64) -> f64 {
        self.to_units(bytes) * self.egress + as_f64(gets) * self.get / 1e6
    }

    /// Bytes in the bill's unit of a GB.
    fn to_units(&self, bytes: u64) -> f64 {
        let unit = match self.unit {
            Unit::Decimal => 1e9,
            Unit::Binary => f64::from(1 << 30),
        };
        as_f64(bytes) / unit
    }

    #[must_use]
    pub fn cost(&self, usage: &Usage) -> Cost {
        let units = self.to_units(usage.stored);
        let million = |requests: u64, price: f64| as_f64(requests) * price / 1e6;
        Cost {
            provider: self.name.clone(),
            month: units * self.storage,
            import: million(usage.put, self.put)
                + million(usage.copy, self.copy)
                + million(usage.list, self.list)
                + million(usage.delete, self.delete)
                + self.read_cost(usage.lookups, usage.read),
            read_back: self.read_cost(usage.get, usage.stored),
            min_days: self.min_days,
            min_month: self.min_month,
            note: self.note.clone(),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "money is shown with two decimals")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

impl Prices {
    /// The table built into this binary.
    #[must_use]
    pub fn table() -> &'static Self {
        static TABLE: LazyLock<Prices> = LazyLock::new(|| {
            toml::from_str(include_str!("prices.toml")).expect("a test parses this very file")
        });
        &TABLE
    }

    /// The provider at an S3 endpoint: by its host name, or `own` for an address in a private network. `None` for an
    /// unknown provider.
    #[must_use]
    pub fn provider_at(&self, endpoint: &Url) -> Option<&Provider> {
        let host = endpoint.host()?;
        if is_private(&host) {
            return self.provider("own");
        }
        let Host::Domain(host) = host else { return None };
        self.providers.iter().find(|provider| {
            provider.hosts.iter().any(|end| {
                host.strip_suffix(end.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })
        })
    }

    /// A provider by its id in the table.
    #[must_use]
    pub fn provider(&self, id: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.id == id)
    }
}

/// Names without a dot belong to a local network (or to a container on the same host).
fn is_private(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => {
            !name.contains('.')
                || [".localhost", ".local", ".lan", ".internal", ".home.arpa"]
                    .iter()
                    .any(|end| name.ends_with(end))
        }
        Host::Ipv4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Host::Ipv6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_parses_and_has_a_date_and_sources() {
        let table = Prices::table();
        let (year, month) = table.as_of.split_once('-').unwrap();
        assert!(year.parse::<u32>().unwrap() >= 2026);
        assert!((1..=12).contains(&month.parse::<u32>().unwrap()));
        for provider in &table.providers {
            assert!(!provider.source.is_empty() && !provider.note.is_empty(), "{}", provider.id);
            assert!(provider.storage >= 0.0 && provider.storage < 1.0, "{}", provider.id);
        }
        assert!(table.drive.creates_per_second > 0 && table.drive.upload_per_day > 0);
    }

    #[test]
    fn unknown_keys_in_the_table_are_rejected() {
        let text = include_str!("prices.toml").replacen("egress =", "egres =", 1);
        assert!(toml::from_str::<Prices>(&text).is_err());
    }

    #[test]
    fn providers_are_found_by_the_end_of_their_host_name() {
        let at = |url: &str| {
            let url = Url::parse(url).unwrap();
            Prices::table().provider_at(&url).map(|p| p.id.clone())
        };
        for (url, id) in [
            ("https://s3.eu-west-1.amazonaws.com", "aws"),
            ("https://0123.r2.cloudflarestorage.com", "r2"),
            ("https://s3.us-west-004.backblazeb2.com", "b2"),
            ("https://s3.eu-central-1.wasabisys.com", "wasabi"),
            ("https://fra1.digitaloceanspaces.com", "spaces"),
            ("http://127.0.0.1:3900", "own"),
            ("http://[::1]:3900", "own"),
            ("http://192.168.1.7:9000", "own"),
            ("http://garage:3900", "own"),
            ("http://nas.local:3900", "own"),
        ] {
            assert_eq!(at(url).as_deref(), Some(id), "{url}");
        }
        for unknown in ["https://s3.example.com", "https://notamazonaws.com", "http://8.8.8.8"] {
            assert_eq!(at(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn the_cost_of_a_tebibyte_matches_the_providers_calculators() {
        let chunks = (1 << 40) / (16 << 20);
        let usage = Usage { stored: 1 << 40, put: chunks, get: 1 << 20, ..Usage::default() };
        let cost = |id: &str| Prices::table().provider(id).unwrap().cost(&usage);
        let close = |a: f64, b: f64| (a - b).abs() < 0.01;
        let aws = cost("aws");
        assert!(close(aws.month, 23.55) && close(aws.import, 0.33), "{aws:?}");
        assert!(close(aws.read_back, 92.16 + 0.42), "{aws:?}");
        let r2 = cost("r2");
        assert!(
            close(r2.month, 16.49) && close(r2.import, 0.29) && close(r2.read_back, 0.38),
            "{r2:?}"
        );
        let wasabi = cost("wasabi");
        assert!(close(wasabi.month, 7.99) && close(wasabi.import, 0.0), "{wasabi:?}");
        assert_eq!((wasabi.min_days, cost("b2").min_days), (90, 0));
        assert!(close(cost("own").month + cost("own").read_back, 0.0));
    }
}
