//! Finds loopback ports that nobody listens on.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that systems hand out by themselves, so that no outgoing connection takes one in between.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A loopback address that nobody listens on, and that no other test process is given while this one lives.
///
/// Needed where a port must be known before the process that binds it starts (`public_url` names it). The UDP port of
/// the same number is held as the claim.
pub fn free() -> SocketAddr {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    // Processes that start one after the other begin far apart.
    let begin = u16::try_from(std::process::id().wrapping_mul(37) % u32::from(COUNT));
    let begin = begin.expect("a remainder of a small number is small");
    for _ in 0..COUNT {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (begin + tried) % COUNT;
        let address = (Ipv4Addr::LOCALHOST, port);
        let Ok(claim) = UdpSocket::bind(address) else {
            continue;
        };
        if TcpListener::bind(address).is_ok() {
            // Given back when the process ends.
            std::mem::forget(claim);
            return address.into();
        }
    }
    panic!("no loopback port is free");
}

/// `wanted` on loopback if it is free, any free port otherwise.
pub fn prefer(wanted: u16) -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, wanted))
        .and_then(|probe| probe.local_addr())
        .unwrap_or_else(|_| free())
}
