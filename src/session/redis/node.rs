//! Names the nodes that hold the data: one, or the masters of a Cluster.

use std::sync::Arc;

/// A master that holds part of the data.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// `host:port`, or the path of a socket.
    pub(super) id: Arc<str>,
    /// Opens connections to it, with the credentials it has accepted last.
    pub(super) client: redis::Client,
}

/// All masters, as they change: by failover, resharding, a node that joins, rotated credentials. Empty as long as none has
/// been found: who must know them all then knows nothing.
pub(super) type Masters = tokio::sync::watch::Receiver<Arc<[Node]>>;
