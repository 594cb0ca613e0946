//! Sets up provider, Redis, upstream and replicas for a fault, and signs people in whose token is about to run out.

use std::collections::BTreeSet;
use std::time::Duration;

use daypass_testbed::client::{Call, Client, Response};
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{Endpoint, Fault, Provider, Settings};
use daypass_testbed::raw::wait_for;
use daypass_testbed::redis::Redis;
use futures_util::future::join_all;
use serde_json::json;

use crate::BINARY;

/// Longest wait for what must happen soon, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// Life of a token that is to be expired when it is first shown.
const A_MOMENT: Duration = Duration::from_millis(100);

/// Everything around one fleet. Dropped in this order: the replicas go first.
pub(crate) struct Rig {
    pub(crate) fleet: Vec<Daypass>,
    pub(crate) redis: Redis,
    pub(crate) provider: Provider,
    pub(crate) echo: Echo,
}

/// Someone who signed in.
pub(crate) struct Person {
    pub(crate) client: Client,
    /// Key of the session's record.
    pub(crate) record: String,
    /// Everything secret the provider had handed out by then: what is not in it came from a refresh.
    before: BTreeSet<String>,
}

impl Rig {
    /// Three replicas.
    pub(crate) fn new() -> Self {
        Self::with(3, |_| {}, |setup| setup)
    }

    /// So many replicas, with another provider or configuration.
    pub(crate) fn with(
        replicas: usize,
        settings: impl FnOnce(&mut Settings),
        setup: impl FnOnce(Setup) -> Setup,
    ) -> Self {
        let (provider, echo) = (Provider::with(settings), Echo::start());
        // What Redis acknowledged must be there after a restart.
        let redis = Redis::persistent();
        let setup = setup(Setup::new(&provider, &echo.url()).redis(&redis));
        Self {
            fleet: Daypass::fleet(BINARY, &setup, replicas),
            redis,
            provider,
            echo,
        }
    }

    /// Signs in; the token lives for as long as the provider says.
    pub(crate) async fn sign_in(&self) -> Person {
        let already: BTreeSet<String> = self.records().into_iter().collect();
        let client = Client::new();
        // Ends on a public page: nothing has been forwarded with the token yet.
        let login = self.fleet[0].url("/oauth2/login?redirect=/public/in");
        let page = client.browse(login).await.expect("the way in");
        assert_eq!(page.status, 200, "{}", page.text());
        let mut fresh = self
            .records()
            .into_iter()
            .filter(|key| !already.contains(key));
        Person {
            client,
            record: fresh.next().expect("a record for the session"),
            before: self.provider.issued_secrets().into_iter().collect(),
        }
    }

    /// Signs in with a token of this life.
    pub(crate) async fn sign_in_for(&self, life: Duration) -> Person {
        let life = json!({"expires_in": life.as_secs_f64()});
        self.provider.fault(Endpoint::Token, Fault::Answer(life));
        self.sign_in().await
    }

    /// Signs in, with a token that has expired by now.
    pub(crate) async fn expired(&self) -> Person {
        let person = self.sign_in_for(A_MOMENT).await;
        // It was issued before the login was through.
        tokio::time::sleep(A_MOMENT).await;
        person
    }

    /// So many people of that kind.
    pub(crate) async fn all_expired(&self, count: usize) -> Vec<Person> {
        let mut people = Vec::new();
        for _ in 0..count {
            people.push(self.sign_in_for(A_MOMENT).await);
        }
        tokio::time::sleep(A_MOMENT).await;
        people
    }

    /// An API request to one replica.
    pub(crate) fn call(&self, person: &Person, replica: usize, path: &str) -> Call {
        let call = person.client.get(self.fleet[0].url(path));
        call.via(self.fleet[replica].public())
    }

    /// As [`Rig::call`], sent.
    pub(crate) async fn get(&self, person: &Person, replica: usize) -> Response {
        let sent = self.call(person, replica, "/orders").send().await;
        sent.expect("an answer")
    }

    /// What `session` says on one replica; also makes that replica know the session.
    pub(crate) async fn session(&self, person: &Person, replica: usize) -> Response {
        let sent = self.call(person, replica, "/oauth2/session").send().await;
        sent.expect("an answer")
    }

    /// Ends the session without visiting the provider.
    pub(crate) async fn log_out(&self, person: &Person, replica: usize) -> Response {
        let call = person
            .client
            .post(self.fleet[0].url("/oauth2/logout/local"));
        let call = call.header("sec-fetch-site", "same-origin");
        let sent = call.via(self.fleet[replica].public()).send().await;
        sent.expect("an answer")
    }

    /// `count` requests at once, spread over the replicas.
    pub(crate) async fn burst(&self, person: &Person, count: usize) -> Vec<Response> {
        let calls = (0..count).map(|index| self.get(person, index % self.fleet.len()));
        join_all(calls).await
    }

    /// Asks again until the answer has this status.
    pub(crate) async fn until(&self, person: &Person, replica: usize, status: u16) -> Response {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.get(person, replica).await;
            if answer.status == status {
                return answer;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "still {} and not {status}: {}",
                answer.status,
                answer.text()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Presentations of refresh tokens so far.
    pub(crate) fn calls(&self) -> usize {
        self.provider.count(Endpoint::Refresh)
    }

    /// Waits until the provider was asked so often.
    pub(crate) fn wait_for_calls(&self, count: usize) {
        let asked = self
            .provider
            .wait_for_count(Endpoint::Refresh, count, PATIENCE);
        assert!(asked, "asked {} times, not {count}", self.calls());
    }

    /// A request that makes the provider be asked, and that nobody waits for any more once it was.
    pub(crate) async fn ask_and_leave(&self, person: &Person, replica: usize) {
        let asked = self.calls();
        let asking = tokio::spawn(self.call(person, replica, "/orders").send());
        tokio::task::block_in_place(|| self.wait_for_calls(asked + 1));
        asking.abort();
        assert!(asking.await.is_err(), "there was an answer");
    }

    /// `token_refreshes_total` of all replicas.
    pub(crate) fn refreshes(&self, result: &str) -> u64 {
        self.counted("daypass_token_refreshes_total", &[("result", result)])
    }

    /// Waits until so many refreshes have ended in this way, and requires that they are no more: what is stored is
    /// counted a moment later.
    pub(crate) fn assert_refreshes(&self, result: &str, count: u64) {
        let counted = wait_for(PATIENCE, || {
            let counted = self.refreshes(result);
            (counted >= count).then_some(counted)
        });
        assert_eq!(counted, Some(count), "{result}");
    }

    /// A counter over all replicas.
    pub(crate) fn counted(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let all = self
            .fleet
            .iter()
            .map(|replica| counted(replica, name, labels));
        all.sum()
    }

    /// Keys of session records.
    pub(crate) fn records(&self) -> Vec<String> {
        let keys = self.redis.keys().into_iter();
        keys.filter(|key| key.starts_with("daypass:s:")).collect()
    }

    /// Every key but the index sets: those go off the request's path, or when their last session would have ended.
    pub(crate) fn keys(&self) -> Vec<String> {
        let keys = self.redis.keys().into_iter();
        keys.filter(|key| !key.starts_with("daypass:i:")).collect()
    }

    /// Generation of the stored session; `None` when it is gone.
    pub(crate) fn generation(&self, person: &Person) -> Option<u64> {
        let text = self.redis.command(&["HGET", &person.record, "g"]).bytes();
        String::from_utf8(text).ok()?.parse().ok()
    }

    /// Waits until a refresh of this generation is stored.
    pub(crate) fn wait_for_generation(&self, person: &Person, generation: u64) {
        let stored = wait_for(PATIENCE, || {
            (self.generation(person)? >= generation).then_some(())
        });
        assert!(stored.is_some(), "generation {:?}", self.generation(person));
    }

    /// Asks until a refresh has been stored.
    pub(crate) async fn wait_until_renewed(&self, person: &Person) {
        let known = self.generation(person);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.generation(person) == known {
            assert!(tokio::time::Instant::now() < deadline, "still {known:?}");
            self.get(person, 0).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks one replica until it shows the upstream another token than that of the login: an old one that still works is shown
    /// until the news has arrived.
    pub(crate) async fn until_shown_another(&self, person: &Person, replica: usize) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            self.echo.forget();
            self.get(person, replica).await;
            let seen = self.bearers();
            if seen.iter().any(|token| !person.before.contains(token)) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "still the old one");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Tokens the upstream saw, without the doubles; each must have been handed out.
    pub(crate) fn bearers(&self) -> BTreeSet<String> {
        let issued = self.provider.issued_secrets();
        let seen: BTreeSet<String> = self
            .echo
            .requests()
            .iter()
            .filter(|request| request.target != "/public/in")
            .map(|request| {
                request
                    .bearer()
                    .expect("a token on every request")
                    .to_owned()
            })
            .collect();
        assert!(seen.iter().all(|token| issued.contains(token)));
        seen
    }

    /// Requires that all that was forwarded since [`Echo::forget`] went with one token, which a refresh brought.
    pub(crate) fn assert_renewed(&self, person: &Person) {
        let seen = self.bearers();
        assert_eq!(seen.len(), 1, "one token for all");
        assert!(seen.iter().all(|token| !person.before.contains(token)));
    }

    /// Requires that all that was forwarded went with the token of the login.
    pub(crate) fn assert_first_token(&self, person: &Person) {
        let seen = self.bearers();
        assert_eq!(seen.len(), 1, "one token for all");
        assert!(seen.iter().all(|token| person.before.contains(token)));
    }
}

impl Person {
    /// Key of the lease on the session's refresh token.
    pub(crate) fn lease(&self) -> String {
        self.record.replace(":s:", ":l:")
    }
}

/// A counter of one replica.
pub(crate) fn counted(replica: &Daypass, name: &str, labels: &[(&str, &str)]) -> u64 {
    let value = replica.metric(name, labels);
    format!("{value:.0}").parse().expect("counters are whole")
}

/// Requires a 503 that says when to come back, and leaves the cookie alone (REFRESH-14).
pub(crate) fn assert_unavailable(answer: &Response, reason: &str, row: &str) -> u64 {
    assert_eq!(answer.status, 503, "{row}: {}", answer.text());
    assert_eq!(answer.json()["reason"], reason, "{row}");
    assert_eq!(answer.header("set-cookie"), None, "{row}");
    let wait = answer
        .header("retry-after")
        .and_then(|text| text.parse().ok());
    wait.filter(|wait| *wait >= 1)
        .unwrap_or_else(|| panic!("{row}: Retry-After {:?}", answer.header("retry-after")))
}

/// Requires a 401 with this reason.
pub(crate) fn assert_refused(answer: &Response, reason: &str, row: &str) {
    assert_eq!(answer.status, 401, "{row}: {}", answer.text());
    assert_eq!(answer.json()["reason"], reason, "{row}");
}
