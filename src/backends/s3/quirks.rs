//! What differs between the places that speak S3, by the host of the endpoint.
//!
//! Only what must be known before asking is here; what a server refuses it says itself. Left out on purpose, because
//! the client does for all what the pickiest needs: no checksum headers or trailers (B2, GCS and older Ceph refuse
//! them), one DELETE per object (B2 refuses the checksum of a bulk delete), equal parts (R2 wants them), an explicit
//! length of 0 on part copies (Ceph wants it), names in listings unencoded (SeaweedFS encodes `+` and AWS the space
//! as the same `+`).

use url::Url;

use crate::backends::{Capabilities, Copying};

/// Parts but the last are at least this long.
pub(super) const MIN_PART: u64 = 5 << 20;

/// A service, or `Other` for a server of one's own: MinIO, Garage, Ceph, SeaweedFS and so on.
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

/// What to do differently at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quirks {
    pub(super) service: Service,
    /// The bucket in the path, not in the host name: works with an IP address and without wildcard DNS.
    pub(super) path_style: bool,
    /// What the signature names; `None` to find it the way AWS tools do.
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
            // B2 answers 501, Garage takes the header and overwrites: of the unknown nothing is promised.
            conditional_put: matches!(service, Service::Aws | Service::R2),
        }
    }

    /// Whether the region comes from the place, so that `AWS_REGION`, which is meant for AWS, does not apply.
    pub(super) fn region_is_fixed(&self) -> bool {
        !matches!(self.service, Service::Aws | Service::Other)
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        let copy = if self.copies_ranges {
            Copying::Ranges { min_part: MIN_PART }
        } else {
            Copying::Whole
        };
        let window = match self.service {
            // Traffic is free there, and gets are not.
            Service::R2 => Capabilities::WINDOW,
            // A get costs as much as 5 KiB of traffic at Amazon's prices, and nothing where requests are free.
            _ => Capabilities::SHORT_WINDOW,
        };
        Capabilities {
            copy,
            ordered: false,
            conditional_put: self.conditional_put,
            links: true,
            blocks: false,
            window,
        }
    }
}

fn service(host: &str) -> Service {
    let host = host.to_ascii_lowercase();
    let under = |domain: &str| {
        host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if under("amazonaws.com") || under("amazonaws.com.cn") {
        Service::Aws
    } else if under("r2.cloudflarestorage.com") {
        Service::R2
    } else if under("backblazeb2.com") {
        Service::Backblaze
    } else if under("digitaloceanspaces.com") {
        Service::Spaces
    } else if under("wasabisys.com") {
        Service::Wasabi
    } else if under("storage.googleapis.com") {
        Service::Google
    } else {
        Service::Other
    }
}

/// `s3.eu-west-1.amazonaws.com` says it; `s3.amazonaws.com` does not.
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
    fn places_are_known_by_their_host() {
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
        assert_eq!(copy("https://storage.googleapis.com"), Copying::Whole);
        assert_eq!(copy("http://[::1]:9000"), Copying::Ranges { min_part: MIN_PART });
    }
}
