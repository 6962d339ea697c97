//! Server certificates that the user trusts directly, for example those of `openssl req -x509` for a machine at home.
//!
//! A server certificate that is byte for byte in the `--cacert` file needs no authority. Three things are checked: its
//! names, its dates, and that the server has its private key. Other fields are ignored. The system's verifier checks
//! all other certificates.

use std::{sync::Arc, time::Duration};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
};
use rustls_platform_verifier::Verifier;

use super::certificate::Certificate;

/// The certificate verifier: the system's, except for the certificates that are trusted directly.
#[derive(Debug)]
pub(super) struct PinningVerifier {
    pub(super) system: Arc<Verifier>,
    /// [`Certificate::parse`] can read each of these.
    pub(super) pinned: Vec<CertificateDer<'static>>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl PinningVerifier {
    fn pinned_certificate<'a>(&self, presented: &'a CertificateDer<'_>) -> Option<Certificate<'a>> {
        let known = self.pinned.iter().any(|pinned| pinned.as_ref() == presented.as_ref());
        known.then(|| Certificate::parse(presented)).flatten()
    }
}

impl ServerCertVerifier for PinningVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(pinned) = self.pinned_certificate(end_entity) else {
            return self.system.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            );
        };
        check_validity(&pinned, server_name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some(pinned) = self.pinned_certificate(cert) else {
            return self.system.verify_tls12_signature(message, cert, dss);
        };
        let mapping = self.algorithms.mapping.iter();
        let mut known =
            mapping.filter(|(scheme, _)| *scheme == dss.scheme).flat_map(|(_, all)| *all);
        let verified = known.any(|algorithm| {
            algorithm.public_key_alg_id().as_ref() == pinned.key_algorithm
                && algorithm.verify_signature(pinned.key_bits, message, dss.signature()).is_ok()
        });
        if verified {
            return Ok(HandshakeSignatureValid::assertion());
        }
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some(pinned) = self.pinned_certificate(cert) else {
            return self.system.verify_tls13_signature(message, cert, dss);
        };
        let key = SubjectPublicKeyInfoDer::from(pinned.key);
        verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.system.supported_verify_schemes()
    }
}

fn check_validity(
    pinned: &Certificate<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), Error> {
    let at = |seconds: i64| {
        UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    };
    let time = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let error = if time < pinned.not_before {
        CertificateError::NotValidYetContext { time: now, not_before: at(pinned.not_before) }
    } else if time > pinned.not_after {
        CertificateError::ExpiredContext { time: now, not_after: at(pinned.not_after) }
    } else if !pinned.is_valid_for(&name.to_str()) {
        let (expected, presented) = (name.to_owned(), pinned.names());
        CertificateError::NotValidForNameContext { expected, presented }
    } else {
        return Ok(());
    };
    Err(error.into())
}
