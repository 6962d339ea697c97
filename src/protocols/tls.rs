//! TLS: rustls with aws-lc-rs and the system's certificates, as everything else here.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use rustls_platform_verifier::Verifier;

use crate::error::{Error, Kind, Result};

/// What connections are set up by. It remembers no sessions: [`with_sessions`] does.
///
/// # Errors
/// `InvalidInput` for a `cacert` that cannot be read or has no certificate in it; `Unsupported` where the system has no
/// certificates at all.
pub(super) fn client_config(cacert: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let extra = cacert.map(certificates).transpose()?.unwrap_or_default();
    let none = |e| Error::new(Kind::Unsupported, "the certificates of this system").because(e);
    let verifier = Verifier::new_with_extra_roots(extra, Arc::clone(&provider)).map_err(none)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(none)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The same for one connection and those that belong to it: a session begun on one is resumed on the others, and on no
/// more. Many FTP servers insist on that: it shows that a data connection is of whoever signed in.
pub(super) fn with_sessions(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Arc::new(config)
}

/// The same, to speak one of `protocols` (by their ALPN names, the liked one first).
pub(super) fn with_protocols(config: &ClientConfig, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.resumption = Resumption::in_memory_sessions(SERVERS);
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// As many as rustls takes unasked.
const SERVERS: usize = 256;
/// One server, and some for good measure.
const SESSIONS: usize = 4;

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bad = || Error::new(Kind::InvalidInput, format!("certificates in {}", file.display()));
    let found = CertificateDer::pem_file_iter(file).map_err(|e| bad().because(e))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|e| bad().because(e))?;
    if found.is_empty() {
        return Err(bad().because("there are none"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for path in [file.path(), Path::new("/nonexistent/ca.pem")] {
            let error = client_config(Some(path)).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput);
            assert!(error.report().contains(path.to_str().unwrap()), "{}", error.report());
        }
    }
}
