//! Finds the address of an upstream, and keeps what a connection to it needs.

mod patient;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use pingora::protocols::ALPN;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::model;
use crate::metrics::{Metrics, UpstreamSeries};

use patient::PatientConnector;

/// How long a resolved name is believed before it is asked for again, in the background.
const RESOLVED_FOR: Duration = Duration::from_secs(5);
/// Idle connections are closed after this: shorter than what servers commonly allow (60–75 s), so that
/// we rarely send a request into a connection that is being closed.
const IDLE: Duration = Duration::from_secs(50);
/// Streams on one HTTP/2 connection; pingora's default of 1 would open a connection a request.
const H2_STREAMS: usize = 100;

/// An upstream, ready to be connected to.
#[derive(Debug)]
pub struct Upstream {
    /// Its configuration.
    pub config: Arc<model::Upstream>,
    /// Its series.
    pub series: UpstreamSeries,
    template: HttpPeer,
    upgrades: Arc<PatientConnector>,
    resolved: ArcSwapOption<Resolved>,
    resolving: AtomicBool,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Resolved {
    peers: Vec<HttpPeer>,
    at: Instant,
    /// Literal addresses and Unix sockets never change.
    fixed: bool,
}

/// The name could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error("upstream name cannot be resolved")]
pub struct Unresolved;

impl Upstream {
    /// Prepares the upstream; connects to nobody.
    ///
    /// # Errors
    /// A text that names the certificate or key that cannot be used.
    pub fn new(config: &Arc<model::Upstream>, metrics: &Metrics) -> Result<Arc<Self>, String> {
        let template =
            template(config).map_err(|problem| format!("upstream {}: {problem}", config.name))?;
        let fixed = match &config.target {
            model::Target::Unix(path) => {
                let path = path.to_str().ok_or_else(|| {
                    format!("upstream {}: the socket path is not UTF-8", config.name)
                })?;
                let peer = HttpPeer::new_uds(path, false, String::new())
                    .map_err(|e| format!("upstream {}: {e}", config.name))?;
                Some(HttpPeer {
                    _address: peer._address,
                    ..template.clone()
                })
            }
            model::Target::Tcp { host, port } => host
                .parse()
                .ok()
                .map(|ip| at(&template, SocketAddr::new(ip, *port))),
        };
        let resolved = fixed.map(|peer| {
            Arc::new(Resolved {
                peers: vec![peer],
                at: Instant::now(),
                fixed: true,
            })
        });
        Ok(Arc::new(Self {
            series: UpstreamSeries::new(metrics, &config.name),
            config: config.clone(),
            template,
            upgrades: Arc::new(PatientConnector {
                timeout: config.connect_timeout,
            }),
            resolved: ArcSwapOption::new(resolved),
            resolving: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
        }))
    }

    /// Where to connect now. A name that was resolved once is never waited for again.
    ///
    /// # Errors
    /// [`Unresolved`] within the upstream's connection time-out.
    pub async fn peer(self: &Arc<Self>) -> Result<HttpPeer, Unresolved> {
        if let Some(resolved) = &*self.resolved.load() {
            if !resolved.fixed && resolved.at.elapsed() > RESOLVED_FOR {
                self.resolve_in_background();
            }
            return Ok(self.pick(&resolved.peers));
        }
        let peers = tokio::time::timeout(self.config.connect_timeout, self.resolve())
            .await
            .map_err(|_| Unresolved)??;
        Ok(self.pick(&peers))
    }

    /// Makes a peer's connection one for an upgrade: see the module `patient`. Such connections are not shared with other requests.
    pub fn for_upgrade(&self, peer: &mut HttpPeer) {
        peer.options.custom_l4 = Some(self.upgrades.clone());
        peer.group_key = !peer.group_key;
    }

    /// Whether another address is worth a try when one does not answer.
    pub fn has_alternatives(&self) -> bool {
        self.resolved
            .load()
            .as_ref()
            .is_some_and(|resolved| resolved.peers.len() > 1)
    }

    /// The next address in turn; with one address there is nothing to count.
    fn pick(&self, peers: &[HttpPeer]) -> HttpPeer {
        match peers {
            [one] => one.clone(),
            // Never empty: `resolve` refuses an empty answer.
            many => many[self.turn.fetch_add(1, Ordering::Relaxed) % many.len()].clone(),
        }
    }

    fn resolve_in_background(self: &Arc<Self>) {
        if self.resolving.swap(true, Ordering::AcqRel) {
            return;
        }
        let upstream = self.clone();
        // Owned by nobody on purpose: it ends by itself within the time-out.
        tokio::spawn(async move {
            let _ = tokio::time::timeout(Duration::from_secs(10), upstream.resolve()).await;
            upstream.resolving.store(false, Ordering::Release);
        });
    }

    async fn resolve(&self) -> Result<Vec<HttpPeer>, Unresolved> {
        let model::Target::Tcp { host, port } = &self.config.target else {
            return Err(Unresolved);
        };
        let peers: Vec<_> = tokio::net::lookup_host((&**host, *port))
            .await
            .map_err(|_| Unresolved)?
            .map(|address| at(&self.template, address))
            .collect();
        if peers.is_empty() {
            return Err(Unresolved);
        }
        self.resolved.store(Some(Arc::new(Resolved {
            peers: peers.clone(),
            at: Instant::now(),
            fixed: false,
        })));
        Ok(peers)
    }
}

fn at(template: &HttpPeer, address: SocketAddr) -> HttpPeer {
    HttpPeer {
        _address: pingora::protocols::l4::socket::SocketAddr::Inet(address),
        ..template.clone()
    }
}

/// A peer with everything but the address.
fn template(config: &model::Upstream) -> Result<HttpPeer, String> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    // pingora's rustls backend skips certificate verification for an empty server name; the configuration never has one.
    let server_name = config
        .tls
        .as_ref()
        .map(|tls| tls.server_name.to_string())
        .unwrap_or_default();
    if config.tls.is_some() && server_name.is_empty() {
        return Err("TLS needs a server name".to_owned());
    }
    let mut peer = HttpPeer::new(nowhere, config.tls.is_some(), server_name);
    let options = &mut peer.options;
    options.connection_timeout = Some(config.connect_timeout);
    options.total_connection_timeout = Some(config.connect_timeout);
    options.read_timeout = Some(config.read_timeout);
    options.idle_timeout = Some(IDLE);
    options.max_h2_streams = H2_STREAMS;
    options.alpn = match (config.protocol, config.tls.is_some()) {
        (model::Protocol::Auto, true) => ALPN::H2H1,
        (model::Protocol::Http2, _) => ALPN::H2,
        (model::Protocol::Auto | model::Protocol::Http1, _) => ALPN::H1,
    };
    let mut key = DefaultHasher::new();
    config.name.hash(&mut key);
    if let Some(tls) = &config.tls {
        if let Some(pem) = &tls.ca_pem {
            let roots: Vec<_> = certificates(pem)?
                .into_iter()
                .map(|der| WrappedX509::new(der.to_vec(), parse_x509))
                .collect();
            options.ca = Some(Arc::from(roots.into_boxed_slice()));
        }
        if let (Some(pem), Some(key_file)) = (&tls.client_cert_pem, &tls.client_key_file) {
            let chain = certificates(pem)?
                .into_iter()
                .map(|der| der.to_vec())
                .collect();
            let private = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|e| format!("{}: {e}", key_file.display()))?;
            peer.client_cert_key =
                Some(Arc::new(CertKey::new(chain, private.secret_der().to_vec())));
        }
        tls.ca_pem.hash(&mut key);
        tls.client_cert_pem.hash(&mut key);
    }
    // pingora's pool looks at neither the authorities nor ALPN: upstreams with other TLS settings must not share connections.
    peer.group_key = key.finish();
    Ok(peer)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())?;
    // pingora panics on a certificate it cannot parse; here is the last place to say so in words.
    let mut store = rustls::RootCertStore::empty();
    for certificate in &all {
        store.add(certificate.clone()).map_err(|e| e.to_string())?;
    }
    if all.is_empty() {
        Err("no certificate in PEM".to_owned())
    } else {
        Ok(all)
    }
}
