//! TLS by rustls with aws-lc-rs and the certificates of the system, like all TLS in this crate. The user may trust
//! further certificates: of an authority, or of a server itself ([`pinned`]). [`errors`] turns TLS failures into error
//! messages.

mod certificate;
mod errors;
mod pinned;

use std::{path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use rustls_platform_verifier::Verifier;

use self::{certificate::Certificate, pinned::PinningVerifier};
use crate::{
    error::{Error, Kind, Result},
    hints::{Setting, hint},
};

pub(super) use self::errors::{handshake_error, permanent_alert_error, readable_io_error};

/// The TLS configuration of a protocol's connections. Session resumption is off; `with_session_resumption` turns it on.
///
/// # Errors
/// `InvalidInput` for a `cacert` that cannot be read or contains no certificate; `Unsupported` if there are no trusted
/// certificates at all.
pub(super) fn client_config(cacert: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let extra = cacert.map(read_certificates).transpose()?.unwrap_or_default();
    let unavailable =
        |e| Error::new(Kind::Unsupported, "cannot load the system's certificates").because(e);
    // Certificates that cannot be an authority stay in `extra`: each may be a server's own certificate.
    let roots: Vec<_> = extra.iter().filter(is_authority).cloned().collect();
    let system =
        Verifier::new_with_extra_roots(roots, Arc::clone(&provider)).map_err(unavailable)?;
    let algorithms = provider.signature_verification_algorithms;
    let verifier = PinningVerifier { system: Arc::new(system), pinned: extra, algorithms };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unavailable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A copy with session resumption for one connection and its related connections, and for no others. Many FTP servers
/// require it: a resumed session proves that a data connection belongs to the logged-in client.
#[cfg(feature = "ftp")]
pub(super) fn with_session_resumption(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.resumption = Resumption::in_memory_sessions(MAX_SESSIONS_PER_SERVER);
    Arc::new(config)
}

/// A copy that offers `protocols` (ALPN names, preferred first), with session resumption.
pub(super) fn with_alpn(config: &ClientConfig, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.resumption = Resumption::in_memory_sessions(MAX_SESSIONS);
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// Maximum number of remembered sessions, equal to the default of rustls.
const MAX_SESSIONS: usize = 256;
/// Maximum number of remembered sessions. Only one server is in use, so a few suffice.
#[cfg(feature = "ftp")]
const MAX_SESSIONS_PER_SERVER: usize = 4;

/// The certificates in `file` that are authorities, each as PEM, for the TLS clients of other libraries.
///
/// # Errors
/// As [`client_config`]; `Unsupported` if no certificate is an authority.
pub(super) fn authority_pems(file: &Path) -> Result<Vec<String>> {
    let found: Vec<_> = read_certificates(file)?.iter().filter(is_authority).map(to_pem).collect();
    match found.is_empty() {
        false => Ok(found),
        true => {
            let text = format!("no authority certificate in {}", file.display());
            Err(Error::new(Kind::Unsupported, text))
        }
    }
}

fn to_pem(der: &CertificateDer<'static>) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
}

fn is_authority(der: &&CertificateDer<'static>) -> bool {
    RootCertStore::empty().add(CertificateDer::clone(der)).is_ok()
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let context = || format!("certificates in {}", file.display());
    let invalid = |reason: String| {
        let error = Error::new(Kind::InvalidInput, context()).because(reason);
        error.hint(hint![Setting::CaCertificates, " requires certificates in PEM"])
    };
    let bytes = std::fs::read(file).map_err(|e| {
        let error = Error::new(Kind::InvalidInput, context()).because(e);
        error.hint(hint![Setting::CaCertificates, " requires a file with certificates in PEM"])
    })?;
    let mut found = Vec::new();
    for (number, der) in (1..).zip(CertificateDer::pem_slice_iter(&bytes)) {
        let der = der
            .map_err(|e| invalid(format!("invalid PEM after {} certificates: {e}", number - 1)))?;
        if Certificate::parse(&der).is_none() && !is_authority(&&der) {
            return Err(invalid(format!("number {number} is not a certificate")));
        }
        found.push(der);
    }
    if found.is_empty() {
        return Err(invalid("the file has none".into()));
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
