//! Ends and shows sessions without their cookies: what the provider's logouts and an operator need.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use futures_util::stream::{self, StreamExt as _};

use super::super::index::IndexKey;
use super::super::orphans::Waiting;
use super::super::redis::{Cursor, Page, Redis};
use super::super::{Ended, Gone, Listed, Meta, Orphan, RecordKey, Session, StoreError, Whose};
use super::cached::Cached;
use super::{Sessions, Store};
use crate::clock::Timestamp;
use crate::metrics::LogoutKind;

/// The sessions of all replicas, seen through the Redis they share.
#[derive(Debug, Clone, Copy)]
pub struct Fleet<'a> {
    sessions: &'a Sessions,
    cached: &'a Cached,
}

/// A way through many sessions, page by page: no command takes long, however many there are.
#[derive(Debug)]
pub struct Walk<'a> {
    fleet: Fleet<'a>,
    /// The index set to go through; all sessions when there is none.
    index: Option<IndexKey>,
    cursor: Option<Cursor>,
}

impl Sessions {
    /// Ends all sessions that are meant, and tells of each. With `revoke` set, their tokens are to be revoked by whoever
    /// knows them: see [`next_orphan_until`](Self::next_orphan_until).
    ///
    /// # Errors
    /// [`StoreError`]: some may be left. Asking again ends the rest.
    pub async fn end_all(
        &self,
        whose: Whose<'_>,
        kind: LogoutKind,
        revoke: bool,
        mut ended: impl FnMut(&Ended) + Send,
    ) -> Result<(), StoreError> {
        match &self.0.store {
            Store::Memory(memory) => {
                for key in memory.find(&whose) {
                    let Some(session) = memory.delete(key, &self.0.seen) else {
                        continue;
                    };
                    self.0.changes.wake(key);
                    ended(&Ended {
                        key,
                        meta: Some(Meta::of(&session)),
                    });
                    if revoke {
                        self.0.orphans.push(Waiting::Known(Orphan {
                            key,
                            session,
                            kind,
                            uncounted: false,
                        }));
                    }
                }
                Ok(())
            }
            Store::Redis(cached) => {
                let fleet = Fleet {
                    sessions: self,
                    cached,
                };
                let Some(index) = whose.index() else {
                    return Ok(());
                };
                let mut walk = fleet.walk(Some(index));
                while let Some(mut page) = walk.next().await? {
                    if whose.needs_a_look() {
                        let listed = fleet.list(&page).await?;
                        let meant = listed.iter().filter(|listed| {
                            listed.meta.as_ref().is_some_and(|meta| whose.fits(meta))
                        });
                        page = meant.map(|listed| listed.key).collect();
                    }
                    let mark = revoke.then_some(kind);
                    let (gone, outcome) = fleet.end(&page, mark).await;
                    gone.iter().for_each(&mut ended);
                    walk.forget(gone);
                    outcome?;
                }
                Ok(())
            }
        }
    }

    /// The provider has ended these sessions: a login that is under way now at one of the `providers` named makes none
    /// (LOGOUT-12). Call it before [`end_all`](Self::end_all), or one may slip through between the two.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forbid(&self, whose: Whose<'_>, providers: &[&str]) -> Result<(), StoreError> {
        let now = self.now();
        for note in providers.iter().filter_map(|name| whose.note(name)) {
            match &self.0.store {
                Store::Memory(memory) => memory.told.forbid(note, now.plus(LATE), now),
                Store::Redis(cached) => cached.redis.forbid(note, LATE, now).await?,
            }
        }
        Ok(())
    }

    /// Whether a logout token was used before, here or at another replica (LOGOUT-08).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn used(&self, issuer: &str, jti: &str) -> Result<bool, StoreError> {
        let token = IndexKey::new(JTI, issuer, jti);
        match &self.0.store {
            Store::Memory(memory) => Ok(memory.told.used(&token, self.now())),
            Store::Redis(cached) => cached.redis.used(token).await,
        }
    }

    /// Uses a logout token up, for as long as it could be shown again. `false` when another was faster.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn use_up(
        &self,
        issuer: &str,
        jti: &str,
        keep: Duration,
    ) -> Result<bool, StoreError> {
        let token = IndexKey::new(JTI, issuer, jti);
        match &self.0.store {
            Store::Memory(memory) => Ok(memory.told.use_up(token, self.now(), keep)),
            Store::Redis(cached) => cached.redis.use_up(token, keep).await,
        }
    }

    /// The next session that was ended without its cookie and whose tokens this process is to revoke. Waits for it; `None`
    /// when none is left and it is `enough`, or when somebody else waits.
    ///
    /// # Cancel safety
    /// One that is being asked for may be lost, its tokens then end by themselves: say `enough` instead.
    pub async fn next_orphan_until(&self, enough: impl Future<Output = ()>) -> Option<Orphan> {
        tokio::pin!(enough);
        loop {
            let next = tokio::select! {
                biased;
                next = self.0.orphans.next() => next?,
                () = &mut enough => return None,
            };
            let (key, session) = match next {
                Waiting::Known(orphan) => return Some(orphan),
                Waiting::Perhaps(key, session) => (key, session),
            };
            let Store::Redis(cached) = &self.0.store else {
                continue;
            };
            match cached.redis.take_mark(key, session.generation).await {
                Ok(Some(kind)) => {
                    return Some(Orphan {
                        key,
                        session,
                        kind,
                        // Operators run a process of their own, which is over by now.
                        uncounted: kind == LogoutKind::Operator,
                    });
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, session = key.short(), "an ended session's tokens are left to expire");
                }
            }
        }
    }

    /// The sessions of all replicas; `None` with the memory store, whose sessions only the serving process has.
    pub fn fleet(&self) -> Option<Fleet<'_>> {
        match &self.0.store {
            Store::Memory(_) => None,
            Store::Redis(cached) => Some(Fleet {
                sessions: self,
                cached,
            }),
        }
    }

    /// Adds a session that is about to be written to its index sets.
    pub(super) async fn index(
        &self,
        redis: &Redis,
        key: RecordKey,
        session: &Session,
    ) -> Result<(), StoreError> {
        let (ends, now) = (session.expires_at, self.now());
        let sets = IndexKey::of_session(session);
        try_join_all(sets.map(|set| redis.index(set, key, ends, now))).await?;
        Ok(())
    }

    /// Takes a session that is gone out of its index sets: off the request's path, and only if there is time.
    pub(super) fn unindex(&self, key: RecordKey, meta: Meta) {
        let Ok(permit) = Arc::clone(&self.0.touches).try_acquire_owned() else {
            return;
        };
        let sessions = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            if let Store::Redis(cached) = &sessions.0.store {
                for set in IndexKey::of_meta(&meta) {
                    // A member that stays behind goes when the session would have ended.
                    let _ = cached.redis.unindex(set, &[key]).await;
                }
            }
        });
    }

    /// Whether the provider has ended what a login is about to make, since the login began (LOGOUT-12).
    pub(super) async fn is_over(
        &self,
        session: &Session,
        began_at: Timestamp,
    ) -> Result<bool, StoreError> {
        let now = self.now();
        let over = async |note: IndexKey| match &self.0.store {
            Store::Memory(memory) => Ok(memory.told.over(&note, now)),
            Store::Redis(cached) => cached.redis.over(note).await,
        };
        let by_subject = Whose::subject(&session.issuer, &session.subject);
        let by_sid = session.sid.as_deref();
        let by_sid = by_sid.map(|sid| Whose::sid(&session.issuer, sid));
        let whose = by_sid.into_iter().chain([by_subject]);
        let notes = whose.filter_map(|whose| whose.note(&session.provider));
        let ends = try_join_all(notes.map(over)).await?;
        // Both times are of our own clocks. What the provider's say of the code or the ID token does not count: a code of
        // before the logout may be redeemed after it.
        Ok(ends.into_iter().flatten().any(|end| began_at <= end))
    }
}

impl<'a> Fleet<'a> {
    /// Goes through all sessions.
    pub fn all(self) -> Walk<'a> {
        self.walk(None)
    }

    /// Goes through the sessions that may be meant; look at each before you believe it.
    pub fn of(self, whose: &Whose<'_>) -> Walk<'a> {
        self.walk(whose.index())
    }

    fn walk(self, index: Option<IndexKey>) -> Walk<'a> {
        Walk {
            fleet: self,
            index,
            cursor: Some(Cursor::default()),
        }
    }

    /// What can be seen of these sessions; those that are gone are left out.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(&self, page: &[RecordKey]) -> Result<Vec<Listed>, StoreError> {
        let keys = self.sessions.keys();
        let asked = stream::iter(page.to_vec()).map(|key| self.cached.redis.listed(key, &keys));
        let answers: Vec<_> = asked.buffered(AT_ONCE).collect().await;
        answers.into_iter().filter_map(Result::transpose).collect()
    }

    /// Ends these sessions, and says which there were: also when the store failed meanwhile. With a `mark` their tokens are
    /// revoked by a replica that holds them.
    pub async fn end(
        &self,
        page: &[RecordKey],
        mark: Option<LogoutKind>,
    ) -> (Vec<Ended>, Result<(), StoreError>) {
        let keys = self.sessions.keys();
        // Dropped here, whatever the outcome; and as a push may come too late to tell, what is held is looked at first.
        let changes = &self.sessions.0.changes;
        let held: HashMap<_, _> = page
            .iter()
            .filter_map(|key| Some((*key, self.cached.held(*key)?)))
            .collect();
        let forgets: Vec<_> = page
            .iter()
            .map(|key| self.cached.forgetting(*key, changes))
            .collect();
        let asked =
            stream::iter(page.to_vec()).map(|key| self.cached.redis.revoke(key, &keys, mark));
        let mut answers = asked.buffer_unordered(AT_ONCE);
        let (mut gone, mut outcome) = (Vec::new(), Ok(()));
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(Some(ended)) => gone.push(ended),
                Ok(None) => {}
                Err(error) => outcome = Err(error),
            }
        }
        for ended in &gone {
            self.sessions.0.seen.gone(ended.key, Gone::Revoked);
            if let (Some(_), Some(session)) = (mark, held.get(&ended.key)) {
                let orphan = Waiting::Perhaps(ended.key, Arc::clone(session));
                self.sessions.0.orphans.push(orphan);
            }
        }
        drop(forgets);
        (gone, outcome)
    }
}

impl Walk<'_> {
    /// The next page; `None` at the end. A session may come twice.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next(&mut self) -> Result<Option<Vec<RecordKey>>, StoreError> {
        let Some(cursor) = self.cursor else {
            return Ok(None);
        };
        let (next, page): Page = match self.index {
            Some(index) => self.fleet.cached.redis.members(index, cursor).await?,
            None => self.fleet.cached.redis.scan(cursor).await?,
        };
        self.cursor = next;
        Ok(Some(page))
    }

    /// Takes sessions that were ended out of their index sets, off the request's path. Members without a record stay: a
    /// login may be about to write it.
    pub fn forget(&self, gone: Vec<Ended>) {
        let sessions = self.fleet.sessions.clone();
        let index = self.index;
        if gone.is_empty() {
            return;
        }
        tokio::spawn(async move {
            let Store::Redis(cached) = &sessions.0.store else {
                return;
            };
            if let Some(index) = index {
                let keys: Vec<_> = gone.iter().map(|ended| ended.key).collect();
                let _ = cached.redis.unindex(index, &keys).await;
            }
            let mut others = Vec::new();
            for ended in &gone {
                let sets = ended.meta.iter().flat_map(IndexKey::of_meta);
                let sets = sets.filter(|set| Some(*set) != index);
                others.extend(sets.map(|set| (set, ended.key)));
            }
            for few in others.chunks(AT_ONCE) {
                let removals = few.iter().map(|(set, key)| async move {
                    // A member that stays behind goes when the session would have ended.
                    let _ = cached.redis.unindex(*set, &[*key]).await;
                });
                join_all(removals).await;
            }
        });
    }
}

/// Commands under way at once; Redis serves others between any two of them.
const AT_ONCE: usize = 32;
/// For how long after a logout a code of before it may be redeemed: as long as a code may live (RFC 6749 §4.1.2).
const LATE: Duration = Duration::from_secs(10 * 60);
const JTI: &str = "jti";
