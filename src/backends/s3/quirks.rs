//! Differences between S3 services, by the host name of the endpoint.
//!
//! Only facts that are needed before the first request are here; a server's refusals show the rest. Other differences
//! are left out on purpose, because the client follows the strictest server for all: no checksum headers or trailers
//! (B2, GCS and older Ceph refuse them), one DELETE per object (B2 refuses the checksum of a bulk delete), equal
//! parts (R2 requires them), an explicit length of 0 on part copies (Ceph requires it), unencoded names in listings
//! (SeaweedFS encodes `+`, and AWS the space, as the same `+`).

use url::Url;

use crate::backends::{Capabilities, CopySupport};

/// Minimum length of each part except the last.
pub(super) const MIN_PART: u64 = 5 << 20;

/// A known service, or `Other` for MinIO, Garage, Ceph, SeaweedFS and other servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Aws,
    R2,
    Backblaze,
    Spaces,
    Wasabi,
    Google,
    Other,
}

/// How to treat a server differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quirks {
    pub(super) service: Service,
    /// The bucket is in the path and not in the host name. Works with an IP address and without wildcard DNS.
    pub(super) path_style: bool,
    /// Region for the signature; `None` to find it as AWS tools do.
    pub(super) region: Option<String>,
    copies_ranges: bool,
    conditional_put: bool,
}

impl Quirks {
    pub(super) fn of(endpoint: Option<&Url>) -> Self {
        let host = endpoint.and_then(Url::host_str).unwrap_or("amazonaws.com");
        let service = service(host);
        let region = match service {
            Service::Aws => aws_region(host),
            Service::R2 => Some("auto".to_owned()),
            // s3.REGION.backblazeb2.com, s3.REGION.wasabisys.com; s3.wasabisys.com is us-east-1.
            Service::Backblaze | Service::Wasabi => {
                host.split('.').nth(1).filter(|_| host.split('.').count() > 3).map(str::to_owned)
            }
            Service::Spaces | Service::Google | Service::Other => None,
        };
        let fallback = (service != Service::Aws).then(|| "us-east-1".to_owned());
        Self {
            service,
            path_style: service != Service::Aws,
            region: region.or(fallback),
            // Google's S3 interface has no UploadPartCopy.
            copies_ranges: service != Service::Google,
            // B2 answers 501, and Garage accepts the header and overwrites. So unknown servers are assumed to lack
            // it.
            conditional_put: matches!(service, Service::Aws | Service::R2),
        }
    }

    /// Whether the host decides the region, so that `AWS_REGION`, which is meant for AWS, is ignored.
    pub(super) fn region_is_fixed(&self) -> bool {
        !matches!(self.service, Service::Aws | Service::Other)
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        let copy = if self.copies_ranges {
            CopySupport::Ranges { min_part: MIN_PART }
        } else {
            CopySupport::Whole
        };
        let window = match self.service {
            // R2 charges for requests and not for traffic.
            Service::R2 => Capabilities::WINDOW,
            // At Amazon's prices a get costs as much as 5 KiB of traffic; on servers without prices it costs nothing.
            _ => Capabilities::SHORT_WINDOW,
        };
        Capabilities {
            copy,
            ordered_parts: false,
            conditional_put: self.conditional_put,
            links: true,
            body_in_blocks: false,
            window,
        }
    }
}

fn service(host: &str) -> Service {
    let host = host.to_ascii_lowercase();
    let is_under = |domain: &str| {
        host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if is_under("amazonaws.com") || is_under("amazonaws.com.cn") {
        Service::Aws
    } else if is_under("r2.cloudflarestorage.com") {
        Service::R2
    } else if is_under("backblazeb2.com") {
        Service::Backblaze
    } else if is_under("digitaloceanspaces.com") {
        Service::Spaces
    } else if is_under("wasabisys.com") {
        Service::Wasabi
    } else if is_under("storage.googleapis.com") {
        Service::Google
    } else {
        Service::Other
    }
}

/// `s3.eu-west-1.amazonaws.com` names the region; `s3.amazonaws.com` does not.
fn aws_region(host: &str) -> Option<String> {
    let first = host.strip_suffix(".cn").unwrap_or(host).strip_suffix(".amazonaws.com")?;
    let last = first.rsplit('.').next()?;
    (last != first && last.contains('-')).then(|| last.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(endpoint: &str) -> Quirks {
        Quirks::of(Some(&Url::parse(endpoint).unwrap()))
    }

    #[test]
    fn services_are_recognised_by_host_name() {
        for (endpoint, service, region) in [
            ("https://s3.eu-west-1.amazonaws.com", Service::Aws, Some("eu-west-1")),
            ("https://s3.amazonaws.com", Service::Aws, None),
            ("https://abc.r2.cloudflarestorage.com", Service::R2, Some("auto")),
            ("https://abc.eu.r2.cloudflarestorage.com", Service::R2, Some("auto")),
            ("https://s3.us-west-004.backblazeb2.com", Service::Backblaze, Some("us-west-004")),
            ("https://nyc3.digitaloceanspaces.com", Service::Spaces, Some("us-east-1")),
            ("https://s3.eu-central-2.wasabisys.com", Service::Wasabi, Some("eu-central-2")),
            ("https://s3.wasabisys.com", Service::Wasabi, Some("us-east-1")),
            ("https://storage.googleapis.com", Service::Google, Some("us-east-1")),
            ("http://127.0.0.1:9000", Service::Other, Some("us-east-1")),
            ("https://notamazonaws.com", Service::Other, Some("us-east-1")),
        ] {
            let quirks = of(endpoint);
            assert_eq!((quirks.service, quirks.region.as_deref()), (service, region), "{endpoint}");
            assert_eq!(quirks.path_style, service != Service::Aws, "{endpoint}");
        }
        assert_eq!(Quirks::of(None).service, Service::Aws);
    }

    #[test]
    fn google_copies_whole_objects_only() {
        let copy = |endpoint| of(endpoint).capabilities().copy;
        assert_eq!(copy("https://storage.googleapis.com"), CopySupport::Whole);
        assert_eq!(copy("http://[::1]:9000"), CopySupport::Ranges { min_part: MIN_PART });
    }
}
