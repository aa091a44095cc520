//! TLS for HTTPS probes.
//!
//! Backends have certificates for names that the node does not call them by, or of an authority that
//! it does not know; so, unless asked for, who the server is does not matter, only that it speaks.

use std::{
    fmt, io,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use hyper::http::uri::Authority;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Mutex,
    task::spawn_blocking,
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::super::{
    book::Job,
    outcome::{FailureKind, Outcome, describe},
};
use crate::model::HttpProbe;

/// How long the node's roots of trust are what they were when they were read: reading them takes tens of
/// milliseconds, and operators replace them.
const ROOTS_AGE_MAX: Duration = Duration::from_mins(5);
/// How long none are found before they are looked for again.
const NO_ROOTS_AGE_MAX: Duration = Duration::from_secs(10);

type Config = Result<Arc<ClientConfig>, String>;

/// What TLS needs to know.
#[derive(Debug, Default)]
pub struct Tls {
    roots: Option<RootCertStore>,
    /// Made when it is needed first, and when.
    verifying: Mutex<Option<(Instant, Config)>>,
    trusting: OnceLock<Config>,
}

impl Tls {
    /// With these roots of trust in place of the node's.
    pub fn with_roots(roots: RootCertStore) -> Self {
        Self { roots: Some(roots), ..Self::default() }
    }

    /// Begins to speak TLS, with the name that the probe says.
    pub(super) async fn handshake<C: AsyncRead + AsyncWrite + Unpin>(
        &self,
        http: &HttpProbe,
        job: &Job,
        connection: C,
    ) -> Result<TlsStream<C>, Outcome> {
        let config = if http.verify_certificate {
            self.verifying(Instant::now()).await
        } else {
            self.trusting.get_or_init(trusting).clone()
        };
        let config = config.map_err(Outcome::Inconclusive)?;
        let name = server_name(http, job.target.address.ip())?;
        let connector = TlsConnector::from(config);
        connector.connect(name, connection).await.map_err(|error| {
            let text = format!("no TLS connection: {}", describe(&error));
            let kind = match error.kind() {
                io::ErrorKind::TimedOut => FailureKind::Late,
                _ => FailureKind::Wrong,
            };
            Outcome::failed(kind, text)
        })
    }

    /// With the roots as they are, or were a while ago. Who waits for them to be read keeps no other task
    /// waiting.
    async fn verifying(&self, now: Instant) -> Config {
        let mut kept = self.verifying.lock().await;
        if let Some((made_at, config)) = &*kept {
            let age_max = if config.is_ok() { ROOTS_AGE_MAX } else { NO_ROOTS_AGE_MAX };
            if now.saturating_duration_since(*made_at) < age_max {
                return config.clone();
            }
        }
        let roots = self.roots.clone();
        let made = spawn_blocking(move || verifying(roots)).await;
        let config = made.unwrap_or_else(|error| Err(format!("TLS cannot be used: {error}")));
        *kept = Some((now, config.clone()));
        config
    }
}

fn server_name(http: &HttpProbe, address: IpAddr) -> Result<ServerName<'static>, Outcome> {
    // A host may have a port behind it, and brackets around it; a name for TLS has neither.
    let host = http.host.as_deref().and_then(|host| host.parse::<Authority>().ok());
    let host = host.as_ref().map(|host| host.host().trim_matches(['[', ']']));
    let Some(name) = http.server_name.as_deref().or(host) else {
        return Ok(ServerName::from(address));
    };
    ServerName::try_from(name.to_owned()).map_err(|_invalid| {
        Outcome::Inconclusive(format!("`{}` is no name of a server", name.escape_debug()))
    })
}

fn verifying(roots: Option<RootCertStore>) -> Config {
    let roots = roots.map_or_else(roots_of_node, Ok)?;
    Ok(Arc::new(builder()?.with_root_certificates(roots).with_no_client_auth()))
}

fn roots_of_node() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let text = "certificates cannot be verified: the node has no trusted roots (package \
                    `ca-certificates`, or SSL_CERT_FILE)";
        return Err(text.to_owned());
    }
    Ok(roots)
}

fn trusting() -> Config {
    let verifier = Arc::new(AnyCertificate(Arc::new(ring::default_provider())));
    let builder = builder()?.dangerous().with_custom_certificate_verifier(verifier);
    Ok(Arc::new(builder.with_no_client_auth()))
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be used: {error}"))
}

/// Does not ask whose certificate it is; the server has to have its key all the same.
struct AnyCertificate(Arc<CryptoProvider>);

impl fmt::Debug for AnyCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AnyCertificate")
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn roots_are_read_again_after_a_while() {
        let tls = Tls::with_roots(RootCertStore::empty());
        let now = Instant::now();
        let made =
            async |after: Duration| tls.verifying(now + after).await.expect("a configuration");
        let first = made(Duration::ZERO).await;
        assert!(Arc::ptr_eq(&first, &made(ROOTS_AGE_MAX / 2).await), "it is kept");
        let second = made(ROOTS_AGE_MAX).await;
        assert!(!Arc::ptr_eq(&first, &second), "it is old");
        assert!(Arc::ptr_eq(&second, &made(ROOTS_AGE_MAX * 3 / 2).await));
    }

    #[tokio::test]
    async fn roots_that_were_not_found_are_looked_for_sooner() {
        let tls = Tls::with_roots(RootCertStore::empty());
        let now = Instant::now();
        *tls.verifying.lock().await = Some((now, Err("none".to_owned())));
        assert!(tls.verifying(now + NO_ROOTS_AGE_MAX / 2).await.is_err());
        assert!(tls.verifying(now + NO_ROOTS_AGE_MAX).await.is_ok());
    }
}
