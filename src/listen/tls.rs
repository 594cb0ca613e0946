//! Keeps a listener's certificate, and swaps it when its files change.

use std::sync::Arc;

use arc_swap::ArcSwap;
use pingora::listeners::tls::Acceptor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::config::model::ListenerTls;

/// A listener's certificate, its key and what it asks of clients.
pub struct Certificate {
    files: ListenerTls,
    acceptor: ArcSwap<Acceptor>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// A text that says which file is wrong and how.
    pub fn load(files: &ListenerTls) -> Result<Self, String> {
        let acceptor = ArcSwap::from_pointee(acceptor(files)?);
        Ok(Self {
            files: files.clone(),
            acceptor,
        })
    }

    /// Reads the files again, for [`put`](Self::put).
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn read(&self) -> Result<Arc<Acceptor>, String> {
        acceptor(&self.files).map(Arc::new)
    }

    /// Takes the next handshakes with `acceptor`.
    pub fn put(&self, acceptor: Arc<Acceptor>) {
        self.acceptor.store(acceptor);
    }

    /// What takes the next handshake.
    pub fn acceptor(&self) -> Arc<Acceptor> {
        self.acceptor.load_full()
    }
}

fn acceptor(files: &ListenerTls) -> Result<Acceptor, String> {
    let named = |path: &std::path::Path, problem: String| format!("{}: {problem}", path.display());
    let chain = certificates(&files.cert_file).map_err(|e| named(&files.cert_file, e))?;
    let key = PrivateKeyDer::from_pem_file(&files.key_file)
        .map_err(|e| named(&files.key_file, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS versions: {e}"))?;
    let builder = match &files.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path).map_err(|e| named(path, e))? {
                roots
                    .add(certificate)
                    .map_err(|e| named(path, e.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| named(path, e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|e| named(&files.cert_file, e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Acceptor::from_server_config(Arc::new(config)))
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|e| e.to_string())?
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())?;
    if chain.is_empty() {
        Err("holds no certificate".to_owned())
    } else {
        Ok(chain)
    }
}
