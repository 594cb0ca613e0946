//! Signs in with two providers, and mixes them up as an attacker would (RFC 9207, RFC 9700 §4.4).

use daypass_testbed::client::{Client, Response};
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{CLIENT_ID, Endpoint, Fault, Provider};
use serde_json::json;

use super::{go, parameter, replaced, sets_session};
use crate::BINARY;

struct Two {
    daypass: Daypass,
    honest: Provider,
    other: Provider,
    echo: Echo,
}

impl Two {
    fn new(iss_parameter: bool) -> Self {
        let start = || Provider::with(|settings| settings.iss_parameter = iss_parameter);
        let (honest, other, echo) = (start(), start(), Echo::start());
        let section = |provider: &Provider| json!({"issuer": provider.issuer(), "client_id": CLIENT_ID, "client_secret": provider.client_secret()});
        let setup = Setup::new(&honest, &echo.url())
            .unset("provider")
            .set(
                "providers",
                json!({"acme": section(&honest), "other": section(&other)}),
            )
            .set("limits.logins_per_minute_per_ip", 9999)
            .route_first(
                json!({"path_prefix": "/acme", "provider": "acme", "upstream": echo.url()}),
            );
        let daypass = Daypass::ready(BINARY, setup);
        Self {
            daypass,
            honest,
            other,
            echo,
        }
    }

    /// The callback's address after a login with `provider`.
    async fn callback(&self, client: &Client, provider: &str) -> String {
        let path = format!("/oauth2/login?redirect=%2Fafter&provider={provider}");
        let started = go(client.navigate(self.daypass.url(&path))).await;
        let answered = go(client.navigate(started.location().expect("to the provider"))).await;
        answered.location().expect("back")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_lets_the_user_choose() {
    let two = Two::new(true);
    for path in ["/hello?a=1", "/oauth2/login?redirect=%2Fhello%3Fa%3D1"] {
        let client = Client::new();
        let page = go(client.navigate(two.daypass.url(path))).await;
        assert_eq!((page.status, page.location()), (200, None), "{path}");
        assert!(
            page.header_all("set-cookie").is_empty(),
            "{path}: nothing has begun"
        );
        for provider in ["acme", "other"] {
            let href = format!("/oauth2/login?redirect=%2Fhello%3Fa%3D1&#38;provider={provider}");
            assert!(
                page.text().contains(&format!("href=\"{href}\"")),
                "{path}: {}",
                page.text()
            );
            let page = client
                .browse(two.daypass.url(&href.replace("&#38;", "&")))
                .await
                .expect("a login");
            assert_eq!(
                (page.status, page.url.as_str()),
                (200, two.daypass.url("/hello?a=1").as_str())
            );
            let told = go(client.get(two.daypass.url("/oauth2/session")))
                .await
                .json();
            assert_eq!(told["provider"], provider, "{path}");
        }
    }
    let sent = &two.honest.requests(Endpoint::Authorize)[0];
    assert_eq!(
        sent.param("redirect_uri"),
        Some(two.daypass.url("/oauth2/callback/acme").as_str())
    );
    // A route may name one: no question then.
    let page = Client::new()
        .browse(two.daypass.url("/acme/x"))
        .await
        .expect("a login");
    assert_eq!(page.status, 200);
    for name in ["nobody", "", "ACME", "../acme"] {
        let call =
            Client::new().navigate(two.daypass.url(&format!("/oauth2/login?provider={name}")));
        let answer = go(call).await;
        assert_eq!((answer.status, answer.location()), (404, None), "{name}");
    }
}

/// A session by one provider opens no route of another.
/// What was asked of the login is asked of it again, whichever page lies in between.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_outlives_the_chooser_and_a_failure() {
    let mut two = Two::new(true);
    let client = Client::new();
    let asked = "prompt=login&login_hint=jane%40example.com&acr_values=gold&ui_locales=nb&max_age=60&redirect=%2Fafter";
    let values = |url: &str| {
        [
            "prompt",
            "login_hint",
            "acr_values",
            "ui_locales",
            "max_age",
        ]
        .map(|name| parameter(url, name).unwrap_or_default())
    };
    let want = ["login", "jane@example.com", "gold", "nb", "60"];
    let base = two.daypass.url("");
    let link = |page: &Response, name: &str| {
        let text = page.text().replace("&#38;", "&");
        let links = text.split("href=\"").skip(1);
        let mut links = links.filter_map(|rest| rest.split('"').next());
        let found = links.find(|href| href.contains(name));
        let found = found.unwrap_or_else(|| panic!("{name}: {text}"));
        format!("{base}{found}")
    };
    let chooser = go(client.navigate(two.daypass.url(&format!("/oauth2/login?{asked}")))).await;
    let chosen = link(&chooser, "provider=acme");
    let started = go(client.navigate(&chosen)).await;
    let to_provider = started.location().expect("to the provider");
    assert_eq!(values(&to_provider), want, "after the chooser");
    two.honest
        .fault(Endpoint::Authorize, Fault::oauth("access_denied"));
    let refused = client.browse(&to_provider).await.expect("a page");
    assert_eq!(refused.status, 403);
    // It may have been the wrong one: there is a choice again.
    let again = link(&refused, "/oauth2/login");
    let chooser = go(client.navigate(&again)).await;
    let started = go(client.navigate(link(&chooser, "provider=acme"))).await;
    let to_provider = started.location().expect("to the provider");
    assert_eq!(values(&to_provider), want, "after a refusal");

    // A provider that cannot be asked at all.
    two.honest.stop();
    two.daypass.restart();
    // Connections to the process before are dead.
    let client = client.twin();
    let url = two
        .daypass
        .url(&format!("/oauth2/login?provider=acme&{asked}"));
    let down = go(client.navigate(url)).await;
    assert_eq!(down.status, 503);
    let again = link(&down, "/oauth2/login");
    assert_eq!(values(&again), want, "after an outage");
    assert_eq!(parameter(&again, "redirect").as_deref(), Some("/after"));
    // A provider that may not ask anything has had its try.
    let silent = two.daypass.url("/oauth2/login?provider=acme&prompt=none");
    let again = link(&go(client.navigate(silent)).await, "/oauth2/login");
    assert_eq!(parameter(&again, "prompt"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_names_a_provider_wants_its_sessions() {
    let two = Two::new(true);
    let client = Client::new();
    let callback = two.callback(&client, "other").await;
    assert!(sets_session(&go(client.navigate(callback)).await));
    assert_eq!(go(client.get(two.daypass.url("/hello"))).await.status, 200);
    two.echo.forget();
    assert_eq!(go(client.get(two.daypass.url("/acme/x"))).await.status, 401);
    let started = go(client.navigate(two.daypass.url("/acme/x"))).await;
    assert!(
        started
            .location()
            .is_some_and(|to| to.starts_with(&two.honest.issuer()))
    );
    assert_eq!(two.echo.count(), 0);
}

/// FLOW-09, FLOW-10, FLOW-11
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_by_one_provider_is_not_taken_for_anothers() {
    type Mix = fn(&Two, &str, &str) -> String;
    let rows: [(&str, bool, Mix); 7] = [
        ("at the other's callback", true, |_, acme, _| {
            acme.replace("/callback/acme", "/callback/other")
        }),
        (
            "at the other's callback, without iss",
            false,
            |_, acme, _| acme.replace("/callback/acme", "/callback/other"),
        ),
        ("at a callback that names nobody", true, |_, acme, _| {
            acme.replace("/callback/acme", "/callback")
        }),
        (
            "at a callback of a provider that does not exist",
            true,
            |_, acme, _| acme.replace("/callback/acme", "/callback/third"),
        ),
        ("the other's issuer", true, |two, acme, _| {
            replaced(acme, "iss", Some(&two.other.issuer()))
        }),
        (
            "the other's state and the honest code",
            true,
            |_, acme, other| replaced(acme, "state", parameter(other, "state").as_deref()),
        ),
        (
            "the other's state and the honest code, without iss",
            false,
            |_, acme, other| replaced(acme, "state", parameter(other, "state").as_deref()),
        ),
    ];
    for (row, iss, mix) in rows {
        let two = Two::new(iss);
        let client = Client::new();
        let (acme, other) = (
            two.callback(&client, "acme").await,
            two.callback(&client, "other").await,
        );
        let answer = go(client.navigate(mix(&two, &acme, &other))).await;
        assert_eq!(
            (answer.status, answer.location()),
            (400, None),
            "{row}: {}",
            answer.text()
        );
        assert!(!sets_session(&answer), "{row}");
        for provider in [&two.honest, &two.other] {
            assert_eq!(
                provider.count(Endpoint::Token),
                0,
                "{row}: the code went nowhere"
            );
        }
    }
}

/// RFC 9700 §4.4: the code and everything else goes to the provider that the login was for, and only there.
#[tokio::test(flavor = "multi_thread")]
async fn each_provider_hears_of_its_own_logins_only() {
    let two = Two::new(true);
    let client = Client::new();
    let callback = two.callback(&client, "acme").await;
    assert!(sets_session(&go(client.navigate(callback)).await));
    go(client.get(two.daypass.url("/hello"))).await;
    let out = go(client.navigate(two.daypass.url("/oauth2/logout"))).await;
    assert!(
        out.location()
            .is_some_and(|to| to.starts_with(&two.honest.issuer()))
    );
    assert!(
        two.honest
            .wait_for_count(Endpoint::Revoke, 1, std::time::Duration::from_secs(5))
    );
    for endpoint in [
        Endpoint::Authorize,
        Endpoint::Token,
        Endpoint::Revoke,
        Endpoint::EndSession,
        Endpoint::UserInfo,
    ] {
        assert_eq!(two.other.count(endpoint), 0, "{endpoint:?}");
    }
    // Signed out, with two to choose from: which one should be visited nobody knows.
    let again = go(client.navigate(two.daypass.url("/oauth2/logout"))).await;
    assert_eq!((again.status, again.location()), (200, None));
}
