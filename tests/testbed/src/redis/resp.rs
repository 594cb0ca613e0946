//! Speaks RESP2 over a Unix socket: enough to look into Redis from a blocking test.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`.
    Status(String),
    /// `-ERR …`.
    Error(String),
    /// `:1`.
    Integer(i64),
    /// A bulk string.
    Bytes(Vec<u8>),
    /// No value.
    Nil,
    /// An array.
    Array(Vec<Self>),
}

impl Reply {
    /// The integer, if it is one.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The bytes; empty if there are none.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Status(text) => text.clone().into_bytes(),
            _ => Vec::new(),
        }
    }

    /// An array's members as text.
    pub fn strings(&self) -> Vec<String> {
        match self {
            Self::Array(all) => all
                .iter()
                .map(|one| String::from_utf8_lossy(&one.bytes()).into_owned())
                .collect(),
            _ => Vec::new(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Connection(BufReader<UnixStream>);

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(BufReader::new(stream))
    }

    pub(super) fn call(&mut self, words: &[&str]) -> Option<Reply> {
        let words_on_the_wire = words
            .iter()
            .map(|word| format!("${}\r\n{word}\r\n", word.len()));
        let request = format!(
            "*{}\r\n{}",
            words.len(),
            words_on_the_wire.collect::<Vec<_>>().concat()
        );
        self.0.get_mut().write_all(request.as_bytes()).ok()?;
        self.read()
    }

    fn read(&mut self) -> Option<Reply> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        let (kind, rest) = line.trim_end().split_at_checked(1)?;
        Some(match kind {
            "+" => Reply::Status(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(rest.parse().ok()?),
            "$" => match usize::try_from(rest.parse::<i64>().ok()?) {
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.0.read_exact(&mut bytes).ok()?;
                    bytes.truncate(length);
                    Reply::Bytes(bytes)
                }
                Err(_) => Reply::Nil,
            },
            "*" => match usize::try_from(rest.parse::<i64>().ok()?) {
                Ok(count) => Reply::Array((0..count).map(|_| self.read()).collect::<Option<_>>()?),
                Err(_) => Reply::Nil,
            },
            _ => return None,
        })
    }
}
