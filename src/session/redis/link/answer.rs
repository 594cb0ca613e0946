//! Says what an error tells about the command, its connection and the server.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::session::redis::access::is_refusal;
use crate::session::redis::command::{code, redirection};

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::session::redis) enum LinkError {
    /// Not in time.
    Timeout,
    /// No connection, and nothing was sent.
    Unreachable,
    /// The connection ended before the answer: Redis may have acted or not.
    Lost,
    /// The key holds something that is not ours.
    WrongType,
    /// Redis said no.
    Refused,
    /// A server that cannot act now: a demoted master, data still loading, rights withdrawn. It has done nothing.
    NotMaster,
    /// The slot is another's, for good. An empty host is the one that was asked.
    Moved(String, u16),
    /// The slot is on its way to another, who has the key if anybody has.
    Ask(String, u16),
    /// The slot is on its way, and the keys are not together now.
    TryAgain,
    /// The Cluster takes nothing now.
    ClusterDown,
}

/// What an error says about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Redis answered; the connection is good.
    Answer,
    /// The connection is gone; another may do.
    Lost,
    /// Redis answered, but this connection will not do: a demoted master, data still loading, rights withdrawn. Dialling
    /// resolves the name and authenticates again.
    Elsewhere,
}

impl Class {
    pub(super) fn of(error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(
                ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::BusyLoading,
            ) => Self::Elsewhere,
            ErrorKind::Extension if is_refusal(error) => Self::Elsewhere,
            // Before Redis 7 a script says so in its own words: `ERR Error running script (...): -READONLY ...`.
            ErrorKind::Server(_) | ErrorKind::Extension if is_read_only(error) => Self::Elsewhere,
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType => {
                Self::Answer
            }
            _ => Self::Lost,
        }
    }
}

fn is_read_only(error: &RedisError) -> bool {
    error
        .detail()
        .is_some_and(|text| text.contains("-READONLY "))
}

impl LinkError {
    pub(super) fn of(error: &RedisError, class: Class) -> Self {
        match (class, error.kind()) {
            (Class::Lost, _) => return Self::Lost,
            (Class::Elsewhere, _) => return Self::NotMaster,
            (_, ErrorKind::Server(ServerErrorKind::TryAgain)) => return Self::TryAgain,
            (_, ErrorKind::Server(ServerErrorKind::ClusterDown)) => return Self::ClusterDown,
            _ => {}
        }
        match (code(error).as_deref(), redirection(error)) {
            (Some("MOVED"), Some((host, port))) => Self::Moved(host, port),
            (Some("ASK"), Some((host, port))) => Self::Ask(host, port),
            (Some("WRONGTYPE"), _) => Self::WrongType,
            _ => Self::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demoted_master_is_known_by_what_it_says_in_every_version() {
        let error = |code: &str, text: &str| {
            redis::make_extension_error(code.to_owned(), Some(text.to_owned()))
        };
        for (name, error, want) in [
            (
                "Redis 7",
                RedisError::from((ErrorKind::Server(ServerErrorKind::ReadOnly), "READONLY")),
                Class::Elsewhere,
            ),
            (
                "Redis 6",
                error(
                    "ERR",
                    "Error running script (call to f_1): @user_script:3: -READONLY You can't write against a read only replica. ",
                ),
                Class::Elsewhere,
            ),
            (
                "another error of a script",
                error(
                    "ERR",
                    "Error running script (call to f_1): @user_script:3: wrong",
                ),
                Class::Answer,
            ),
        ] {
            assert_eq!(Class::of(&error), want, "{name}");
        }
    }
}
