//! Asks as a person would, and holds every answer to what that person must see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use daypass_testbed::Failure;
use daypass_testbed::client::{Call, Client, Response};
use daypass_testbed::provider::claims;
use tokio::time::sleep;

use crate::judge;
use crate::ledger::Lost;
use crate::plan::REPLICAS;
use crate::world::World;

/// A logout must be effective on all replicas within this, if they can hear of it and the machine lets them run.
pub(crate) const EFFECTIVE: Duration = Duration::from_secs(2);
/// And within this if they cannot: `session.max_staleness`.
pub(crate) const STALENESS: Duration = Duration::from_secs(3);
/// Nobody waits longer for an answer.
pub(crate) const AT_MOST: Duration = Duration::from_secs(10);

/// One session as its owner knows it.
pub(crate) struct Visit {
    /// Who signed in; another name for each visit, so that tokens tell visits apart, too.
    pub(crate) name: String,
    /// What the browser would send.
    pub(crate) cookie: String,
    /// A logout was asked for, or a later login has taken its place: both 200 and 401 are right from here.
    leaving: AtomicBool,
    /// It is known to be over.
    over: Mutex<Option<Over>>,
}

/// When somebody asked for the end of a visit, or whether it had ended, and heard that it had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Over {
    pub(crate) asked: Instant,
    pub(crate) at: Instant,
}

impl Visit {
    pub(crate) fn new(name: String, cookie: String) -> Self {
        Self {
            name,
            cookie,
            leaving: AtomicBool::new(false),
            over: Mutex::new(None),
        }
    }

    /// From here on nothing is certain: it may be over, or not.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    pub(crate) fn over(&self) -> Option<Over> {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the answer to what was asked then; gives whether it was news.
    pub(crate) fn end(&self, asked: Instant) -> bool {
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let news = over.is_none();
        let at = Instant::now();
        over.get_or_insert(Over { asked, at });
        news
    }
}

/// What a person asks with.
#[derive(Clone)]
pub(crate) struct Browser {
    world: Arc<World>,
    client: Client,
}

impl Browser {
    pub(crate) fn new(world: Arc<World>) -> Self {
        let client = Client::new();
        Self { world, client }
    }

    pub(crate) fn call(&self, visit: &Visit, path: &str, post: bool) -> Call {
        let url = format!("{}{path}", self.world.origin);
        let call = if post {
            self.client.post(url)
        } else {
            self.client.get(url)
        };
        call.without_cookies()
            .header("cookie", &visit.cookie)
            .header("x-visit", &visit.name)
            .header("sec-fetch-site", "same-origin")
            .timeout(AT_MOST)
    }

    pub(crate) async fn get(&self, visit: &Arc<Visit>, replica: usize) {
        let _ = self.ask(visit, "/orders", replica).await;
    }

    /// Sends a request for the upstream and checks the answer. Gives the status, if there was one.
    pub(crate) async fn ask(&self, visit: &Arc<Visit>, path: &str, replica: usize) -> Option<u16> {
        let (began, over) = (Instant::now(), visit.over());
        let call = self.call(visit, path, false);
        let answer = call.via(self.world.replicas[replica]).send().await;
        self.checked(visit, replica, began, over, &answer)?;
        let answer = answer.ok()?;
        if answer.status == 200 {
            // `[4]` as the user sees it.
            let body = answer.json();
            let headers = body["headers"].as_array().into_iter().flatten();
            let token = headers
                .filter(|line| line[0] == "authorization")
                .find_map(|line| line[1].as_str()?.strip_prefix("Bearer "));
            let subject = token.and_then(claims);
            let subject = subject.as_ref().and_then(|claims| claims["sub"].as_str());
            if subject != Some(&format!("user-{}", visit.name)) {
                let what = format!("{} was served as {subject:?}", visit.name);
                self.world
                    .violated("4: no token goes to the wrong user", &what);
            }
        }
        Some(answer.status)
    }

    /// What must hold for every answer. Gives the status, if there was one.
    fn checked(
        &self,
        visit: &Arc<Visit>,
        replica: usize,
        began: Instant,
        over: Option<Over>,
        answer: &Result<Response, Failure>,
    ) -> Option<u16> {
        let (world, name) = (&self.world, &visit.name);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                world.count("answers: none");
                let mut ledger = world.ledger();
                if !ledger.silent(replica, began, Instant::now()) {
                    let what = format!("replica {replica} gave {name} no answer: {error}");
                    ledger.violated("5: every request is answered", &what);
                }
                return None;
            }
        };
        world.count(&format!("answers: {}", answer.status));
        let reason = || {
            let body: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
            let reason = body.as_ref().and_then(|body| body["reason"].as_str());
            reason.unwrap_or_default().to_owned()
        };
        match answer.status {
            200..=299 => {
                if let Some(over) = over {
                    let mut ledger = world.ledger();
                    judge::served_after_the_end(&mut ledger, name, replica, over, began);
                }
            }
            401 => self.refused(visit, replica, began, &reason()),
            429 => {}
            status @ (502..=504) => {
                let documented = match status {
                    503 => ["provider_unavailable", "store_unavailable"],
                    502 => ["upstream_unavailable"; 2],
                    _ => ["upstream_timeout"; 2],
                };
                if !documented.contains(&&*reason()) {
                    let what = format!("{status} for {name}: {}", answer.text());
                    world.violated("5: errors are documented", &what);
                }
                if let Some(cookie) = answer.header("set-cookie") {
                    let cookie = cookie.split('=').next().unwrap_or_default();
                    let what = format!("{status} for {name} with Set-Cookie {cookie}");
                    world.violated("5: an outage touches no cookie", &what);
                }
            }
            status => {
                let what = format!("{status} for {name}: {}", answer.text());
                world.violated("5: errors are documented", &what);
            }
        }
        Some(answer.status)
    }

    /// `[2]` Who has not left is not sent away.
    fn refused(&self, visit: &Visit, replica: usize, began: Instant, reason: &str) {
        if visit.end(began) && !visit.leaving.load(Ordering::SeqCst) {
            self.world.count("sessions lost");
            self.world.ledger().lost.push(Lost {
                visit: visit.name.clone(),
                at: Instant::now(),
                replica,
                reason: reason.to_owned(),
            });
        }
    }

    /// Asks daypass itself about the session, or for new tokens.
    pub(crate) async fn own(&self, visit: &Arc<Visit>, replica: usize, refresh: bool) {
        let (began, over) = (Instant::now(), visit.over());
        let call = if refresh {
            self.call(visit, "/oauth2/session/refresh", true)
        } else {
            self.call(visit, "/oauth2/session", false)
        };
        let answer = call.via(self.world.replicas[replica]).send().await;
        self.checked(visit, replica, began, over, &answer);
        if let Ok(answer) = answer
            && answer.status == 200
            && answer.json()["subject"] != format!("user-{}", visit.name)
        {
            let what = format!("{} is told to be {}", visit.name, answer.json()["subject"]);
            self.world.violated("4: nobody is taken for another", &what);
        }
    }

    /// Logs out. Gives when that was asked for, if it is certain.
    pub(crate) async fn log_out(&self, visit: &Arc<Visit>, replica: usize) -> Option<Instant> {
        let (began, over) = (Instant::now(), visit.over());
        let call = self.call(visit, "/oauth2/logout/local", true);
        let answer = call.via(self.world.replicas[replica]).send().await;
        match &answer {
            Ok(answer) if answer.status == 204 => {
                self.world.count("answers: 204");
                Some(began)
            }
            _ => {
                self.checked(visit, replica, began, over, &answer);
                None
            }
        }
    }

    /// Tries the cookie of somebody who has left on every replica: at once, when nothing is promised yet, and when the
    /// promise has fallen due. The token still works at the upstream, and the copy of the cookie is as good as it was.
    pub(crate) async fn haunt(self, visit: Arc<Visit>) {
        for pause in [Duration::ZERO, EFFECTIVE + Duration::from_millis(10)] {
            sleep(pause).await;
            for replica in 0..REPLICAS {
                self.get(&visit, replica).await;
            }
        }
    }
}
