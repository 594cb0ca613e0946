//! Asks a server again and again over one connection, and does not wait long for a server that is down or frozen.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::resp::{Connection, Reply};

/// A connection that is made anew when it breaks.
#[derive(Debug)]
pub struct Probe {
    socket: PathBuf,
    user: Option<(String, String)>,
    patience: Duration,
    connection: Option<Connection>,
}

impl Probe {
    pub(super) fn new(socket: PathBuf, user: Option<(String, String)>, patience: Duration) -> Self {
        Self {
            socket,
            user,
            patience,
            connection: None,
        }
    }

    /// Runs a command. Nothing when there is no answer within the patience.
    pub fn ask(&mut self, words: &[&str]) -> Option<Reply> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let answer = connection.call(words)?;
        // What failed is not used again: the answer might come yet, and be taken for that to another question.
        self.connection = Some(connection);
        Some(answer)
    }

    fn connect(&self) -> Option<Connection> {
        let stream = UnixStream::connect(&self.socket).ok()?;
        stream.set_read_timeout(Some(self.patience)).ok()?;
        let mut connection = Connection::new(stream);
        if let Some((user, password)) = &self.user {
            connection.call(&["AUTH", user, password])?;
        }
        Some(connection)
    }
}
