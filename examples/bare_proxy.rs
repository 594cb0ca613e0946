//! Forwards everything to one upstream and does nothing else: what `make bench` measures daypass against.
//!
//! Same pingora, same allocator and same build profile as daypass. By itself it runs as pingora does by default: one
//! multi-threaded tokio runtime that steals, and pingora's service on top of it. With `apart` it has daypass' listener and
//! threads, and shows what daypass adds beside those.
//!
//! ```text
//! bare_proxy 127.0.0.1:8081 127.0.0.1:9000
//! bare_proxy 127.0.0.1:8081 127.0.0.1:9000 apart
//! ```

//! Forwards everything to one upstream and does nothing else: what `make bench` measures daypass against.
//!
//! Same pingora, same allocator, same build profile and same shape of runtime as daypass: a multi-threaded tokio runtime
//! of our own, a listener bound before anything starts, and pingora's service on top of it.
//!
//! ```text
//! bare_proxy 127.0.0.1:8081 127.0.0.1:9000
//! ```

use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use daypass::config::model::{Address, Listener};
use daypass::listen::{self, Workers};
use parking_lot::Mutex;
use pingora::proxy::{HttpProxy, ProxyHttp, Session, http_proxy_service};
use pingora::server::Fds;
use pingora::server::configuration::ServerConf;
use pingora::services::Service as _;
use pingora::upstreams::peer::HttpPeer;
use tokio::sync::watch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare {
    peer: HttpPeer,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut Self::CTX,
    ) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(self.peer.clone()))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(listen), Some(upstream)) = (arguments.next(), arguments.next()) else {
        return Err("usage: bare_proxy LISTEN UPSTREAM [apart]".into());
    };
    let upstream: SocketAddr = upstream.parse()?;
    let mut peer = HttpPeer::new(upstream, false, String::new());
    // The deadlines daypass has by default: they cost timers.
    peer.options.connection_timeout = Some(Duration::from_secs(2));
    peer.options.read_timeout = Some(Duration::from_secs(60));
    match arguments.next().as_deref() {
        None => stock(&listen, peer),
        Some("apart") => apart(&listen, &peer),
        Some(other) => Err(format!("unknown argument {other:?}").into()),
    }
}

/// One runtime that steals, as pingora has by default.
fn stock(listen: &str, peer: HttpPeer) -> Result<(), Box<dyn std::error::Error>> {
    // An occupied port ends the program here instead of being retried inside pingora.
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?.to_string();
    let mut fds = Fds::new();
    fds.add(address.clone(), listener.into_raw_fd());

    let conf = Arc::new(ServerConf::default());
    let mut service = http_proxy_service(&conf, Bare { peer });
    service.add_tcp(&address);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let (stop, stopped) = watch::channel(false);
    runtime.block_on(async move {
        let fds = Arc::new(Mutex::new(fds));
        let serving =
            tokio::spawn(async move { service.start_service(Some(fds), stopped, 1).await });
        tokio::signal::ctrl_c().await?;
        stop.send_replace(true);
        serving.await?;
        Ok(())
    })
}

/// A runtime and a proxy a thread, and the listener, as in daypass.
fn apart(listen: &str, peer: &HttpPeer) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = Listener {
        address: Address::Tcp(listen.parse()?),
        tls: None,
    };
    let workers = Workers::start(std::thread::available_parallelism()?, || {
        let mut proxy = HttpProxy::new(Bare { peer: peer.clone() }, Arc::default());
        proxy.handle_init_modules();
        proxy
    })?;
    let (_stop, stopped) = watch::channel(false);
    runtime.block_on(async move {
        let bound = listen::bind(&listener).await?;
        bound.serve(Arc::new(workers), stopped).await;
        Ok(())
    })
}
