//! Finds loopback ports that nobody listens on.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// A loopback address that was free a moment ago.
///
/// Needed where a port must be known before the process that binds it starts (`public_url` names it).
pub fn free() -> SocketAddr {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
    probe.local_addr().expect("a bound socket has an address")
}

/// `wanted` on loopback if it is free, any free port otherwise.
pub fn prefer(wanted: u16) -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, wanted))
        .and_then(|probe| probe.local_addr())
        .unwrap_or_else(|_| free())
}
