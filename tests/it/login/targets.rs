//! Tries to make login and logout send a browser to places that are not ours.

use daypass_testbed::client::Client;
use daypass_testbed::provider::{Endpoint, Fault, Provider};
use serde_json::json;

use super::{Stage, go, sets_session};

/// One per line of the corpus. It is written for `shop.example.com`; ours here are this origin and two more.
fn corpus() -> Vec<String> {
    let lines = include_str!("../../corpus/open_redirects.txt").lines();
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("# "));
    lines
        .map(|line| serde_json::from_str(line).expect("a JSON string"))
        .collect()
}

fn stage() -> Stage {
    Stage::with(Provider::start(), |setup| {
        setup.set(
            "public_url",
            json!([
                "@PUBLIC_URL@",
                "https://admin.example.com:8443",
                "http://localhost:1"
            ]),
        )
    })
}

fn with_redirect(path: &str, target: &str) -> String {
    let query: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("redirect", target)
        .finish();
    format!("{path}?{query}")
}

/// FLOW-16, FLOW-17, REG-08
#[tokio::test(flavor = "multi_thread")]
async fn a_login_never_ends_where_the_corpus_points() {
    let stage = stage();
    let authority = stage.daypass.authority();
    let mut corpus = corpus();
    // The same tricks, with the host that is really ours here.
    let ours: Vec<String> = corpus
        .iter()
        .filter(|line| line.contains("shop.example.com"))
        .map(|line| {
            line.replace("https://shop.example.com", &format!("http://{authority}"))
                .replace("shop.example.com", &authority)
        })
        .collect();
    // These are ours once the host is.
    let plain = [format!("http://{authority}/"), format!("ws://{authority}/")];
    corpus.extend(ours.into_iter().filter(|line| *line != plain[0]));
    assert!(corpus.len() > 150);
    let newcomer = Client::new();
    let resident = stage.signed_in().await;
    for target in &corpus {
        // Before login and after: both start one.
        for client in [&newcomer, &resident] {
            let callback = stage
                .callback_of(client, &with_redirect("/oauth2/login", target))
                .await;
            let answer = go(client.navigate(callback)).await;
            assert_eq!(
                (answer.status, answer.header("location")),
                (303, Some("/")),
                "{target:?}"
            );
            assert!(sets_session(&answer));
        }
        // Nor does a login that fails offer the way there.
        stage
            .provider
            .fault(Endpoint::Authorize, Fault::oauth("access_denied"));
        let callback = stage
            .callback_of(&newcomer, &with_redirect("/oauth2/login", target))
            .await;
        let page = go(newcomer.navigate(callback)).await;
        assert_eq!(page.status, 403, "{target:?}");
        assert!(
            page.text().contains("href=\"/oauth2/login?redirect=%2F\""),
            "{target:?}: {}",
            page.text()
        );
    }
}

/// FLOW-17: nor does a logout.
#[tokio::test(flavor = "multi_thread")]
async fn a_logout_never_ends_where_the_corpus_points() {
    let stage = stage();
    let client = Client::new();
    for target in corpus() {
        let page = client
            .browse(stage.url(&with_redirect("/oauth2/logout", &target)))
            .await;
        let page = page.expect("a logout");
        assert_eq!(
            (page.status, page.url.as_str().split('?').next()),
            (200, Some(stage.url("/oauth2/logout/callback").as_str())),
            "{target:?}"
        );
        assert!(page.text().contains("signed out"), "{target:?}");
        // Another site asks: the form does not carry it.
        let call = client
            .get(stage.url(&with_redirect("/oauth2/logout", &target)))
            .header("accept", "text/html")
            .header("sec-fetch-site", "cross-site")
            .header("sec-fetch-mode", "navigate");
        let confirm = go(call).await;
        assert_eq!(confirm.status, 200, "{target:?}");
        assert!(
            !confirm.text().contains("name=\"redirect\""),
            "{target:?}: {}",
            confirm.text()
        );
        // Nor by a form.
        let call = client
            .post(stage.url("/oauth2/logout"))
            .form([("redirect", target.as_str())]);
        let answer = go(call).await;
        assert!(
            answer.location().is_some_and(
                |to| to.starts_with(&format!("{}/end-session?", stage.provider.issuer()))
            ),
            "{target:?}"
        );
        let back = go(client.navigate(answer.location().expect("to the provider"))).await;
        assert_eq!(
            go(client.navigate(back.location().expect("back")))
                .await
                .status,
            200,
            "{target:?}"
        );
    }
}

/// What must go on working.
#[tokio::test(flavor = "multi_thread")]
async fn targets_of_ours_are_kept() {
    let stage = stage();
    let client = Client::new();
    let here = stage.url("");
    let absolute = format!("{here}/orders?a=1#top");
    for (row, target, want) in [
        ("a path", "/orders", "/orders"),
        (
            "a query with odd characters",
            "/o?a=%20b&c=//evil.example&d=https://evil.example",
            "/o?a=%20b&c=//evil.example&d=https://evil.example",
        ),
        ("a fragment", "/orders#top", "/orders"),
        ("this origin", absolute.as_str(), "/orders?a=1"),
        (
            "another origin of ours",
            "https://admin.example.com:8443/x?y",
            "https://admin.example.com:8443/x?y",
        ),
        ("a path that is put in order", "/a/./b//c", "/a/b/c"),
        ("our own endpoints", "/oauth2/logout", "/"),
        (
            "our own endpoints in disguise",
            "/x/../oauth2/./logout",
            "/",
        ),
        (
            "the error page's own target",
            "/oauth2/login?redirect=/x",
            "/",
        ),
        ("too long", &format!("/{}", "x".repeat(3000)), "/"),
    ] {
        let callback = stage
            .callback_of(&client, &with_redirect("/oauth2/login", target))
            .await;
        let answer = go(client.navigate(callback)).await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (303, Some(want)),
            "{row}"
        );
    }
}
