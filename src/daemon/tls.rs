//! TLS of the daemon's addresses, with the certificate and the key that the config names. They are read at the start.

use std::{path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    config::ApiOptions,
    error::{Error, Kind, Result},
};

/// The acceptor for the certificate of the config; `None` without one.
///
/// # Errors
/// When the files cannot be read, or do not belong together.
pub(super) fn acceptor(options: &ApiOptions) -> Result<Option<TlsAcceptor>> {
    let (Some(certificate), Some(key)) = (&options.tls_cert, &options.tls_key) else {
        return Ok(None);
    };
    let chain = read(certificate, || {
        CertificateDer::pem_file_iter(certificate)?.collect::<std::result::Result<Vec<_>, _>>()
    })?;
    if chain.is_empty() {
        let text = format!("{}: no certificate in PEM format", certificate.display());
        return Err(Error::new(Kind::InvalidInput, text));
    }
    let key_der = read(key, || PrivateKeyDer::from_pem_file(key))?;
    let refused = |e: rustls::Error| {
        let text = format!("certificate {} with key {}", certificate.display(), key.display());
        Error::new(Kind::InvalidInput, text).because(e)
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(chain, key_der)
        .map_err(refused)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn read<T>(
    path: &Path,
    work: impl FnOnce() -> std::result::Result<T, rustls::pki_types::pem::Error>,
) -> Result<T> {
    use rustls::pki_types::pem::Error as PemError;
    work().map_err(|e| match e {
        PemError::Io(e) => Error::io(path.display().to_string(), e),
        e => Error::new(Kind::InvalidInput, format!("{}: not in PEM format", path.display()))
            .because(e),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_certificate_are_named_in_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let options = |cert: &str| ApiOptions {
            tls_cert: Some(dir.path().join(cert)),
            tls_key: Some(dir.path().join("key.pem")),
            ..ApiOptions::default()
        };
        std::fs::write(dir.path().join("text.pem"), "hello").unwrap();
        for (name, kind) in [("missing.pem", Kind::NotFound), ("text.pem", Kind::InvalidInput)] {
            let error = acceptor(&options(name)).map(drop).unwrap_err();
            assert_eq!(error.kind(), kind, "{}", error.report());
            assert!(error.report().contains(name), "{}", error.report());
        }
        assert!(acceptor(&ApiOptions::default()).unwrap().is_none());
    }
}
