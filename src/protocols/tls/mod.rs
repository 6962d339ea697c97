//! TLS: rustls with aws-lc-rs and the system's certificates, as everything else here; beside them those that the user
//! trusts, be it an authority's or a server's own ([`own`]). [`trouble`] has the words for what goes wrong.

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

/// What connections are set up by. It remembers no sessions: [`with_sessions`] does.
///
/// # Errors
/// `InvalidInput` for a `cacert` that cannot be read or has no certificate in it; `Unsupported` where there are no
/// certificates to trust at all.
pub(super) fn client_config(cacert: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let given = cacert.map(certificates).transpose()?.unwrap_or_default();
    let none = |e| Error::new(Kind::Unsupported, "the certificates of this system").because(e);
    // One that can be no authority is of use all the same: as a server's own.
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

/// The authorities among the certificates of a file, each as PEM: for clients that are not ours.
///
/// # Errors
/// As [`client_config`]; `Unsupported` where there is none among them.
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
