//! Names the Redis nodes that hold sessions.

use std::sync::Arc;

use tokio::sync::watch;

/// A master that holds part of the data.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// `host:port`, or the path of a socket.
    pub(super) id: Arc<str>,
    /// Reaches it, with the credentials in force.
    pub(super) client: redis::Client,
}

/// All masters. Sent anew when one comes, goes, or is reached in another way: each is then tracked anew.
pub(super) type Masters = watch::Receiver<Arc<[Node]>>;
