//! Lets us in: credentials, certificates and database, and the clients made of them, also while they are being rotated.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use redis::io::tcp::TcpSettings;
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, RedisResult, TlsCertificates,
};
use tokio::sync::watch;

use super::command::code;
use super::node::Node;
use crate::config::model;
use crate::secret::StorePassword;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    /// Host and port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

/// How servers of one kind are entered. Shared by all connections to them.
pub(super) struct Access {
    passes: watch::Sender<Passes>,
}

/// What is shown at the door.
#[derive(Clone)]
pub(super) struct Passes {
    pub(super) current: Arc<Pass>,
    /// What was in force before the last change: until a server knows the new one, the old one opens it.
    pub(super) previous: Option<Arc<Pass>>,
}

/// Credentials, certificates and database.
pub(super) struct Pass {
    username: Option<String>,
    password: Option<StorePassword>,
    database: i64,
    tls: Option<TlsCertificates>,
}

/// What a configured URL says.
struct Url {
    place: Place,
    pass: Pass,
}

/// The configured store, taken apart.
pub(super) struct Doors {
    /// What the URLs name; at least one.
    pub(super) places: Vec<Place>,
    /// Into the servers that hold data.
    pub(super) data: Pass,
    /// Into the sentinels.
    pub(super) sentinels: Option<Pass>,
}

impl Doors {
    /// Errors never quote a URL: it may hold a password.
    pub(super) fn open(config: &model::RedisStore) -> Result<Self, String> {
        // Fails when a provider is installed already, which is just as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificates = TlsCertificates {
            client_tls: config
                .client_cert
                .as_ref()
                .map(|(chain, key)| ClientTlsConfig {
                    client_cert: chain.clone(),
                    client_key: key.expose().as_bytes().to_vec(),
                }),
            root_cert: config.ca_pem.clone(),
        };
        let port = match config.mode {
            model::RedisMode::Sentinel { .. } => SENTINEL_PORT,
            _ => REDIS_PORT,
        };
        let first = Url::read(config.url.expose(), port, &certificates)?;
        if first.pass.tls.is_none() && (config.ca_pem.is_some() || config.client_cert.is_some()) {
            return Err("session.store: certificates are of use with rediss:// only".into());
        }
        let mut places = vec![first.place];
        for url in &config.more_urls {
            places.push(Url::read(url.expose(), port, &certificates)?.place);
        }
        let mut data = first.pass;
        let sentinels = match &config.mode {
            model::RedisMode::Sentinel {
                username, password, ..
            } => Some(Pass {
                username: username.clone(),
                password: password.clone(),
                database: 0,
                tls: data.tls.clone(),
            }),
            _ => None,
        };
        data.username = config.username.clone().or(data.username);
        data.password = config.password.clone().or(data.password);
        for place in &places {
            data.client(place).map_err(|_| {
                "session.store: the CA, client certificate or key cannot be used".to_owned()
            })?;
        }
        Ok(Self {
            places,
            data,
            sentinels,
        })
    }
}

impl Url {
    fn read(url: &str, port: u16, certificates: &TlsCertificates) -> Result<Self, String> {
        let bad = || "session.store: not a redis://, rediss:// or unix: URL".to_owned();
        let info = url.into_connection_info().map_err(|_| bad())?;
        // The crate's default is the port of Redis, whatever is meant.
        let port_of = |written: u16| match url::Url::parse(url) {
            Ok(parsed) if parsed.port().is_none() => port,
            _ => written,
        };
        let (place, tls) = match info.addr() {
            ConnectionAddr::Tcp(host, written) => {
                (Place::Tcp(host.clone(), port_of(*written)), false)
            }
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                return Err("session.store: TLS without verification is not supported".into());
            }
            ConnectionAddr::TcpTls {
                host,
                port: written,
                ..
            } => (Place::Tcp(host.clone(), port_of(*written)), true),
            ConnectionAddr::Unix(path) => (Place::Unix(path.clone()), false),
            _ => return Err(bad()),
        };
        let settings = info.redis_settings();
        let pass = Pass {
            username: settings.username().map(ToOwned::to_owned),
            password: settings.password().map(StorePassword::new),
            database: settings.db(),
            tls: tls.then(|| certificates.clone()),
        };
        Ok(Self { place, pass })
    }
}

impl Access {
    pub(super) fn new(pass: Pass) -> Self {
        let (passes, _) = watch::channel(Passes {
            current: Arc::new(pass),
            previous: None,
        });
        Self { passes }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Passes> {
        self.passes.subscribe()
    }

    pub(super) fn passes(&self) -> Passes {
        self.passes.borrow().clone()
    }

    /// Puts another pass in force; nothing happens when it is the same.
    pub(super) fn replace(&self, pass: Pass) {
        self.passes.send_if_modified(|passes| {
            let changed = !passes.current.same(&pass);
            if changed {
                let previous = std::mem::replace(&mut passes.current, Arc::new(pass));
                passes.previous = Some(previous);
            }
            changed
        });
    }
}

impl Pass {
    /// The server at a place, entered with this pass. Reaches out to nobody.
    pub(super) fn node(&self, place: &Place) -> RedisResult<Node> {
        let client = self.client(place)?;
        Ok(Node {
            id: place.to_string().into(),
            client,
        })
    }

    fn client(&self, place: &Place) -> RedisResult<Client> {
        let address = match place {
            Place::Unix(path) => ConnectionAddr::Unix(path.clone()),
            Place::Tcp(host, port) if self.tls.is_some() => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
            Place::Tcp(host, port) => ConnectionAddr::Tcp(host.clone(), *port),
        };
        // The library's name is told to nobody: it takes a right that older servers do not know.
        let mut settings = RedisConnectionInfo::default()
            .set_db(self.database)
            .set_skip_set_lib_name();
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password.expose());
        }
        let info = address
            .into_connection_info()?
            .set_redis_settings(settings)
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        match &self.tls {
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
            None => Client::open(info),
        }
    }

    /// Whether TLS is spoken, and with which database.
    pub(super) fn kind(&self) -> (bool, i64) {
        (self.tls.is_some(), self.database)
    }

    fn same(&self, other: &Self) -> bool {
        fn parts(pass: &Pass) -> impl PartialEq + '_ {
            let tls = pass.tls.as_ref().map(|tls| {
                let own = tls.client_tls.as_ref();
                (
                    &tls.root_cert,
                    own.map(|own| (&own.client_cert, &own.client_key)),
                )
            });
            let password = pass.password.as_ref().map(StorePassword::expose);
            (&pass.username, password, pass.database, tls)
        }
        parts(self) == parts(other)
    }
}

/// Whether the server does not let us in.
pub(super) fn is_refusal(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(code(error).as_deref(), Some("NOAUTH" | "WRONGPASS"))
}

/// Whether another pass may open the door: a certificate that is not accepted shows as any other end of a connection.
pub(super) fn may_be_refusal(error: &RedisError) -> bool {
    let ended =
        error.kind() == ErrorKind::Io && !error.is_connection_refusal() && !error.is_timeout();
    is_refusal(error) || ended
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Access(..)")
    }
}

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;
