//! Plays the people: each signs in, works in several tabs, loses patience, logs out, and knows what it must see.

use std::sync::Arc;
use std::time::{Duration, Instant};

use daypass_testbed::client::Client;
use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::browser::{AT_MOST, Browser, Visit};
use crate::dice::Dice;
use crate::ledger::SignedIn;
use crate::plan::REPLICAS;
use crate::store::slots;
use crate::world::World;

/// Ended visits whose cookies are tried again and again.
const REMEMBERED: usize = 5;

/// One person.
pub(crate) struct Person {
    world: Arc<World>,
    browser: Browser,
    dice: Dice,
    place: usize,
    visits: usize,
    former: Vec<Arc<Visit>>,
    haunting: JoinSet<()>,
}

impl Person {
    pub(crate) fn new(world: Arc<World>, seed: u64, place: usize) -> Self {
        Self {
            browser: Browser::new(world.clone()),
            world,
            dice: Dice::new(seed, &format!("person {place}")),
            place,
            visits: 0,
            former: Vec::new(),
            haunting: JoinSet::new(),
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
        self.haunting.join_all().await;
    }

    /// One thing that people do. Gives the visit that goes on.
    async fn act(&mut self, visit: Arc<Visit>) -> Option<Arc<Visit>> {
        let replica = self.replica();
        if self.dice.percent(10)
            && let Some(former) = self.former.get(self.dice.below(REMEMBERED)).cloned()
        {
            self.browser.get(&former, replica).await;
        }
        match self.dice.below(100) {
            0..=49 => self.browser.get(&visit, replica).await,
            50..=69 => self.tabs(&visit).await,
            70..=79 => self.hang_up(&visit).await,
            80..=87 => self.browser.own(&visit, replica, false).await,
            88..=91 => self.browser.own(&visit, replica, true).await,
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

    /// Several tabs at once, all over the fleet.
    async fn tabs(&mut self, visit: &Arc<Visit>) {
        let count = 2 + self.dice.below(7);
        let replicas: Vec<usize> = (0..count).map(|_| self.replica()).collect();
        let calls = replicas
            .into_iter()
            .map(|replica| self.browser.get(visit, replica));
        join_all(calls).await;
    }

    /// A browser that is closed while it waits.
    async fn hang_up(&mut self, visit: &Arc<Visit>) {
        let (replica, patience) = (self.replica(), self.dice.time(1, 120));
        let call = self.browser.call(visit, "/orders", false).timeout(patience);
        let _ = call.via(self.world.replicas[replica]).send().await;
        self.world.count("hung up");
    }

    /// Logs out, perhaps in the middle of other requests, until it is done.
    async fn leave(&mut self, visit: Arc<Visit>) -> Option<Arc<Visit>> {
        visit.leave();
        let (way_out, others) = (self.replica(), self.dice.below(4));
        let pause = self.dice.time(0, 30);
        let tabs =
            join_all((0..others).map(|replica| self.browser.get(&visit, replica % REPLICAS)));
        let out = async {
            sleep(pause).await;
            self.browser.log_out(&visit, way_out).await
        };
        let (_, left) = tokio::join!(tabs, out);
        if let Some(asked) = left {
            self.world.count("logged out");
            visit.end(asked);
            let haunting = self.browser.clone().haunt(Arc::clone(&visit));
            self.haunting.spawn(haunting);
        }
        // Until it is told that it is out, a person asks again; with a 401 in between it is out as well.
        (!self.gone(&visit)).then_some(visit)
    }

    /// Signs in, each step on any replica. A visit that is there already is replaced if that works.
    async fn sign_in(&mut self, old: Option<Arc<Visit>>) -> Option<Arc<Visit>> {
        self.visits += 1;
        let name = format!("{}.{}", self.place, self.visits);
        let client = Client::new();
        let origin = self.world.origin.clone();
        let mut url = format!("{origin}/oauth2/login?redirect=/public/in&login_hint={name}");
        if let Some(old) = &old {
            old.leave();
        }
        let session = || {
            let jar = client.jar();
            let cookies = jar.cookies();
            let mut own = cookies
                .iter()
                .filter(|cookie| cookie.name.ends_with("daypass"));
            own.next()
                .map(|cookie| format!("{}={}", cookie.name, cookie.value))
        };
        let mut came: Option<(Instant, Instant)> = None;
        for _ in 0..6 {
            let asked = Instant::now();
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
            if session().is_some() {
                came.get_or_insert((asked, Instant::now()));
            }
            match answer.location() {
                Some(next) => url = next,
                None => break,
            }
        }
        let Some((cookie, (asked, answered))) = session().zip(came) else {
            self.world.count("logins failed");
            // Whether the old session still lives is not known: it is left alone.
            if let Some(old) = old {
                self.former.insert(0, old);
                self.former.truncate(REMEMBERED);
            }
            return None;
        };
        self.world.count("logins");
        if let Some(slot) = slots::of_cookie(&cookie) {
            let signed_in = SignedIn {
                slot,
                asked,
                answered,
            };
            self.world.ledger().visits.insert(name.clone(), signed_in);
        }
        if let Some(old) = old {
            self.former.insert(0, old);
            self.former.truncate(REMEMBERED);
        }
        Some(Arc::new(Visit::new(name, cookie)))
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
                            *served =
                                self.browser.ask(there, "/orders", replica).await == Some(200);
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
