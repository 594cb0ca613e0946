//! Plays the people: each signs in, works in several tabs, loses patience, logs out, and knows what it must see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use daypass_testbed::Failure;
use daypass_testbed::client::{Call, Client, Response};
use daypass_testbed::provider::claims;
use futures_util::future::join_all;
use tokio::time::sleep;

use crate::dice::Dice;
use crate::ledger::Lost;
use crate::plan::REPLICAS;
use crate::world::World;

/// A logout must be effective on all replicas within this, if they can hear of it.
const EFFECTIVE: Duration = Duration::from_secs(1);
/// And within this if they cannot: `session.max_staleness`.
const STALENESS: Duration = Duration::from_secs(0);
/// Nobody waits longer for an answer.
const AT_MOST: Duration = Duration::from_secs(10);
/// Ended visits whose cookies are tried again and again.
const REMEMBERED: usize = 5;

/// One session as its owner knows it.
struct Visit {
    /// Who signed in; another name for each visit, so that tokens tell visits apart, too.
    name: String,
    /// What the browser would send.
    cookie: String,
    /// A logout was asked for, or a later login has taken its place: both 200 and 401 are right from here.
    leaving: AtomicBool,
    /// It is known to be over.
    over: Mutex<Option<Instant>>,
}

impl Visit {
    fn over(&self) -> Option<Instant> {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives whether it was news.
    fn end(&self) -> bool {
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let news = over.is_none();
        over.get_or_insert_with(Instant::now);
        news
    }
}

/// One person.
pub(crate) struct Person {
    world: Arc<World>,
    client: Client,
    dice: Dice,
    place: usize,
    visits: usize,
    former: Vec<Arc<Visit>>,
}

impl Person {
    pub(crate) fn new(world: Arc<World>, seed: u64, place: usize) -> Self {
        Self {
            world,
            client: Client::new(),
            dice: Dice::new(seed, &format!("person {place}")),
            place,
            visits: 0,
            former: Vec::new(),
        }
    }

    /// Lives until the troubles are over, and then wants everything back within `recovery`.
    pub(crate) async fn live(mut self, recovery: Duration) {
        let mut visit = None;
        while !self.world.closing() {
            visit = match visit {
                None => self.sign_in(None).await,
                Some(visit) => self.act(visit).await,
            };
            let pause = if self.dice.percent(4) {
                // Long enough for the token to run out with nobody there to renew it.
                self.dice.time(2500, 5000)
            } else {
                self.dice.time(20, 600)
            };
            sleep(pause).await;
        }
        self.recover(visit, recovery).await;
    }

    /// One thing that people do. Gives the visit that goes on.
    async fn act(&mut self, visit: Arc<Visit>) -> Option<Arc<Visit>> {
        let replica = self.replica();
        if self.dice.percent(10)
            && let Some(former) = self.former.get(self.dice.below(REMEMBERED)).cloned()
        {
            self.get(&former, replica).await;
        }
        match self.dice.below(100) {
            0..=49 => self.get(&visit, replica).await,
            50..=69 => self.tabs(&visit).await,
            70..=79 => self.hang_up(&visit).await,
            80..=87 => self.own(&visit, false).await,
            88..=91 => self.own(&visit, true).await,
            92..=94 => return self.leave(visit).await,
            95 => return self.sign_in(Some(visit)).await,
            _ => {}
        }
        (!self.gone(&visit)).then_some(visit)
    }

    fn gone(&mut self, visit: &Arc<Visit>) -> bool {
        let gone = visit.over().is_some();
        if gone {
            self.former.insert(0, Arc::clone(visit));
            self.former.truncate(REMEMBERED);
        }
        gone
    }

    fn replica(&mut self) -> usize {
        self.dice.below(REPLICAS)
    }

    fn call(&self, visit: &Visit, path: &str, post: bool) -> Call {
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

    async fn get(&self, visit: &Arc<Visit>, replica: usize) {
        let _ = self.ask(visit, "/orders", replica).await;
    }

    /// Sends a request for the upstream and checks the answer. Gives the status, if there was one.
    async fn ask(&self, visit: &Arc<Visit>, path: &str, replica: usize) -> Option<u16> {
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
        over: Option<Instant>,
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
            200..=299 => self.served(visit, replica, began, over),
            401 => self.refused(visit, replica, &reason()),
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

    /// `[3]` Nobody is served as someone who has left.
    fn served(&self, visit: &Visit, replica: usize, began: Instant, over: Option<Instant>) {
        let Some(over) = over else { return };
        let mut ledger = self.world.ledger();
        let deaf = ledger.deaf(replica, over, began);
        let bound = EFFECTIVE + if deaf { STALENESS } else { Duration::ZERO };
        if began > over + bound {
            let what = format!(
                "{} was over at {}, and replica {replica} served it at {}",
                visit.name,
                ledger.clock(over),
                ledger.clock(began)
            );
            ledger.violated("3: what is over is over", &what);
        }
    }

    /// `[2]` Who has not left is not sent away.
    fn refused(&self, visit: &Visit, replica: usize, reason: &str) {
        if visit.end() && !visit.leaving.load(Ordering::SeqCst) {
            self.world.count("sessions lost");
            self.world.ledger().lost.push(Lost {
                visit: visit.name.clone(),
                at: Instant::now(),
                replica,
                reason: reason.to_owned(),
            });
        }
    }

    /// Several tabs at once, all over the fleet.
    async fn tabs(&mut self, visit: &Arc<Visit>) {
        let count = 2 + self.dice.below(7);
        let replicas: Vec<usize> = (0..count).map(|_| self.replica()).collect();
        let calls = replicas.into_iter().map(|replica| self.get(visit, replica));
        join_all(calls).await;
    }

    /// A browser that is closed while it waits.
    async fn hang_up(&mut self, visit: &Arc<Visit>) {
        let (replica, patience) = (self.replica(), self.dice.time(1, 120));
        let call = self.call(visit, "/orders", false).timeout(patience);
        let _ = call.via(self.world.replicas[replica]).send().await;
        self.world.count("hung up");
    }

    /// Asks daypass itself about the session, or for new tokens.
    async fn own(&mut self, visit: &Arc<Visit>, refresh: bool) {
        let replica = self.replica();
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

    /// Logs out, perhaps in the middle of other requests, until it is done.
    async fn leave(&mut self, visit: Arc<Visit>) -> Option<Arc<Visit>> {
        visit.leaving.store(true, Ordering::SeqCst);
        let (way_out, others) = (self.replica(), self.dice.below(4));
        let pause = self.dice.time(0, 30);
        let tabs = join_all((0..others).map(|replica| self.get(&visit, replica % REPLICAS)));
        let out = async {
            sleep(pause).await;
            self.log_out(&visit, way_out).await
        };
        let (_, left) = tokio::join!(tabs, out);
        if left {
            self.world.count("logged out");
            visit.end();
        }
        // Until it is told that it is out, a person asks again; with a 401 in between it is out as well.
        (!self.gone(&visit)).then_some(visit)
    }

    async fn log_out(&self, visit: &Arc<Visit>, replica: usize) -> bool {
        let (began, over) = (Instant::now(), visit.over());
        let call = self.call(visit, "/oauth2/logout/local", true);
        let answer = call.via(self.world.replicas[replica]).send().await;
        match &answer {
            Ok(answer) if answer.status == 204 => {
                self.world.count("answers: 204");
                true
            }
            _ => {
                self.checked(visit, replica, began, over, &answer);
                false
            }
        }
    }

    /// Signs in, each step on any replica. A visit that is there already is replaced if that works.
    async fn sign_in(&mut self, old: Option<Arc<Visit>>) -> Option<Arc<Visit>> {
        self.visits += 1;
        let name = format!("{}.{}", self.place, self.visits);
        let client = Client::new();
        let origin = self.world.origin.clone();
        let mut url = format!("{origin}/oauth2/login?redirect=/public/in&login_hint={name}");
        if let Some(old) = &old {
            old.leaving.store(true, Ordering::SeqCst);
        }
        for _ in 0..6 {
            let mut call = client.navigate(&url).timeout(AT_MOST);
            let replica = self.replica();
            if url.starts_with(&origin) {
                call = call.via(self.world.replicas[replica]);
                // A browser sends what it has; the jar of this login has only what came of it.
                if let Some(old) = &old
                    && url.contains("/oauth2/callback")
                {
                    let own: Vec<_> = client
                        .jar()
                        .cookies()
                        .iter()
                        .map(|cookie| format!("{}={}", cookie.name, cookie.value))
                        .collect();
                    call = call.header("cookie", format!("{}; {}", old.cookie, own.join("; ")));
                }
            }
            let Ok(answer) = call.send().await else { break };
            if matches!(answer.status, 500 | 501 | 505..) {
                let what = format!("{} at a login: {}", answer.status, answer.text());
                self.world.violated("5: errors are documented", &what);
            }
            match answer.location() {
                Some(next) => url = next,
                None => break,
            }
        }
        let cookie = client
            .jar()
            .cookies()
            .iter()
            .find(|cookie| cookie.name.ends_with("daypass"))
            .map(|cookie| format!("{}={}", cookie.name, cookie.value));
        let Some(cookie) = cookie else {
            self.world.count("logins failed");
            // Whether the old session still lives is not known: it is left alone.
            if let Some(old) = old {
                self.former.insert(0, old);
                self.former.truncate(REMEMBERED);
            }
            return None;
        };
        self.world.count("logins");
        if let Some(old) = old {
            self.former.insert(0, old);
            self.former.truncate(REMEMBERED);
        }
        Some(Arc::new(Visit {
            name,
            cookie,
            leaving: AtomicBool::new(false),
            over: Mutex::new(None),
        }))
    }

    /// `[6]` With all troubles over, everybody is served by every replica again.
    async fn recover(&mut self, mut visit: Option<Arc<Visit>>, within: Duration) {
        let deadline = Instant::now() + within;
        let mut served = [false; REPLICAS];
        while served.contains(&false) {
            if !self.world.ledger().violations.is_empty() {
                return;
            }
            if Instant::now() > deadline {
                let name = visit.map_or("who signs in".to_owned(), |visit| visit.name.clone());
                let what = format!("{name} is served by replicas {served:?}");
                self.world.violated("6: everything recovers", &what);
                return;
            }
            match &visit {
                None => {
                    served = [false; REPLICAS];
                    visit = self.sign_in(None).await;
                }
                Some(there) => {
                    for (replica, served) in served.iter_mut().enumerate() {
                        if !*served {
                            *served = self.ask(there, "/orders", replica).await == Some(200);
                        }
                    }
                    if there.over().is_some() {
                        visit = None;
                    }
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
        self.world.count("people served at the end");
    }
}
