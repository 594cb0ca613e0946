//! Signs in, in every way that works and every way that must not.

mod cookies;
mod foreign;
mod hygiene;
mod limits;
mod refusals;
mod several;
mod tabs;
mod targets;
mod ways;

use daypass_testbed::client::{Call, Client, Response};
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{Endpoint, Provider};
use url::Url;

use crate::BINARY;

/// What a login takes. Dropped in this order, so that daypass is looked at while the others still run.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) daypass: Daypass,
    pub(crate) provider: Provider,
    pub(crate) echo: Echo,
}

impl Stage {
    /// One provider, the memory store, `/public` open and all else behind the session.
    pub(crate) fn new() -> Self {
        Self::with(Provider::start(), |setup| setup)
    }

    /// As [`Stage::new`] with something changed.
    pub(crate) fn with(provider: Provider, change: impl FnOnce(Setup) -> Setup) -> Self {
        let echo = Echo::start();
        // Tables log in far more often than people do.
        let setup = Setup::new(&provider, &echo.url()).set("limits.logins_per_minute_per_ip", 9999);
        let daypass = Daypass::ready(BINARY, change(setup));
        Self {
            daypass,
            provider,
            echo,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        self.daypass.url(path)
    }

    /// A browser that is signed in; what led there is forgotten.
    pub(crate) async fn signed_in(&self) -> Client {
        let client = Client::new();
        self.sign_in(&client).await;
        self.provider.forget_requests();
        self.echo.forget();
        client
    }

    /// Signs a browser in.
    pub(crate) async fn sign_in(&self, client: &Client) {
        let page = client.browse(self.url("/hello")).await.expect("a login");
        assert_eq!(page.status, 200, "{}", brief(&page));
        assert!(client.jar().find(SESSION).is_some());
    }

    /// Starts a login and lets the provider answer: the callback's address, not yet opened.
    pub(crate) async fn callback(&self, client: &Client) -> String {
        self.callback_of(client, "/oauth2/login?redirect=%2Fafter")
            .await
    }

    /// As [`Stage::callback`], starting at `path`.
    pub(crate) async fn callback_of(&self, client: &Client, path: &str) -> String {
        let started = go(client.navigate(self.url(path))).await;
        let to_provider = started.location().expect("to the provider");
        let answered = go(client.navigate(to_provider)).await;
        let callback = answered.location().expect("back from the provider");
        assert!(
            callback.starts_with(&self.url("/oauth2/callback")),
            "{callback}"
        );
        callback
    }

    /// Whether the upstream lets this browser in, without a login.
    pub(crate) async fn knows(&self, client: &Client) -> bool {
        let before = self.echo.count();
        let answer = go(client.get(self.url("/private"))).await;
        let known = self.echo.count() == before + 1;
        assert_eq!(answer.status, if known { 200 } else { 401 });
        known
    }

    /// A counter, in words: counters are whole numbers in floating point.
    pub(crate) fn counted(&self, name: &str, labels: &[(&str, &str)]) -> String {
        self.daypass.metric(name, labels).to_string()
    }

    /// Asserts that nobody was let in, and no code was redeemed.
    #[track_caller]
    pub(crate) fn nothing_redeemed(&self, row: &str) {
        assert_eq!(self.provider.count(Endpoint::Token), 0, "{row}");
        assert_eq!(self.echo.count(), 0, "{row}");
    }
}

/// The session cookie on plain http.
pub(crate) const SESSION: &str = "daypass";

/// Sends it.
pub(crate) async fn go(call: Call) -> Response {
    call.send().await.expect("an answer")
}

/// A parameter of a URL's query.
pub(crate) fn parameter(url: &str, name: &str) -> Option<String> {
    let url = Url::parse(url).expect("a URL");
    let mut pairs = url.query_pairs();
    pairs
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// The URL with a parameter's value replaced; `None` takes it out.
pub(crate) fn replaced(url: &str, name: &str, value: Option<&str>) -> String {
    let mut url = Url::parse(url).expect("a URL");
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    url.query_pairs_mut().clear();
    for (key, old) in &pairs {
        match (key == name, value) {
            (true, None) => {}
            (true, Some(new)) => {
                url.query_pairs_mut().append_pair(key, new);
            }
            (false, _) => {
                url.query_pairs_mut().append_pair(key, old);
            }
        }
    }
    url.into()
}

/// What a failing test prints of an answer.
pub(crate) fn brief(answer: &Response) -> String {
    let text = answer.text();
    let title = text
        .split("<title>")
        .nth(1)
        .and_then(|rest| rest.split("</title>").next());
    let shown: String = title.unwrap_or(&text).chars().take(400).collect();
    format!("{} {shown}", answer.status)
}

/// Whether the answer sets a session cookie (clearing it does not count).
pub(crate) fn sets_session(answer: &Response) -> bool {
    let lines = answer.header_all("set-cookie");
    lines.iter().any(|line| {
        let pair = line.split(';').next().unwrap_or_default();
        let (name, value) = pair.split_once('=').unwrap_or_default();
        name.ends_with(SESSION) && !value.is_empty()
    })
}
