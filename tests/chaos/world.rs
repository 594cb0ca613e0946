//! Sets up the fleet and all around it, and lets the planned troubles happen to it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use daypass_testbed::breakable::Mode;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{
    Auth, CLIENT_ID, Endpoint, Fault, Login, Provider, Registration, claims, random,
};
use daypass_testbed::raw::wait_for;
use daypass_testbed::secrets;

use crate::binary;
use crate::browser::STALENESS;
use crate::judge;
use crate::ledger::{self, Happened, Ledger};
use crate::plan::{Misbehaviour, Plan, REPLICAS, Trouble};
use crate::store::Store;

/// Life of an access token.
const TOKEN_LIFE: Duration = Duration::from_secs(3);
/// How long a refresh waits for the provider.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How the provider answers when nothing is wrong with it: slowly enough to be caught in the middle.
const AS_USUAL: Fault = Fault::DelayAnswer(Duration::from_millis(150));
/// After this long it is known what a presentation came to.
const HINDSIGHT: Duration = Duration::from_secs(8);
/// Between two looks whether the machine stands still.
const EVERY: Duration = Duration::from_millis(10);
/// Any machine is late by so much.
const PUNCTUAL: Duration = Duration::from_millis(10);
/// Kept of each log, for whoever reads of a failure.
const LINES_KEPT: usize = 400;

/// What everybody may look at.
pub(crate) struct World {
    pub(crate) origin: String,
    pub(crate) replicas: Vec<SocketAddr>,
    ledger: Mutex<Ledger>,
    closing: AtomicBool,
}

impl World {
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the troubles are over, and with them the time to log out.
    pub(crate) fn closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    pub(crate) fn violated(&self, invariant: &str, what: &str) {
        self.ledger().violated(invariant, what);
    }

    pub(crate) fn count(&self, what: &str) {
        self.ledger().count(what);
    }
}

/// Notes when the machine stands still, for as long as anybody wants to know: on a thread that only wants to run now and then,
/// and is late for that.
fn look_for_stalls(world: Weak<World>) {
    std::thread::spawn(move || {
        let mut began = Instant::now();
        loop {
            std::thread::sleep(EVERY);
            let Some(world) = world.upgrade() else {
                return;
            };
            let (now, late) = (Instant::now(), began.elapsed().saturating_sub(EVERY));
            if late > PUNCTUAL {
                world.ledger().stalled(now, late);
            }
            began = Instant::now();
        }
    });
}

/// What breaks. Dropped in this order: the replicas go first.
pub(crate) struct Stage {
    fleet: Vec<Daypass>,
    /// Which replicas are down or frozen, by the place of the trouble in the ledger.
    held: [Option<usize>; REPLICAS],
    store: Box<dyn Store>,
    provider: Provider,
    echo: Echo,
    pub(crate) world: Arc<World>,
    /// Requests at the upstream that were looked at.
    looked_at: usize,
    /// Until when presentations were judged.
    judged: Instant,
    /// Lines taken from the logs and not yet scanned: a secret may be known only after it was (wrongly) logged.
    unscanned: Vec<String>,
}

impl Stage {
    pub(crate) fn new(store: Box<dyn Store>) -> Self {
        let provider = Provider::with(|settings| {
            settings.access_ttl = TOKEN_LIFE;
            settings.login = Login::Hint;
        });
        // A secret for each replica tells who asks.
        let client_secrets: Vec<String> = (0..REPLICAS).map(|_| random(24)).collect();
        for secret in &client_secrets {
            secrets::record("client secret", secret);
        }
        provider.register(Registration {
            client_id: CLIENT_ID.to_owned(),
            auth: Auth::AnyBasic(client_secrets.clone()),
            redirect_uris: Vec::new(),
            post_logout_redirect_uris: Vec::new(),
        });
        provider.always(Endpoint::Refresh, [AS_USUAL]);
        let echo = Echo::start();
        let setup = Setup::new(&provider, &echo.url())
            .session_key()
            .set("provider.timeout", "1s")
            .set(
                "provider.refresh_patience",
                format!("{}s", PATIENCE.as_secs()),
            )
            .set("session.refresh_before", "1s")
            .set("session.max_staleness", format!("{}s", STALENESS.as_secs()))
            .set("limits.logins_per_minute_per_ip", 100_000);
        let fleet = Daypass::fleet_of(binary(), &setup, REPLICAS, |replica, setup| {
            let setup = setup.set("provider.client_secret", &*client_secrets[replica]);
            store.configure(setup, replica)
        });
        let world = Arc::new(World {
            origin: fleet[0].url(""),
            replicas: fleet.iter().map(Daypass::public).collect(),
            ledger: Mutex::new(Ledger::new(store.watch())),
            closing: AtomicBool::new(false),
        });
        look_for_stalls(Arc::downgrade(&world));
        Self {
            fleet,
            held: [None; REPLICAS],
            store,
            provider,
            echo,
            world,
            looked_at: 0,
            judged: Instant::now(),
            unscanned: Vec::new(),
        }
    }

    /// Lets everything happen at its time. Stops early when a promise was broken.
    pub(crate) fn run(&mut self, plan: &Plan, length: Duration) {
        let began = Instant::now();
        self.world.ledger().began = began;
        // (when, begins or ends, which)
        let mut moments: Vec<(Duration, bool, usize)> = Vec::new();
        for (index, planned) in plan.0.iter().enumerate() {
            moments.push((planned.at, true, index));
            moments.push((planned.at + planned.lasts, false, index));
        }
        moments.sort_by_key(|(at, _, _)| *at);
        let mut places = vec![None; plan.0.len()];
        for (at, begins, index) in moments {
            self.wait_until(began + at);
            let trouble = plan.0[index].trouble;
            if begins && !self.broken() {
                places[index] = self.begin(trouble);
            } else if let Some(place) = places[index].take() {
                self.end(trouble, place);
            }
        }
        if !self.broken() {
            self.wait_until(began + length);
        }
        self.world.closing.store(true, Ordering::SeqCst);
    }

    fn broken(&self) -> bool {
        !self.world.ledger().violations.is_empty()
    }

    fn wait_until(&mut self, moment: Instant) {
        while !self.broken() {
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_secs(1)));
            if left > Duration::from_millis(500) {
                self.look();
            }
        }
    }

    /// Gives the place in the ledger; nothing when the replica is in trouble already, or the store has not recovered from the
    /// last one: what it acknowledged may then be in one place only.
    fn begin(&mut self, trouble: Trouble) -> Option<usize> {
        if let Trouble::Killed(replica)
        | Trouble::Frozen(replica)
        | Trouble::CutOff(replica)
        | Trouble::Slow(replica) = trouble
            && self.held[replica].is_some()
        {
            return None;
        }
        if trouble.is_of_the_store() && !self.store.is_whole() {
            self.world
                .count("troubles passed over: the store was not whole");
            return None;
        }
        // Noted before: what it does may show at once.
        let place = {
            let mut ledger = self.world.ledger();
            ledger.happened.push(Happened {
                trouble,
                from: Instant::now(),
                until: None,
            });
            ledger.count(&format!("troubles: {}", trouble.name()));
            ledger.happened.len() - 1
        };
        let (store, fleet) = (&mut self.store, &mut self.fleet);
        match trouble {
            Trouble::Killed(replica) => fleet[replica].kill(),
            Trouble::Frozen(replica) => fleet[replica].freeze(),
            Trouble::CutOff(replica) => store.way(replica, Mode::BlackHole),
            Trouble::Slow(replica) => {
                store.way(replica, Mode::Delay(Duration::from_millis(60)));
            }
            Trouble::StoreFrozen(node) => store.freeze(node),
            Trouble::StoreKilled(node) => store.kill(node),
            Trouble::SlotsMove(from, to) => store.move_slots(from, to),
            Trouble::Provider(misbehaviour) => self.misbehave(misbehaviour),
        }
        if let Some(replica) = trouble.replica() {
            self.held[replica] = Some(place);
        }
        Some(place)
    }

    fn end(&mut self, trouble: Trouble, place: usize) {
        let (store, fleet) = (&mut self.store, &mut self.fleet);
        match trouble {
            Trouble::Killed(replica) => fleet[replica].restart(),
            Trouble::Frozen(replica) => fleet[replica].thaw(),
            Trouble::CutOff(replica) | Trouble::Slow(replica) => store.way(replica, Mode::Pass),
            Trouble::StoreFrozen(node) => store.thaw(node),
            Trouble::StoreKilled(node) => store.restart(node),
            Trouble::SlotsMove(..) => store.settle_slots(),
            Trouble::Provider(_) => {
                self.provider.behave();
                self.provider.always(Endpoint::Refresh, [AS_USUAL]);
                self.provider.resume();
            }
        }
        if let Some(replica) = trouble.replica() {
            self.held[replica] = None;
        }
        self.world.ledger().happened[place].until = Some(Instant::now());
    }

    fn misbehave(&mut self, misbehaviour: Misbehaviour) {
        let provider = &mut self.provider;
        let always = |provider: &Provider, fault| provider.always(Endpoint::Refresh, [fault]);
        let times = |provider: &Provider, count, fault: &Fault| {
            for _ in 0..count {
                provider.fault(Endpoint::Refresh, fault.clone());
            }
        };
        match misbehaviour {
            Misbehaviour::Slow(time) => always(provider, Fault::DelayAnswer(time)),
            Misbehaviour::Sluggish(time) => always(provider, Fault::Delay(time)),
            Misbehaviour::Stuck => {
                always(provider, Fault::Delay(PATIENCE + Duration::from_secs(2)));
            }
            Misbehaviour::Status(status) => always(provider, Fault::status(status)),
            Misbehaviour::Limits => always(provider, Fault::RetryAfter(1)),
            Misbehaviour::CutsBefore(count) => times(provider, count, &Fault::DropBefore),
            Misbehaviour::CutsAfter(count) => times(provider, count, &Fault::DropAfter),
            Misbehaviour::CutsWithin(count) => times(provider, count, &Fault::TruncatedBody),
            Misbehaviour::Down => provider.stop(),
        }
    }

    /// Checks what can be checked at any time.
    fn look(&mut self) {
        self.look_upstream();
        self.look_at_logs();
        let known = ledger::before(Instant::now(), HINDSIGHT);
        if known > self.judged + HINDSIGHT {
            self.judge_until(known);
        }
    }

    /// `[4]` Whoever asked, it is their token that the upstream was shown.
    fn look_upstream(&mut self) {
        let (requests, all) = self.echo.since(self.looked_at);
        self.looked_at = all;
        self.echo.trim(2000);
        for request in requests {
            let Some(visit) = request.header("x-visit") else {
                continue;
            };
            let claims = request.bearer().and_then(claims);
            if let Some(jti) = claims.as_ref().and_then(|claims| claims["jti"].as_str()) {
                let mut ledger = self.world.ledger();
                ledger.served.entry(jti.to_owned()).or_insert(request.at);
            }
            let subject = claims.as_ref().and_then(|claims| claims["sub"].as_str());
            if subject != Some(&format!("user-{visit}")) {
                let what = format!("{visit} asked, and the upstream was shown {subject:?}");
                self.world
                    .violated("4: no token goes to the wrong user", &what);
            }
        }
    }

    /// `[5]` No panic and no secret in any log.
    fn look_at_logs(&mut self) {
        let fresh: Vec<String> = self
            .fleet
            .iter()
            .enumerate()
            .flat_map(|(number, replica)| {
                let lines = replica.take_lines(LINES_KEPT);
                keep(number, &lines);
                lines
            })
            .collect();
        let text = std::mem::replace(&mut self.unscanned, fresh).join("\n");
        self.scan(&text);
    }

    fn scan(&self, text: &str) {
        for leak in secrets::leaks_in(text) {
            self.world.violated("5: no secret is logged", &leak);
        }
        for line in text.lines().filter(|line| line.contains("panicked")) {
            self.world.violated("5: nothing panics", line);
        }
    }

    /// Judges what was shown and lost until then.
    fn judge_until(&mut self, until: Instant) {
        let journal = self.provider.journal();
        let mut ledger = self.world.ledger();
        let shown = u64::try_from(journal.len()).unwrap_or(u64::MAX);
        ledger
            .counts
            .insert("refresh tokens shown".to_owned(), shown);
        judge::presentations(&journal, &mut ledger, self.judged, until);
        judge::losses(&journal, &mut ledger, until);
        self.judged = until;
    }

    /// Judges the rest. Everything has come to rest.
    pub(crate) fn judge(&mut self) {
        // Or else logouts count by chance: what nobody hears of is believed for a while.
        for (number, replica) in self.fleet.iter().enumerate() {
            let tracks = || replica.metric("daypass_session_cache_tracking", &[]) > 0.5;
            if wait_for(Duration::from_secs(20), || tracks().then_some(())).is_none() {
                let what = format!("replica {number} hears of no changes when all is well again");
                self.world.violated("3: changes are heard of", &what);
            }
        }
        self.look();
        let text = std::mem::take(&mut self.unscanned).join("\n");
        self.scan(&text);
        for (number, replica) in self.fleet.iter().enumerate() {
            keep(number, &replica.lines());
            self.scan(&replica.log());
        }
        let dump = String::from_utf8_lossy(&self.store.dump()).into_owned();
        for leak in secrets::leaks_in(&dump) {
            self.world
                .violated("5: no secret is stored in the clear", &leak);
        }
        self.judge_until(Instant::now());
        let mut ledger = self.world.ledger();
        let failovers = ledger.watch().failovers();
        let failovers = u64::try_from(failovers).unwrap_or(u64::MAX);
        ledger.counts.insert("failovers".to_owned(), failovers);
    }
}

/// Adds lines of a replica's log to a file in the folder that `CHAOS_LOGS` names, for whoever wants to know what it did.
fn keep(replica: usize, lines: &[String]) {
    let Some(folder) = std::env::var_os("CHAOS_LOGS") else {
        return;
    };
    let path = std::path::Path::new(&folder).join(format!("replica-{replica}.log"));
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path);
    let written = file.and_then(|mut file| writeln!(file, "{}", lines.join("\n")));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

impl Trouble {
    /// The replica it befalls.
    pub(crate) fn replica(self) -> Option<usize> {
        match self {
            Self::Killed(r) | Self::Frozen(r) | Self::CutOff(r) | Self::Slow(r) => Some(r),
            _ => None,
        }
    }

    fn is_of_the_store(self) -> bool {
        matches!(
            self,
            Self::StoreFrozen(_) | Self::StoreKilled(_) | Self::SlotsMove(..)
        )
    }

    /// Its kind.
    fn name(self) -> String {
        let text = match self {
            Self::Provider(misbehaviour) => format!("{misbehaviour:?}"),
            other => format!("{other:?}"),
        };
        text.split('(').next().unwrap_or_default().to_owned()
    }
}
