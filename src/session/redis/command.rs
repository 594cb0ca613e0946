//! Says what can be sent to Redis, which key decides where to, and how a node answers that it is another's.

use std::borrow::Cow;

use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, ToRedisArgs};

/// What can be sent. Each must be safe to send twice: an answer may get lost with its connection.
#[derive(Clone, Copy)]
pub(super) enum Command<'a> {
    /// A Lua script, loaded again when Redis has forgotten it.
    Script(&'a Invocation<'a>),
    /// Plain commands in one round trip, all with keys of one slot.
    Pipe(&'a Pipeline),
}

/// A Lua script and its hash, by which Redis knows it.
#[derive(Debug)]
pub(super) struct Script {
    code: Cow<'static, str>,
    hash: String,
}

/// A script with its keys and arguments.
pub(super) struct Invocation<'a> {
    script: &'a Script,
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
}

impl Script {
    pub(super) fn new(code: impl Into<Cow<'static, str>>) -> Self {
        let code = code.into();
        let hash = redis::Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }

    pub(super) fn key(&self, key: impl ToRedisArgs) -> Invocation<'_> {
        let mut invocation = Invocation {
            script: self,
            keys: Vec::new(),
            args: Vec::new(),
        };
        invocation.key(key);
        invocation
    }
}

impl Invocation<'_> {
    pub(super) fn key(&mut self, key: impl ToRedisArgs) -> &mut Self {
        key.write_redis_args(&mut self.keys);
        self
    }

    pub(super) fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        arg.write_redis_args(&mut self.args);
        self
    }

    fn call(&self) -> Cmd {
        let size = self.keys.iter().chain(&self.args).map(Vec::len).sum();
        let mut command = Cmd::with_capacity(3 + self.keys.len() + self.args.len(), size);
        command
            .arg("EVALSHA")
            .arg(&self.script.hash)
            .arg(self.keys.len())
            .arg(&self.keys)
            .arg(&self.args);
        command
    }

    fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(&*self.script.code);
        command
    }
}

impl Command<'_> {
    /// Slot of a Cluster that it belongs to, by its first key; `None` when it has none.
    pub(super) fn slot(&self) -> Option<u16> {
        match self {
            Self::Script(invocation) => invocation.keys.first().map(|key| slot(key)),
            Self::Pipe(pipe) => match pipe.cmd_iter().next()?.args_iter().nth(1)? {
                Arg::Simple(key) => Some(slot(key)),
                _ => None,
            },
        }
    }

    /// `asking`: the node is told that it is asked for a slot on its way there (`ASKING`, before each command).
    pub(super) async fn send<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        asking: bool,
    ) -> RedisResult<T> {
        match self {
            Self::Script(invocation) => {
                let call = invocation.call();
                match send(connection, &call, asking).await {
                    Err(error) if code(&error).as_deref() == Some("NOSCRIPT") => {
                        invocation.load().exec_async(connection).await?;
                        send(connection, &call, asking).await
                    }
                    answer => answer,
                }
            }
            Self::Pipe(pipe) if asking => {
                let mut asked = Pipeline::with_capacity(2 * pipe.len());
                for command in pipe.cmd_iter() {
                    asked.cmd("ASKING").ignore().add_command(command.clone());
                }
                asked.query_async(connection).await
            }
            Self::Pipe(pipe) => pipe.query_async(connection).await,
        }
    }
}

async fn send<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
    asking: bool,
) -> RedisResult<T> {
    if !asking {
        return command.query_async(connection).await;
    }
    let mut asked = Pipeline::with_capacity(2);
    asked.cmd("ASKING").ignore().add_command(command.clone());
    let (answer,) = asked.query_async(connection).await?;
    Ok(answer)
}

/// The first word of Redis' error, also of the first error in a pipeline.
pub(super) fn code(error: &RedisError) -> Option<String> {
    if let Some(code) = error.code() {
        return Some(code.to_owned());
    }
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(_, error)| error.code().to_owned())
}

/// What follows the first word, as far as it is an address of a Cluster's node: `MOVED 3999 10.0.0.7:6381`. The host is
/// empty when it is the one that was asked.
pub(super) fn redirection(error: &RedisError) -> Option<(String, u16)> {
    let errors = error.clone().into_server_errors()?;
    let details = errors.first()?.1.details()?;
    let (host, port) = details.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
    Some((host.to_owned(), port.parse().ok()?))
}

/// Number of slots of a Cluster.
pub(super) const SLOTS: u16 = 16_384;

/// The slot of a key: CRC16 of what stands between the first braces, or of all (Redis Cluster specification, "Hash tags").
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    // CRC16 by XMODEM: polynomial 0x1021, nothing reflected, starting from zero.
    let crc = tag.unwrap_or(key).iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        for (key, want) in [
            // The check value of CRC16/XMODEM is 0x31C3.
            ("123456789", 0x31C3),
            ("foo", 12_182),
            ("{foo}bar", 12_182),
            ("a{foo}{bar}", 12_182),
            ("foo{}{bar}", slot(b"foo{}{bar}")),
            ("", 0),
        ] {
            assert_eq!(slot(key.as_bytes()), want, "{key}");
        }
        assert_ne!(slot(b"{}a"), slot(b"{}b"), "empty braces are no tag");
        assert_eq!(slot(b"daypass:s:{x}"), slot(b"daypass:l:{x}"));
    }

    #[test]
    fn the_first_key_decides() {
        let script = Script::new("return 1");
        let mut invocation = script.key("foo");
        invocation.key("bar").arg(7);
        assert_eq!(Command::Script(&invocation).slot(), Some(12_182));
        let mut pipe = redis::pipe();
        pipe.hget("foo", "d").pttl("foo");
        assert_eq!(Command::Pipe(&pipe).slot(), Some(12_182));
        let mut ping = redis::pipe();
        ping.cmd("PING");
        assert_eq!(Command::Pipe(&ping).slot(), None);
    }
}
