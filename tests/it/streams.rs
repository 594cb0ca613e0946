//! Shows that what flows goes on flowing, in both directions and over every kind of connection.

mod flow;
mod sockets;
mod tls;
mod websocket;
