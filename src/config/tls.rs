//! Checks PEM files: certificates, private keys, and whether the two belong together.

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::read::{At, Reader};
use super::section::Section;

/// Authorities to trust, of the file under `name`.
pub(super) fn authorities(section: &Section<'_>, name: &'static str) -> Option<Vec<u8>> {
    if !section.has(name) {
        return section.file(name).map(|file| file.value.1);
    }
    let At {
        value: (_, pem),
        spot,
    } = section.file(name)?;
    let usable = chain(&pem).is_some_and(|certificates| {
        let mut roots = RootCertStore::empty();
        certificates
            .into_iter()
            .all(|certificate| roots.add(certificate).is_ok())
    });
    if !usable {
        section.reader.problem(
            &spot,
            "no PEM certificates: write a file with `-----BEGIN CERTIFICATE-----` blocks",
        );
        return None;
    }
    Some(pem)
}

/// A certificate chain with its key.
pub(super) struct Pair {
    pub(super) chain: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) chain_file: std::path::PathBuf,
    pub(super) key_file: std::path::PathBuf,
}

/// The pair under `cert` and `key`; nothing when both are absent.
pub(super) fn pair(section: &Section<'_>, cert: &'static str, key: &'static str) -> Option<Pair> {
    let reader = section.reader;
    let (cert_file, key_file) = (section.file(cert), section.file(key));
    match (section.has(cert), section.has(key)) {
        (true, false) if !section.requires(key) => {
            reader.problem(
                &section.spot_of(key),
                format!("missing: `{cert}` needs its key"),
            );
        }
        (false, true) if !section.requires(cert) => {
            reader.problem(
                &section.spot_of(cert),
                format!("missing: `{key}` needs its certificate"),
            );
        }
        _ => {}
    }
    let cert_file = cert_file?;
    let key_file = key_file?;
    let certificates = chain(&cert_file.value.1);
    if certificates.is_none() {
        reader.problem(&cert_file.spot, "no PEM certificate chain: write a file with `-----BEGIN CERTIFICATE-----` blocks, leaf first");
    }
    let private = private_key(&key_file.value.1);
    if private.is_none() {
        reader.problem(
            &key_file.spot,
            "no PEM private key: write a file with a `-----BEGIN PRIVATE KEY-----` block",
        );
    }
    check_match(reader, &key_file, certificates?, private?)?;
    let (chain_file, chain) = cert_file.value;
    let (key_file, key) = key_file.value;
    Some(Pair {
        chain,
        key,
        chain_file,
        key_file,
    })
}

fn check_match<T>(
    reader: &Reader<'_>,
    key_file: &At<T>,
    certificates: Vec<CertificateDer<'static>>,
    private: PrivateKeyDer<'static>,
) -> Option<()> {
    let provider = rustls::crypto::ring::default_provider();
    match CertifiedKey::from_der(certificates, private, &provider) {
        Ok(_) => Some(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            reader.problem(
                &key_file.spot,
                "the key belongs to another certificate: write the pair that was issued together",
            );
            None
        }
        Err(_) => {
            reader.problem(&key_file.spot, "the certificate or its key cannot be used: write an RSA, ECDSA P-256/P-384 or Ed25519 pair");
            None
        }
    }
}

/// Certificates of a PEM file; nothing unless there is one and all are readable.
fn chain(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .ok()?;
    (!certificates.is_empty()).then_some(certificates)
}

/// The private key of a PEM file.
pub(super) fn private_key(pem: &[u8]) -> Option<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem).ok()
}
