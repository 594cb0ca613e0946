//! Sets the stage for tests of forwarding: provider, echo upstream, daypass between them, and a browser that may be signed in.

use std::time::Duration;

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::{Echo, Request};
use daypass_testbed::provider::Provider;
use daypass_testbed::raw::{self, Exchange};

use crate::BINARY;

/// Subject of the user who signs in.
pub(crate) const JANE: &str = "248289761001";

/// How long a raw exchange waits for more bytes. Every request on the stage ends its connection, so this is only for failures.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// All parts of one test.
pub(crate) struct Stage {
    pub(crate) provider: Provider,
    pub(crate) echo: Echo,
    pub(crate) daypass: Daypass,
    pub(crate) client: Client,
}

impl Stage {
    /// Nobody is signed in. `change` gets the usual setup and the upstream's URL.
    pub(crate) fn new(change: impl FnOnce(Setup, &str) -> Setup) -> Self {
        let (provider, echo) = (Provider::start(), Echo::start());
        Self::with(provider, echo, change)
    }

    /// As [`Stage::new`] with a provider and an upstream of the test's own.
    pub(crate) fn with(
        provider: Provider,
        echo: Echo,
        change: impl FnOnce(Setup, &str) -> Setup,
    ) -> Self {
        let setup = change(Setup::new(&provider, &echo.url()), &echo.url());
        let daypass = Daypass::ready(BINARY, setup);
        Self {
            provider,
            echo,
            daypass,
            client: Client::new(),
        }
    }

    /// Jane is signed in, and the upstream has forgotten how.
    pub(crate) async fn signed_in(change: impl FnOnce(Setup, &str) -> Setup) -> Self {
        let stage = Self::new(change);
        stage.sign_in().await;
        stage
    }

    /// Signs Jane in at the login endpoint.
    pub(crate) async fn sign_in(&self) {
        let page = self.client.browse(self.daypass.url("/oauth2/login")).await;
        let page = page.expect("a login");
        assert!(
            !self.cookie().is_empty(),
            "no session after the login: {} {}",
            page.status,
            page.text()
        );
        self.echo.forget();
    }

    /// `name=value` of the session cookie.
    pub(crate) fn cookie(&self) -> String {
        let jar = self.client.jar();
        let cookie = jar
            .cookies()
            .iter()
            .find(|cookie| cookie.name.ends_with("daypass"));
        cookie.map_or_else(String::new, |cookie| {
            format!("{}={}", cookie.name, cookie.value)
        })
    }

    /// Signs Jane out in another tab: this one keeps its cookie.
    pub(crate) async fn sign_out_elsewhere(&self) {
        let tab = self.client.twin();
        let out = tab.post(self.daypass.url("/oauth2/logout/local"));
        let out = out.header("sec-fetch-site", "same-origin").send().await;
        assert_eq!(out.expect("an answer").status, 204);
    }

    /// Waits until a counter or gauge has this value.
    pub(crate) fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], wanted: f64) {
        let value = || self.daypass.metric(name, labels);
        let reached = raw::wait_for(PATIENCE, || ((value() - wanted).abs() < 0.1).then_some(()));
        assert!(
            reached.is_some(),
            "{name} {labels:?}: {}, not {wanted}",
            value()
        );
    }

    /// Waits for the access log's line of a request that has this path and reason.
    pub(crate) fn wait_for_access(&self, path: &str, reason: &str) {
        let (path, reason) = (format!("\"{path}\""), format!("\"reason\":\"{reason}\""));
        let line = self
            .daypass
            .wait_for_log(&["\"request\"", &path, &reason], PATIENCE);
        assert!(line.is_some(), "no line of {path} with {reason}");
    }

    /// Sends the bytes as they are. `@HOST@` and `@COOKIE@` are filled in.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Exchange {
        raw::exchange(self.daypass.public(), &self.fill(bytes), PATIENCE)
    }

    /// A GET that ends its connection, with these extra header lines (each with its CR LF).
    pub(crate) fn raw_get(&self, target: &[u8], lines: &str) -> Exchange {
        let tail = format!(" HTTP/1.1\r\nHost: @HOST@\r\nConnection: close\r\n{lines}\r\n");
        self.raw(&[b"GET ", target, tail.as_bytes()].concat())
    }

    /// The one request that reached the upstream since last asked; `None` when there was none.
    pub(crate) fn arrived(&self, row: &str) -> Option<Request> {
        let mut requests = self.echo.requests();
        self.echo.forget();
        assert!(
            requests.len() <= 1,
            "{row}: one request became {}: {requests:?}",
            requests.len()
        );
        requests.pop()
    }

    fn fill(&self, bytes: &[u8]) -> Vec<u8> {
        let bytes = replace(bytes, b"@HOST@", self.daypass.authority().as_bytes());
        replace(&bytes, b"@COOKIE@", self.cookie().as_bytes())
    }
}

/// `haystack` with every `needle` replaced, for text that is not UTF-8.
fn replace(haystack: &[u8], needle: &[u8], with: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(haystack.len());
    let mut rest = haystack;
    while let Some(at) = rest.windows(needle.len()).position(|part| part == needle) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(with);
        rest = &rest[at + needle.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// Header names as servers alias them: what CGI, WSGI, Rack and nginx make of `-`, `_` and `.`.
pub(crate) fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

/// Fails unless the upstream saw exactly Jane's identity: one token, one of each header, and no other spelling of them.
pub(crate) fn assert_jane(row: &str, seen: &Request) {
    let token = seen.bearer().map(daypass_testbed::provider::claims);
    let claims = token
        .flatten()
        .unwrap_or_else(|| panic!("{row}: no token arrived: {seen:?}"));
    assert_eq!(claims["sub"], JANE, "{row}");
    for (name, value) in [
        ("x-user", JANE),
        ("x-name", "Jane Doe"),
        ("x-email", "jane@example.com"),
        ("x-groups", "admin,staff"),
    ] {
        assert_eq!(seen.header_all(name), [value], "{row}: {name}");
    }
    for name in ["authorization", "x-user", "x-name", "x-email", "x-groups"] {
        let alike: Vec<_> = seen
            .headers
            .iter()
            .filter(|(key, _)| folded(key) == name)
            .collect();
        assert_eq!(
            alike.len(),
            1,
            "{row}: {name} in other spellings: {alike:?}"
        );
    }
}

/// Fails if the upstream saw anything that says who somebody is.
pub(crate) fn assert_nobody(row: &str, seen: &Request) {
    for name in ["x-user", "x-name", "x-email", "x-groups"] {
        let alike: Vec<_> = seen
            .headers
            .iter()
            .filter(|(key, _)| folded(key) == name)
            .collect();
        assert!(alike.is_empty(), "{row}: {alike:?}");
    }
    let tokens = seen.header_all("authorization");
    assert!(
        tokens.iter().all(|token| !token.contains("eyJ")),
        "{row}: a token arrived"
    );
}
