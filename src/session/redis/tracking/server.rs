//! Reads what a server says of itself, and why it cannot be followed.

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, ServerErrorKind, Value};

use crate::session::redis::command::code;

/// Why tracking ended or did not begin.
pub(super) enum Ended {
    /// No connection, or none any more.
    Lost,
    /// Connected, and no answer.
    Silent,
    /// The server is no master any more.
    Demoted,
    /// The server is no master, or not yet ready.
    NotReady,
    /// The server, or something before it, does not know or does not allow it.
    Refused(Option<String>),
}

impl From<RedisError> for Ended {
    fn from(error: RedisError) -> Self {
        Self::of(&error)
    }
}

impl Ended {
    pub(super) fn of(error: &RedisError) -> Self {
        let code = code(error);
        match (error.kind(), code.as_deref()) {
            (ErrorKind::RESP3NotSupported, _) => Self::Refused(code),
            (
                ErrorKind::Server(
                    ServerErrorKind::BusyLoading
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::TryAgain,
                ),
                _,
            )
            | (_, Some("NOAUTH" | "WRONGPASS" | "BUSY")) => Self::NotReady,
            // Said to a connection too many, before it is closed.
            (ErrorKind::Server(_) | ErrorKind::Extension, _)
                if error
                    .detail()
                    .is_some_and(|text| text.contains("max number")) =>
            {
                Self::NotReady
            }
            (ErrorKind::Server(_) | ErrorKind::Extension, _) => Self::Refused(code),
            _ => Self::Lost,
        }
    }
}

/// What a server says it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Role {
    Master,
    Replica,
    /// A master that does not see its Cluster work: there may be another in its place.
    CutOff,
}

/// Asks the server what it is. Each answer is a heartbeat's, too.
pub(super) async fn look(connection: &mut MultiplexedConnection) -> Result<Role, RedisError> {
    let answer = redis::cmd("HELLO")
        .arg(3)
        .query_async::<Value>(connection)
        .await?;
    let Value::Map(fields) = answer else {
        return Ok(Role::Master);
    };
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        _ => String::new(),
    };
    let field = |wanted: &str| {
        let field = fields.iter().find(|(name, _)| text(name) == wanted);
        field.map(|(_, value)| text(value)).unwrap_or_default()
    };
    if field("role") == "replica" {
        return Ok(Role::Replica);
    }
    if field("mode") == "cluster" {
        let mut info = redis::cmd("CLUSTER");
        let info = info.arg("INFO").query_async::<String>(connection).await;
        // Who may not ask has to do without.
        if info.is_ok_and(|info| info.contains("cluster_state:fail")) {
            return Ok(Role::CutOff);
        }
    }
    Ok(Role::Master)
}
