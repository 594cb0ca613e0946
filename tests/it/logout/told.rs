//! Lets the provider end sessions, from server to server and in a frame, with good messages and bad ones.

use daypass_testbed::client::{Call, Client, Response};
use daypass_testbed::provider::{Endpoint, Fault, Provider, Signing};
use daypass_testbed::raw::wait_for;
use serde_json::{Value, json};

use super::{PATIENCE, clears};
use crate::login::{SESSION, Stage, brief, go};

const BACK_CHANNEL: &str = "/oauth2/logout/backchannel";
const JANE: &str = "248289761001";

async fn send(stage: &Stage, token: &str) -> Response {
    let to = stage.url(BACK_CHANNEL);
    let sent = stage
        .provider
        .send_logout_token(&to, stage.daypass.public(), token);
    sent.await.expect("an answer")
}

/// LOGOUT-10: what the answer to a bad message looks like.
#[track_caller]
fn assert_refused(answer: &Response, row: &str) {
    assert_eq!(answer.status, 400, "{row}: {}", brief(answer));
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{row}");
    assert_eq!(
        answer.header("content-type"),
        Some("application/json"),
        "{row}"
    );
    let told = answer.json();
    assert_eq!(told["error"], "invalid_request", "{row}");
    assert!(told["error_description"].is_string(), "{row}");
    assert!(answer.header_all("set-cookie").is_empty(), "{row}");
}

/// LOGOUT-06, LOGOUT-07, LOGOUT-10, JWT-05
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_breaks_a_rule_ends_nothing() {
    let stage = Stage::new();
    let client = stage.signed_in().await;
    let sid = stage.provider.latest_sid();
    let now = time(&stage.provider);
    let good = json!({"sid": sid, "sub": JANE});
    let rows: [(&str, Value, Vec<Fault>); 20] = [
        (
            "another issuer",
            json!({"iss": "https://evil.example"}),
            vec![],
        ),
        ("no issuer", json!({"iss": null}), vec![]),
        ("another audience", json!({"aud": "other"}), vec![]),
        ("no audience", json!({"aud": null}), vec![]),
        ("no iat", json!({"iat": null}), vec![]),
        (
            "from the future",
            json!({"iat": now + 300, "exp": now + 400}),
            vec![],
        ),
        ("no exp", json!({"exp": null}), vec![]),
        (
            "expired",
            json!({"iat": now - 400, "exp": now - 300}),
            vec![],
        ),
        ("too old", json!({"iat": now - 900}), vec![]),
        ("no jti", json!({"jti": null}), vec![]),
        ("no events", json!({"events": null}), vec![]),
        (
            "another event",
            json!({"events": {"urn:other": {}}}),
            vec![],
        ),
        (
            "event no object",
            json!({"events": {"http://schemas.openid.net/event/backchannel-logout": true}}),
            vec![],
        ),
        ("nobody named", json!({"sub": null, "sid": null}), vec![]),
        ("a nonce", json!({"nonce": "n"}), vec![]),
        ("alg none", json!({}), vec![Fault::AlgNone]),
        ("a bad signature", json!({}), vec![Fault::BadSignature]),
        ("an unknown key", json!({}), vec![Fault::UnknownKey]),
        (
            "keyed with the public key",
            json!({}),
            vec![Fault::HmacWithPublicKey],
        ),
        (
            "another type",
            json!({}),
            vec![Fault::Header(json!({"typ": "at+jwt"}))],
        ),
    ];
    for (row, change, faults) in rows {
        let mut claims = good.clone();
        for (name, value) in change.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        let token = stage.provider.logout_token(&claims, &faults);
        assert_refused(&send(&stage, &token).await, row);
        assert!(stage.knows(&client).await, "{row}");
    }
    // An ID token names the session, too, and is no logout token.
    let out = go(client.twin().navigate(stage.url("/oauth2/logout/local"))).await;
    assert_eq!(out.status, 405);
    let id_token = json!({"sub": JANE, "sid": sid, "nonce": "n", "events": null, "jti": null});
    let id_token = stage.provider.logout_token(&id_token, &[]);
    assert_refused(&send(&stage, &id_token).await, "an ID token");

    assert_eq!(stage.counted("daypass_logouts_total", &[]), "0");
    assert_eq!(stage.provider.count(Endpoint::Revoke), 0);
    let refused = stage
        .daypass
        .wait_for_log(&["back-channel logout not done", "nonce"], PATIENCE);
    assert!(refused.is_some(), "the audit log tells why");
}

/// The provider's time in seconds.
fn time(provider: &Provider) -> i64 {
    let token = provider.logout_token(&json!({}), &[]);
    let claims = daypass_testbed::provider::claims(&token).expect("a JWT");
    claims["iat"].as_i64().expect("seconds")
}

/// LOGOUT-05, LOGOUT-08, LOGOUT-09, LOGOUT-13, LOGOUT-16
#[tokio::test(flavor = "multi_thread")]
async fn a_good_token_ends_what_it_names_and_is_good_once() {
    let provider = Provider::with(|settings| settings.signing = Signing::Rs256);
    let stage = Stage::with(provider, |setup| setup);
    let laptop = stage.signed_in().await;
    let laptop_sid = stage.provider.latest_sid();
    let phone = stage.signed_in().await;
    let phone_sid = stage.provider.latest_sid();
    stage
        .provider
        .configure(|settings| settings.user = "john".to_owned());
    let other = stage.signed_in().await;

    let by_sid = stage
        .provider
        .logout_token(&json!({"sid": laptop_sid}), &[]);
    let done = send(&stage, &by_sid).await;
    assert_eq!((done.status, done.body.len()), (200, 0), "{}", brief(&done));
    assert_eq!(done.header("cache-control"), Some("no-store"));
    assert!(!stage.knows(&laptop).await);
    assert!(stage.knows(&phone).await && stage.knows(&other).await);
    assert!(stage.provider.wait_for_count(Endpoint::Revoke, 1, PATIENCE));
    let told = go(laptop.get(stage.url("/oauth2/session"))).await;
    assert_eq!(
        (told.status, &told.json()["reason"]),
        (401, &json!("revoked"))
    );
    assert_refused(&send(&stage, &by_sid).await, "again");

    let both = json!({"sid": phone_sid, "sub": "248289761002"});
    let both = stage.provider.logout_token(&both, &[]);
    assert_eq!(send(&stage, &both).await.status, 200);
    assert!(stage.knows(&phone).await, "it is not of that user");

    stage.provider.rotate_keys(true);
    let by_sub = stage.provider.logout_token(&json!({"sub": JANE}), &[]);
    assert_eq!(send(&stage, &by_sub).await.status, 200);
    assert!(!stage.knows(&phone).await && stage.knows(&other).await);
    assert!(stage.provider.wait_for_count(Endpoint::Revoke, 2, PATIENCE));
    let nobody = stage
        .provider
        .logout_token(&json!({"sub": "nobody", "sid": "nothing"}), &[]);
    assert_eq!(send(&stage, &nobody).await.status, 200, "LOGOUT-16");

    let kind = [("kind", "back_channel")];
    assert_eq!(stage.counted("daypass_logouts_total", &kind), "2");
    let reason = [("reason", "logout")];
    assert_eq!(stage.counted("daypass_session_ends_total", &reason), "2");
    let audit = || {
        let of_these = |line: &Value| {
            let fields = line.get("fields").unwrap_or(line);
            fields["event"] == "logout"
                && fields["kind"] == "back_channel"
                && fields["session"].is_string()
        };
        stage
            .daypass
            .events()
            .iter()
            .filter(|l| of_these(l))
            .count()
    };
    let told = wait_for(PATIENCE, || (audit() >= 2).then_some(()));
    assert!(told.is_some() && audit() == 2, "{}", stage.daypass.log());
}

/// LOGOUT-06
#[tokio::test(flavor = "multi_thread")]
async fn only_a_form_with_one_token_is_read() {
    let stage = Stage::new();
    let client = stage.signed_in().await;
    let to = stage.url(BACK_CHANNEL);
    let token = || stage.provider.logout_token(&json!({"sub": JANE}), &[]);
    let post = || Client::new().post(&to);
    let rows: [(&str, Call); 7] = [
        ("nothing", post()),
        (
            "in the query",
            Client::new()
                .post(format!("{to}?logout_token={}", token()))
                .form([]),
        ),
        ("another name", post().form([("token", token().as_str())])),
        (
            "twice",
            post().form([
                ("logout_token", token().as_str()),
                ("logout_token", token().as_str()),
            ]),
        ),
        (
            "JSON",
            post()
                .header("content-type", "application/json")
                .body(json!({"logout_token": token()}).to_string()),
        ),
        ("untyped", post().body(format!("logout_token={}", token()))),
        (
            "too large",
            post().form([
                ("x", "x".repeat(70_000).as_str()),
                ("logout_token", token().as_str()),
            ]),
        ),
    ];
    for (row, call) in rows {
        assert_refused(&go(call).await, row);
        assert!(stage.knows(&client).await, "{row}");
    }
    let get = go(client.get(&to)).await;
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
    // The caller is a server: neither cookies nor Fetch Metadata matter.
    let cross = client.post(&to).header("origin", "https://idp.example");
    let cross = cross.header("sec-fetch-site", "cross-site");
    assert_eq!(
        go(cross.form([("logout_token", token().as_str())]))
            .await
            .status,
        200
    );
    assert!(!stage.knows(&client).await);
}

/// LOGOUT-12
#[tokio::test(flavor = "multi_thread")]
async fn a_login_under_way_does_not_outlive_the_logout() {
    let stage = Stage::new();
    for (row, by_sid) in [("by sid", true), ("by sub", false)] {
        let client = Client::new();
        let callback = stage.callback(&client).await;
        let claims = if by_sid {
            json!({"sid": stage.provider.latest_sid()})
        } else {
            json!({"sub": JANE})
        };
        let token = stage.provider.logout_token(&claims, &[]);
        assert_eq!(send(&stage, &token).await.status, 200, "{row}");
        stage.provider.forget_requests();
        // The ID token is made now, after the logout token: what counts is when the login began here.
        let later = json!({"iat": time(&stage.provider) + 30});
        stage.provider.fault(Endpoint::Token, Fault::Claims(later));
        let refused = go(client.navigate(callback)).await;
        assert_eq!(refused.status, 401, "{row}: {}", brief(&refused));
        assert!(
            client.jar().find(SESSION).is_none(),
            "{row}: it would lead nowhere"
        );
        assert!(!stage.knows(&client).await, "{row}");
        assert!(
            stage.provider.wait_for_count(Endpoint::Revoke, 1, PATIENCE),
            "{row}"
        );
    }
    let logins = |result| {
        let labels = [("provider", "provider"), ("result", result)];
        stage.counted("daypass_logins_total", &labels)
    };
    assert_eq!((&*logins("success"), &*logins("logged_out")), ("0", "2"));
    // Whoever signs in again is let in, in the same second.
    stage.signed_in().await;
}

/// What is not known is no reason to say that it was done.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_providers_keys_it_is_asked_to_come_again() {
    let mut provider = Provider::start();
    provider.stop();
    let mut stage = Stage::with(provider, |setup| setup);
    let token = stage.provider.logout_token(&json!({"sub": JANE}), &[]);
    let answer = send(&stage, &token).await;
    assert_eq!(answer.status, 503, "{}", brief(&answer));
    assert_eq!(answer.json()["error"], "temporarily_unavailable");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    stage.provider.resume();
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        // The same token: it was not used up.
        let answer = send(&stage, &token).await;
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.status, 503, "{}", brief(&answer));
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// LOGOUT-11: some providers ask once, and wait for two seconds.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_do_not_come_are_not_waited_for_for_long() {
    let mut took = Vec::new();
    // A machine may stand still; not each time.
    while took.len() < 3 {
        let provider = Provider::start();
        provider.always(Endpoint::Jwks, [Fault::Stall]);
        let stage = Stage::with(provider, |setup| setup);
        let token = stage.provider.logout_token(&json!({"sub": JANE}), &[]);
        let began = std::time::Instant::now();
        let answer = send(&stage, &token).await;
        took.push(began.elapsed());
        assert_eq!(answer.status, 503, "{}", brief(&answer));
        stage.provider.release();
        if began.elapsed() < std::time::Duration::from_secs(2) {
            return;
        }
    }
    panic!("each took too long: {took:?}");
}

/// Anybody can have the keys fetched again, by a made-up key id. That must not lose a logout by the provider's next key.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_key_may_be_newer_than_ours_is_asked_for_again() {
    let provider = Provider::with(|settings| settings.signing = Signing::Rs256);
    let stage = Stage::with(provider, |setup| setup);
    let client = stage.signed_in().await;
    let claims = json!({"sub": JANE});
    let made_up = stage.provider.logout_token(&claims, &[Fault::UnknownKey]);
    assert_refused(&send(&stage, &made_up).await, "made up");
    stage.provider.rotate_keys(true);
    let token = stage.provider.logout_token(&claims, &[]);
    let answer = send(&stage, &token).await;
    assert_eq!(answer.status, 503, "{}", brief(&answer));
    assert!(answer.header("retry-after").is_some());
    assert!(stage.knows(&client).await);
}

/// LOGOUT-14
#[tokio::test(flavor = "multi_thread")]
async fn a_frame_ends_the_session_it_names_with_or_without_the_cookie() {
    let stage = Stage::new();
    let issuer = stage.provider.issuer();
    for (row, with_cookie) in [
        ("third-party cookies blocked", false),
        ("with the cookie", true),
    ] {
        let client = stage.signed_in().await;
        let sid = stage.provider.latest_sid();
        let frame = |issuer: &str, sid: &str| {
            let query: String = form_urlencoded::Serializer::new(String::new())
                .extend_pairs([("iss", issuer), ("sid", sid)])
                .finish();
            let address = stage.url(&format!("/oauth2/logout/frontchannel?{query}"));
            let call = if with_cookie {
                client.get(address)
            } else {
                Client::new().get(address)
            };
            call.header("sec-fetch-site", "cross-site")
                .header("sec-fetch-mode", "navigate")
                .header("sec-fetch-dest", "iframe")
                .header("accept", "text/html")
        };
        for (bad, issuer, sid) in [
            ("another issuer", "https://evil.example", sid.as_str()),
            ("another sid", &issuer, "0123456789abcdef0123"),
            ("a short sid", &issuer, "1"),
            ("no sid", &issuer, ""),
        ] {
            let answer = go(frame(issuer, sid)).await;
            assert!(
                matches!(answer.status, 200 | 400),
                "{row}: {bad}: {}",
                brief(&answer)
            );
            assert!(stage.knows(&client).await, "{row}: {bad}");
            assert!(!clears(&answer), "{row}: {bad}");
        }
        let done = go(frame(&issuer, &sid)).await;
        assert_eq!(done.status, 200, "{row}: {}", brief(&done));
        assert_eq!(done.header("cache-control"), Some("no-store"), "{row}");
        assert_eq!(done.header("x-frame-options"), None, "{row}");
        let csp = done.header("content-security-policy").expect("a policy");
        assert!(
            csp.ends_with(&format!("frame-ancestors {issuer}")),
            "{row}: {csp}"
        );
        assert_eq!(clears(&done), with_cookie, "{row}");
        assert!(!stage.knows(&client).await, "{row}");
        assert_eq!(go(frame(&issuer, &sid)).await.status, 200, "{row}: again");
        assert_eq!(client.jar().find(SESSION).is_none(), with_cookie, "{row}");
    }
    let bare = stage.url("/oauth2/logout/frontchannel");
    let client = stage.signed_in().await;
    assert_eq!(go(client.get(bare)).await.status, 400, "any page could ask");
    assert!(stage.knows(&client).await);
    assert_eq!(
        stage.counted("daypass_logouts_total", &[("kind", "front_channel")]),
        "2"
    );
    assert_eq!(
        stage.provider.count(Endpoint::Revoke),
        0,
        "the provider knows"
    );
}
