//! Makes certificates for loopback servers and clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

/// A certificate authority that lives as long as the test; its files are in a directory of its own.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The authority's own certificate.
    pub pem: String,
    directory: TempDir,
}

/// A certificate with its key, in memory and on disk.
#[derive(Debug, Clone)]
pub struct Issued {
    /// PEM certificate.
    pub cert_pem: String,
    /// PEM private key (PKCS#8).
    pub key_pem: String,
    /// File with `cert_pem`.
    pub cert_file: PathBuf,
    /// File with `key_pem`.
    pub key_file: PathBuf,
}

impl Authority {
    /// A fresh authority.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "daypass test authority");
        let key = KeyPair::generate().expect("a key is generated");
        let certificate = params
            .self_signed(&key)
            .expect("the authority signs itself");
        let directory = tempfile::tempdir().expect("a temporary directory is made");
        let pem = certificate.pem();
        std::fs::write(directory.path().join("ca.pem"), &pem).expect("the certificate is written");
        Self {
            issuer: Issuer::new(params, key),
            pem,
            directory,
        }
    }

    /// File with the authority's certificate.
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A certificate for `names` (DNS names or addresses); files are called after the first.
    pub fn issue(&self, names: &[&str]) -> Issued {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let first = names
            .first()
            .cloned()
            .unwrap_or_else(|| "client".to_owned());
        let mut params = CertificateParams::new(names).expect("the names are valid");
        params
            .distinguished_name
            .push(DnType::CommonName, first.clone());
        let key = KeyPair::generate().expect("a key is generated");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("the authority signs");
        let path = |kind: &str| self.directory.path().join(format!("{first}.{kind}.pem"));
        let issued = Issued {
            cert_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            cert_file: path("cert"),
            key_file: path("key"),
        };
        write(&issued.cert_file, &issued.cert_pem);
        write(&issued.key_file, &issued.key_pem);
        issued
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Issued {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.cert_pem.as_bytes())
            .collect::<Result<_, _>>()
            .expect("our own PEM is readable")
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("our own PEM is readable")
    }

    /// A server that shows this certificate and offers HTTP/2 and HTTP/1.1.
    pub(crate) fn server_config(&self) -> Arc<rustls::ServerConfig> {
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring knows the default versions")
            .with_no_client_auth()
            .with_single_cert(self.chain(), self.key())
            .expect("certificate and key belong together");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// A client that trusts the certificates in `ca_pem` only, and shows `own` where one is asked for.
pub(crate) fn client_config(ca_pem: Option<&str>, own: Option<&Issued>) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.unwrap_or_default().as_bytes()) {
        let certificate = certificate.expect("the authority's PEM is readable");
        roots
            .add(certificate)
            .expect("the authority's certificate is valid");
    }
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring knows the default versions")
        .with_root_certificates(roots);
    match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder
            .with_client_auth_cert(own.chain(), own.key())
            .expect("certificate and key belong together"),
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file in our own directory is written");
}
