//! Ends and shows sessions without their cookies: what the provider's logouts and an operator need.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join, try_join_all};
use futures_util::stream::{self, StreamExt as _};

use super::super::index::IndexKey;
use super::super::orphans::Waiting;
use super::super::redis::{Cursor, Page, Redis};
use super::super::{
    Ended, Gone, Listed, Meta, Orphan, RecordKey, Session, SessionId, StoreError, Whose,
};
use super::cached::Cached;
use super::{Sessions, Store};
use crate::claims::Claim;
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
    /// knows them: see [`next_orphan`](Self::next_orphan).
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

    /// The provider has ended these sessions as of `issued_at`: a login that was under way then makes none (LOGOUT-12).
    /// Call it before [`end_all`](Self::end_all), or one may slip through between the two.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forbid(&self, whose: Whose<'_>, issued_at: Timestamp) -> Result<(), StoreError> {
        let Some(index) = whose.index() else {
            return Ok(());
        };
        match &self.0.store {
            Store::Memory(memory) => {
                memory.told.forbid(index, self.now().plus(LATE), issued_at);
                Ok(())
            }
            Store::Redis(cached) => cached.redis.forbid(index, LATE, issued_at).await,
        }
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
    /// when somebody else waits.
    ///
    /// # Cancel safety
    /// One that is being asked for may be lost; its tokens then end by themselves.
    pub async fn next_orphan(&self) -> Option<Orphan> {
        loop {
            let (key, session) = match self.0.orphans.next().await? {
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

    /// Ends a session that was just made when its login came too late: the provider had ended it meanwhile (LOGOUT-12).
    /// Asked after the session can be found, so that a logout either sees it or is seen.
    pub(super) async fn end_if_over(
        &self,
        id: &SessionId,
        session: &Session,
    ) -> Result<(), StoreError> {
        let now = self.now();
        let over = async |index: Option<IndexKey>| match (index, &self.0.store) {
            (None, _) => Ok(None),
            (Some(index), Store::Memory(memory)) => Ok(memory.told.over(&index, now)),
            (Some(index), Store::Redis(cached)) => cached.redis.over(index).await,
        };
        let sid = session.sid.as_deref();
        let sid = sid.and_then(|sid| Whose::sid(&session.issuer, sid).index());
        let subject = Whose::subject(&session.issuer, &session.subject).index();
        let (sid, subject) = try_join(over(sid), over(subject)).await?;
        // The user may sign in again at once; a login that began before the logout is told by its ID token's age.
        let issued_at = session.claims.get("iat").and_then(Claim::as_i64);
        let late = subject.is_some_and(|end| issued_at.is_none_or(|issued_at| issued_at <= end));
        if sid.is_none() && !late {
            return Ok(());
        }
        if let Some(session) = self.delete(id).await? {
            self.0.orphans.push(Waiting::Known(Orphan {
                key: id.record_key(),
                session,
                kind: LogoutKind::BackChannel,
                uncounted: true,
            }));
        }
        Ok(())
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
/// A login that was begun before a logout may end this long after it.
const LATE: Duration = Duration::from_secs(5 * 60);
const JTI: &str = "jti";
