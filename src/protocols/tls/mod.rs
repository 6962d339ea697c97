//! TLS by rustls with aws-lc-rs and the certificates of the system, like all TLS in this crate. The user may trust
//! further certificates: of an authority, or of a server itself ([`own`]). [`trouble`] turns TLS failures into error
//! messages.

mod certificate;
mod own;
mod trouble;

use std::{path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use rustls_platform_verifier::Verifier;

use self::{certificate::Certificate, own::Trusting};
use crate::error::{Error, Kind, Result};

pub(super) use self::trouble::{handshake, plain, told_later};

/// The TLS configuration of a protocol's connections. Session resumption is off; [`with_sessions`] turns it on.
///
/// # Errors
/// `InvalidInput` for a `cacert` that cannot be read or contains no certificate; `Unsupported` if there are no trusted
/// certificates at all.
pub(super) fn client_config(cacert: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let given = cacert.map(certificates).transpose()?.unwrap_or_default();
    let none = |e| Error::new(Kind::Unsupported, "the certificates of this system").because(e);
    // Certificates that cannot be an authority stay in `given`: each may be a server's own certificate.
    let roots: Vec<_> = given.iter().filter(is_authority).cloned().collect();
    let system = Verifier::new_with_extra_roots(roots, Arc::clone(&provider)).map_err(none)?;
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Trusting { system: Arc::new(system), own: given, algorithms };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(none)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A copy with session resumption for one connection and its related connections, and for no others. Many FTP servers
/// require it: a resumed session proves that a data connection belongs to the logged-in client.
pub(super) fn with_sessions(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Arc::new(config)
}

/// A copy that offers `protocols` (ALPN names, preferred first), with session resumption.
pub(super) fn with_protocols(config: &ClientConfig, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.resumption = Resumption::in_memory_sessions(SERVERS);
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// Maximum number of remembered sessions, equal to the default of rustls.
const SERVERS: usize = 256;
/// Maximum number of remembered sessions. Only one server is in use, so a few suffice.
const SESSIONS: usize = 4;

/// The certificates in `file` that are authorities, each as PEM, for the TLS clients of other libraries.
///
/// # Errors
/// As [`client_config`]; `Unsupported` if no certificate is an authority.
pub(super) fn authorities(file: &Path) -> Result<Vec<String>> {
    let found: Vec<_> = certificates(file)?.iter().filter(is_authority).map(pem).collect();
    match found.is_empty() {
        false => Ok(found),
        true => {
            let text = format!("no certificate of an authority in {}", file.display());
            Err(Error::new(Kind::Unsupported, text))
        }
    }
}

fn pem(der: &CertificateDer<'static>) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
}

fn is_authority(der: &&CertificateDer<'static>) -> bool {
    RootCertStore::empty().add(CertificateDer::clone(der)).is_ok()
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let named = || format!("certificates in {}", file.display());
    let bad = |why: String| {
        let error = Error::new(Kind::InvalidInput, named()).because(why);
        error.hint("--cacert takes certificates in PEM")
    };
    let bytes = std::fs::read(file).map_err(|e| {
        let error = Error::new(Kind::InvalidInput, named()).because(e);
        error.hint("name a file with certificates in PEM with --cacert")
    })?;
    let mut found = Vec::new();
    for (number, der) in (1..).zip(CertificateDer::pem_slice_iter(&bytes)) {
        let der =
            der.map_err(|e| bad(format!("the PEM is broken after {} of them: {e}", number - 1)))?;
        if Certificate::parse(&der).is_none() && !is_authority(&&der) {
            return Err(bad(format!("number {number} is no certificate")));
        }
        found.push(der);
    }
    if found.is_empty() {
        return Err(bad("there are none".into()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let (empty, broken) =
            (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let block = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
        std::fs::write(&broken, block).unwrap();
        for path in [empty.path(), broken.path(), Path::new("/nonexistent/ca.pem")] {
            let error = client_config(Some(path)).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput);
            assert!(error.report().contains(path.to_str().unwrap()), "{}", error.report());
        }
    }
}
