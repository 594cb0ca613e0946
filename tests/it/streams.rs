//! Shows that what flows goes on flowing, in both directions and over every kind of connection.

mod ends;
mod flow;
mod goodbye;
mod multiplexed;
mod replicas;
mod sockets;
mod tls;
mod websocket;
