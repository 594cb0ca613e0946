//! Looks at our cookies as a browser does.

use daypass_testbed::client::{Client, Cookie};
use daypass_testbed::pki::Authority;
use daypass_testbed::provider::Provider;
use serde_json::json;

use super::{Stage, go};

fn attributes(cookie: &Cookie) -> Vec<String> {
    let parts = cookie.line.split(';').skip(1);
    let mut parts: Vec<_> = parts.map(|part| part.trim().to_ascii_lowercase()).collect();
    parts.sort();
    parts
}

/// COOKIE-01, COOKIE-02, COOKIE-04, COOKIE-05: on plain http on loopback.
#[tokio::test(flavor = "multi_thread")]
async fn cookies_on_plain_http() {
    for (row, same_site, session, login) in [
        ("lax", "lax", "samesite=lax", "samesite=lax"),
        ("strict", "strict", "samesite=strict", "samesite=lax"),
    ] {
        let stage = Stage::with(Provider::start(), |setup| {
            setup.set("session.cookie.same_site", same_site)
        });
        let client = Client::new();
        let callback = stage.callback(&client).await;
        go(client.navigate(callback)).await;
        let jar = client.jar();
        assert!(jar.refused().is_empty(), "{row}: {:?}", jar.refused());
        assert_eq!(jar.cookies().len(), 2, "{row}");
        let cookie = jar.find("daypass").expect("a session");
        assert_eq!(attributes(cookie), ["httponly", "path=/", session], "{row}");
        assert!(cookie.line.len() < 200, "{row}");
        let cookie = jar
            .cookies()
            .iter()
            .find(|cookie| cookie.name != "daypass")
            .expect("a login cookie");
        assert_eq!(
            attributes(cookie),
            ["httponly", "max-age=900", "path=/", login],
            "{row}"
        );
        assert!(cookie.line.len() < 512, "{row}");
    }
}

/// COOKIE-01..04: on https; whatever the provider's tokens weigh.
#[tokio::test(flavor = "multi_thread")]
async fn cookies_on_https() {
    let authority = Authority::new();
    let certificate = authority.issue(&["localhost", "127.0.0.1"]);
    for (row, same_site, name, domain) in [
        ("lax", "lax", "__Host-daypass", None),
        ("strict", "strict", "__Host-daypass", None),
        ("none", "none", "__Host-daypass", None),
        ("a domain", "lax", "__Secure-daypass", Some("localhost")),
    ] {
        let provider =
            Provider::with(|settings| settings.access_claims = json!({"much": "x".repeat(5000)}));
        let stage = Stage::with(provider, |setup| {
            let setup = setup
                .tls(&certificate)
                .set("session.cookie.same_site", same_site);
            match domain {
                Some(domain) => setup.set("session.cookie.domain", domain),
                None => setup,
            }
        });
        let client = Client::trusting(&authority.pem);
        let ours = |path: &str| client.navigate(stage.url(path));
        let started = go(ours("/hello")).await;
        let answered = go(client.navigate(started.location().expect("to the provider"))).await;
        let callback = answered.location().expect("back");
        let finished = go(client.navigate(callback)).await;
        assert!(super::sets_session(&finished), "{row}: {}", finished.text());
        {
            let jar = client.jar();
            assert!(jar.refused().is_empty(), "{row}: {:?}", jar.refused());
            let session = jar
                .find(name)
                .unwrap_or_else(|| panic!("{row}: {:?}", jar.cookies()));
            let mut want = vec![
                "httponly".to_owned(),
                "path=/".to_owned(),
                format!("samesite={same_site}"),
                "secure".to_owned(),
            ];
            if let Some(domain) = domain {
                want.insert(0, format!("domain={domain}"));
            }
            assert_eq!(attributes(session), want, "{row}");
            assert!(session.line.len() < 200, "{row}");
            let login = jar
                .cookies()
                .iter()
                .find(|cookie| cookie.name != name)
                .expect("a login cookie");
            // It stays on this host, whatever the domain of the session.
            assert!(login.name.starts_with("__Host-"), "{row}: {}", login.name);
            let lax = if same_site == "none" {
                "samesite=none"
            } else {
                "samesite=lax"
            };
            assert_eq!(
                attributes(login),
                ["httponly", "max-age=900", "path=/", lax, "secure"],
                "{row}"
            );
        }
        assert_eq!(go(ours("/hello")).await.status, 200, "{row}");
        // Cleared with the attributes it was set with, or browsers would keep it.
        let out = go(client.post(stage.url("/oauth2/logout/local"))).await;
        assert_eq!(out.status, 204, "{row}");
        let line = &out.header_all("set-cookie")[0];
        assert!(
            line.starts_with(&format!("{name}=;")) && line.contains("Max-Age=0"),
            "{row}: {line}"
        );
        assert_eq!(
            line.contains("Domain=localhost"),
            domain.is_some(),
            "{row}: {line}"
        );
        assert!(client.jar().find(name).is_none(), "{row}");
        assert!(
            client.jar().refused().is_empty(),
            "{row}: {:?}",
            client.jar().refused()
        );
    }
}

/// COOKIE-03: the way back from the provider counts as cross-site, so a browser would hold a strict cookie back from
/// where a redirect leads: the login would never end.
#[tokio::test(flavor = "multi_thread")]
async fn a_strict_cookie_is_there_on_the_page_after_the_login() {
    let stage = Stage::with(Provider::start(), |setup| {
        setup.set("session.cookie.same_site", "strict")
    });
    let client = Client::new();
    let callback = stage
        .callback_of(&client, "/orders?a=1&b=%22%3E%3Cscript%3E")
        .await;
    let answer = go(client.navigate(&callback)).await;
    assert_eq!(
        answer.status, 200,
        "a page of ours, which starts the next navigation itself"
    );
    assert!(super::sets_session(&answer));
    let text = answer.text();
    assert!(
        text.contains(
            "<meta http-equiv=\"refresh\" content=\"0;url=/orders?a=1&#38;b=%22%3E%3Cscript%3E\">"
        ),
        "{text}"
    );
    assert!(
        text.contains("<a class=\"button primary\" href=\"/orders?a=1&#38;b=%22%3E%3Cscript%3E\""),
        "{text}"
    );
    assert!(!text.contains("<script"), "{text}");
    assert!(stage.knows(&client).await);
    // Opened again from the history, it leads on again.
    let again = go(client.navigate(callback)).await;
    assert_eq!((again.status, again.header("location")), (200, None));
    assert!(again.text().contains("content=\"0;url=/orders?"));
}
