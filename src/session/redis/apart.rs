//! Deletes sessions key by key, while their slot is on its way from one node of a Cluster to another.
//!
//! Then no command may name two keys that are not both there, and a lease or a marker that does not exist is nowhere.
//! Nothing recreates a record, so the order does no harm.

use tokio::time::Instant;

use super::command::Command;
use super::fleet::MARKED;
use super::link::LinkError;
use super::{Redis, millis};
use crate::metrics::LogoutKind;
use crate::session::RecordKey;

impl Redis {
    /// As the script that deletes does.
    pub(super) async fn delete_apart(
        &self,
        key: RecordKey,
        deadline: Instant,
    ) -> Result<(String, Vec<u8>), LinkError> {
        let [data, parked] = self.fields(key, ["d", "p"], deadline).await?;
        let there = self.remove(&self.record(key), deadline).await?;
        self.remove(&self.key('l', key), deadline).await?;
        let newest = parked.filter(|parked| !parked.is_empty()).or(data);
        Ok(match newest.filter(|_| there) {
            Some(data) => ("deleted".to_owned(), data),
            None => ("gone".to_owned(), Vec::new()),
        })
    }

    /// Fields of the record.
    pub(super) async fn fields<const N: usize>(
        &self,
        key: RecordKey,
        names: [&str; N],
        deadline: Instant,
    ) -> Result<[Option<Vec<u8>>; N], LinkError> {
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET").arg(self.record(key)).arg(&names[..]);
        let answer = self.link.ask_by(Command::Pipe(&pipe), deadline).await;
        let (fields,): (Vec<Option<Vec<u8>>>,) = answer?;
        fields.try_into().map_err(|_| LinkError::WrongType)
    }

    /// Deletes a key; whether it was there.
    pub(super) async fn remove(&self, key: &str, deadline: Instant) -> Result<bool, LinkError> {
        let mut pipe = redis::pipe();
        pipe.cmd("DEL").arg(key);
        let answer = self.link.ask_by(Command::Pipe(&pipe), deadline).await;
        let (there,): (bool,) = answer?;
        Ok(there)
    }

    /// As the script that revokes does.
    pub(super) async fn revoke_apart(
        &self,
        key: RecordKey,
        mark: Option<LogoutKind>,
        deadline: Instant,
    ) -> Result<(String, Vec<u8>), LinkError> {
        let [meta, generation, parked] = self.fields(key, ["m", "g", "p"], deadline).await?;
        // It was there a moment ago: where an answer is lost, the second says no.
        let there = self.remove(&self.record(key), deadline).await? || generation.is_some();
        if !there {
            return Ok(("gone".to_owned(), Vec::new()));
        }
        // The session has ended: what fails from here on does not change that.
        let _ = self.remove(&self.key('l', key), deadline).await;
        let generation = generation.and_then(|text| String::from_utf8(text).ok());
        let parked = parked.is_some_and(|parked| !parked.is_empty());
        if let (Some(kind), Some(generation), false) = (mark, generation, parked) {
            let mut pipe = redis::pipe();
            pipe.cmd("SET")
                .arg(self.key('r', key))
                .arg(format!("{}:{generation}", kind.label()))
                .arg("PX")
                .arg(millis(MARKED));
            let answer = self.link.ask_by(Command::Pipe(&pipe), deadline).await;
            let marked: Result<(String,), _> = answer;
            if marked.is_err() {
                tracing::warn!(
                    session = key.short(),
                    "an ended session's tokens are left to expire"
                );
            }
        }
        Ok(("deleted".to_owned(), meta.unwrap_or_default()))
    }
}
