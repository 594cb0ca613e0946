//! Reaches sessions in Redis without their cookies: index sets, deletion by name, markers, what logout tokens said.
//!
//! Each command names one key, or the keys of one session, which share a slot: an index cannot be in one slot with the
//! sessions it names. It is written before the record: a member without a record does no harm.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use super::super::index::IndexKey;
use super::super::{Ended, Listed, Meta, Owner, RecordKey, StoreError};
use super::command::Command;
use super::link::{ANSWER, LinkError, MAX_ATTEMPTS};
use super::{Redis, millis};
use crate::clock::Timestamp;
use crate::metrics::{LogoutKind, StoreOp, StoreResult};
use crate::seal::KeyRing;

/// Where a walk through a set, or through all sessions, goes on.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::session) struct Cursor {
    /// Number of the master that is walked through, where there are several. Keys that move between them on the way may be
    /// met twice, or not at all.
    master: usize,
    /// Redis' own; 0 is the beginning and the end.
    at: u64,
}

/// A page of a walk; the next cursor is `None` at its end.
pub(in crate::session) type Page = (Option<Cursor>, Vec<RecordKey>);

impl Redis {
    /// Adds a session to an index set.
    pub(in crate::session) async fn index(
        &self,
        index: IndexKey,
        member: RecordKey,
        ends: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut script = self.scripts.index.key(self.set(index));
        script
            .arg(&member.as_bytes()[..])
            .arg(ends.as_millis())
            .arg(now.as_millis())
            .arg(MEMBERS);
        let (_, cut) = self.run(StoreOp::Index, &script).await?;
        if cut != b"0" {
            tracing::warn!(
                most = MEMBERS,
                "a user has too many sessions; those that end first are not found by logouts any more"
            );
        }
        Ok(())
    }

    /// Takes sessions out of an index set.
    pub(in crate::session) async fn unindex(
        &self,
        index: IndexKey,
        members: &[RecordKey],
    ) -> Result<(), StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("ZREM").arg(self.set(index));
        for member in members {
            pipe.arg(&member.as_bytes()[..]);
        }
        let _: (i64,) = self.ask(StoreOp::Index, &pipe).await?;
        Ok(())
    }

    /// A page of an index set: about [`PAGE`] members. Those that are there all the time are given at least once.
    pub(in crate::session) async fn members(
        &self,
        index: IndexKey,
        cursor: Cursor,
    ) -> Result<Page, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("ZSCAN")
            .arg(self.set(index))
            .arg(cursor.at)
            .arg("COUNT")
            .arg(PAGE);
        let ((next, pairs),): ((u64, Vec<Vec<u8>>),) = self.ask(StoreOp::Index, &pipe).await?;
        // Member and score by turns.
        let members = pairs.iter().step_by(2);
        let members = members.filter_map(|bytes| RecordKey::from_bytes(bytes));
        let next = (next != 0).then_some(Cursor { at: next, ..cursor });
        Ok((next, members.collect()))
    }

    /// A page of all sessions. The one place that goes through the whole database.
    pub(in crate::session) async fn scan(&self, cursor: Cursor) -> Result<Page, StoreError> {
        let prefix = format!("{}s:{{", self.prefix);
        let mut pipe = redis::pipe();
        pipe.cmd("SCAN")
            .arg(cursor.at)
            .arg("MATCH")
            .arg(format!("{}*", literally(&prefix)))
            .arg("COUNT")
            .arg(PAGE)
            .arg("TYPE")
            .arg("hash");
        let started = Instant::now();
        let answer = self.link.ask_master(cursor.master, Command::Pipe(&pipe));
        let Some(answer) = answer.await else {
            return Ok((None, Vec::new()));
        };
        let answer: Result<((u64, Vec<String>),), _> = answer;
        let ((next, names),) =
            answer.map_err(|error| self.failed(StoreOp::Scan, &error, started))?;
        self.done(StoreOp::Scan, StoreResult::Ok, started);
        let keys = names.iter().filter_map(|name| {
            let hash = name.strip_prefix(&prefix)?.strip_suffix('}')?;
            RecordKey::from_bytes(&URL_SAFE_NO_PAD.decode(hash).ok()?)
        });
        let next = match next {
            // With this one through: the next, if there is one.
            0 => Cursor {
                master: cursor.master + 1,
                at: 0,
            },
            at => Cursor { at, ..cursor },
        };
        Ok((Some(next), keys.collect()))
    }

    /// What an operator may see of a session; `None` when it is gone.
    pub(in crate::session) async fn listed(
        &self,
        key: RecordKey,
        keys: &KeyRing,
    ) -> Result<Option<Listed>, StoreError> {
        let record = self.record(key);
        let mut pipe = redis::pipe();
        pipe.hget(&record, "m").pttl(&record);
        let (sealed, ttl): (Option<Vec<u8>>, i64) = self.ask(StoreOp::Load, &pipe).await?;
        Ok((ttl != GONE).then(|| Listed {
            key,
            meta: sealed.and_then(|sealed| Meta::open(keys, key, &sealed)),
            ttl: u64::try_from(ttl).ok().map(Duration::from_millis),
        }))
    }

    /// Deletes a session; `None` when there was none. With a `mark` it is remembered for a while that its tokens are to be
    /// revoked, and why.
    pub(in crate::session) async fn revoke(
        &self,
        key: RecordKey,
        keys: &KeyRing,
        mark: Option<LogoutKind>,
    ) -> Result<Option<Ended>, StoreError> {
        let mut script = self.scripts.revoke.key(self.record(key));
        script.key(self.key('l', key)).key(self.key('r', key));
        script
            .arg(mark.map_or("", LogoutKind::label))
            .arg(millis(MARKED));
        let (command, started) = (Command::Script(&script), Instant::now());
        let deadline = started + ANSWER;
        let mut attempts = 1..MAX_ATTEMPTS;
        let answer = loop {
            match self.link.ask_once(command, deadline).await {
                Err(LinkError::TryAgain) => break self.revoke_apart(key, mark, deadline).await,
                Err(LinkError::Lost) if attempts.next().is_some() => {}
                answer => break answer,
            }
        };
        let (tag, sealed) = self.heard(StoreOp::Delete, answer, started)?;
        Ok((tag == "deleted").then(|| Ended {
            key,
            meta: Meta::open(keys, key, &sealed),
        }))
    }

    /// Takes the marker that a deletion left: given to one who asks and knows the generation that was deleted, and to
    /// nobody else.
    pub(in crate::session) async fn take_mark(
        &self,
        key: RecordKey,
        generation: u64,
    ) -> Result<Option<LogoutKind>, StoreError> {
        let mut script = self.scripts.take_mark.key(self.key('r', key));
        script.arg(generation);
        let (_, kind) = self.run(StoreOp::Orphan, &script).await?;
        let mut kinds = LogoutKind::ALL.iter().copied();
        Ok(kinds.find(|known| known.label().as_bytes() == kind))
    }

    /// Remembers what was ended at the provider, and when we were told.
    pub(in crate::session) async fn forbid(
        &self,
        note: IndexKey,
        keep: Duration,
        told_at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("SET")
            .arg(self.note('x', note))
            .arg(told_at.as_millis())
            .arg("PX")
            .arg(millis(keep));
        let _: (String,) = self.ask(StoreOp::Told, &pipe).await?;
        Ok(())
    }

    /// When we were told that it was ended at the provider, if it was of late.
    pub(in crate::session) async fn over(
        &self,
        note: IndexKey,
    ) -> Result<Option<Timestamp>, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("GET").arg(self.note('x', note));
        let (told_at,): (Option<i64>,) = self.ask(StoreOp::Told, &pipe).await?;
        Ok(told_at.map(Timestamp::from_millis))
    }

    /// Whether a logout token was seen before.
    pub(in crate::session) async fn used(&self, token: IndexKey) -> Result<bool, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("EXISTS").arg(self.note('j', token));
        let (there,): (bool,) = self.ask(StoreOp::Told, &pipe).await?;
        Ok(there)
    }

    /// Remembers a logout token; whether it is the first time.
    pub(in crate::session) async fn use_up(
        &self,
        token: IndexKey,
        keep: Duration,
    ) -> Result<bool, StoreError> {
        let mut script = self.scripts.once.key(self.note('j', token));
        script.arg(&Owner::random().0[..]).arg(millis(keep));
        let (tag, _) = self.run(StoreOp::Told, &script).await?;
        Ok(tag == "first")
    }

    async fn ask<T: redis::FromRedisValue>(
        &self,
        op: StoreOp,
        pipe: &redis::Pipeline,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        let answer = self.link.ask(Command::Pipe(pipe)).await;
        let answer = answer.map_err(|error| self.failed(op, &error, started))?;
        self.done(op, StoreResult::Ok, started);
        Ok(answer)
    }

    fn set(&self, index: IndexKey) -> String {
        self.note('i', index)
    }

    fn note(&self, kind: char, name: IndexKey) -> String {
        let hash = URL_SAFE_NO_PAD.encode(name.as_bytes());
        format!("{}{kind}:{hash}", self.prefix)
    }
}

/// A pattern that fits the text only.
fn literally(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '^' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

/// Members of an index set at most; the rest of such a user's sessions end by themselves.
pub(in crate::session) const MEMBERS: u64 = 20_000;
/// Keys that Redis looks at in one go: a few tenths of a millisecond.
const PAGE: usize = 500;
/// How long a process that held a session has to notice that its tokens are to be revoked.
pub(super) const MARKED: Duration = Duration::from_secs(60);
/// What PTTL says of a key that is not there.
const GONE: i64 = -2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_no_pattern() {
        assert_eq!(literally("daypass:s:{"), "daypass:s:{");
        assert_eq!(literally(r"a*b?[c]\"), r"a\*b\?\[c\]\\");
    }
}
