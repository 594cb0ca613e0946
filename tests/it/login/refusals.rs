//! Shows that a callback which does not fit makes no session, and that most never reach the token endpoint.

use daypass_testbed::client::{Client, Response};
use daypass_testbed::provider::{Endpoint, Fault, Provider};
use serde_json::json;

use super::{SESSION, Stage, brief, go, parameter, replaced, sets_session};

/// A page with a way forward, which is what every failed login ends in.
#[track_caller]
pub(super) fn assert_refused(answer: &Response, status: u16, row: &str) {
    assert_eq!(answer.status, status, "{row}: {}", brief(answer));
    assert!(!sets_session(answer), "{row}");
    assert_eq!(answer.header("location"), None, "{row}");
    assert!(
        answer.text().contains("<a class=\"button"),
        "{row}: a way forward"
    );
}

type Spoil = fn(&str) -> String;

/// FLOW-04, FLOW-08, FLOW-12, CSRF-07
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one table")]
async fn a_callback_that_does_not_fit_never_reaches_the_token_endpoint() {
    let stage = Stage::new();
    let rows: [(&str, &str, Spoil); 17] = [
        ("no parameters", "login_expired", |url| {
            url.split('?').next().expect("split yields one").to_owned()
        }),
        ("no state", "login_expired", |url| {
            replaced(url, "state", None)
        }),
        ("an empty state", "login_expired", |url| {
            replaced(url, "state", Some(""))
        }),
        ("a foreign state", "login_expired", |url| {
            replaced(url, "state", Some("someone-elses-state"))
        }),
        ("a truncated state", "login_expired", |url| {
            let state = parameter(url, "state").expect("a state");
            replaced(url, "state", Some(&state[..state.len() - 4]))
        }),
        (
            "a state with one flipped character at the end",
            "login_expired",
            |url| {
                let mut state = parameter(url, "state").expect("a state");
                let flipped = if state.pop() == Some('A') { 'B' } else { 'A' };
                state.push(flipped);
                // The last character may hold padding bits only: one before it holds none.
                let at = state.len() - 3;
                let other = if &state[at..=at] == "x" { "y" } else { "x" };
                state.replace_range(at..=at, other);
                replaced(url, "state", Some(&state))
            },
        ),
        (
            "a state of a hundred thousand characters",
            "login_expired",
            |url| replaced(url, "state", Some(&"A".repeat(20_000))),
        ),
        ("state twice", "login_expired", |url| {
            let state = parameter(url, "state").expect("a state");
            format!("{url}&state={state}")
        }),
        ("code twice", "login_expired", |url| {
            let code = parameter(url, "code").expect("a code");
            format!("{url}&code={code}")
        }),
        ("another code in front", "login_expired", |url| {
            url.replacen('?', "?code=stolen&", 1)
        }),
        ("an escaped name twice", "login_expired", |url| {
            format!("{url}&%63ode=stolen")
        }),
        ("iss twice", "login_expired", |url| {
            let issuer = parameter(url, "iss").expect("an issuer");
            format!("{url}&iss={issuer}")
        }),
        ("error twice", "login_expired", |url| {
            format!("{url}&error=a&error=a")
        }),
        (
            "no iss, which the provider promised (FLOW-09)",
            "login_invalid",
            |url| replaced(url, "iss", None),
        ),
        ("another iss (FLOW-09)", "login_invalid", |url| {
            replaced(url, "iss", Some("https://evil.example.com"))
        }),
        (
            "an iss with a slash more (RFC 9207 §2.4)",
            "login_invalid",
            |url| {
                let issuer = parameter(url, "iss").expect("an issuer");
                replaced(url, "iss", Some(&format!("{issuer}/")))
            },
        ),
        ("neither code nor error", "login_invalid", |url| {
            replaced(url, "code", None)
        }),
    ];
    for (row, reason, spoil) in rows {
        for html in [true, false] {
            let client = Client::new();
            let callback = spoil(&stage.callback(&client).await);
            let call = if html {
                client.navigate(callback)
            } else {
                client.get(callback)
            };
            let answer = go(call).await;
            if html {
                assert_refused(&answer, 400, row);
            } else {
                assert_eq!(
                    (answer.status, &answer.json()["reason"]),
                    (400, &json!(reason)),
                    "{row}"
                );
            }
            assert!(client.jar().find(SESSION).is_none(), "{row}");
            stage.nothing_redeemed(row);
        }
    }
    // A browser that did nothing wrong gets in with what was spoilt elsewhere.
    let client = Client::new();
    let callback = stage.callback(&client).await;
    assert_eq!(go(client.navigate(callback)).await.status, 303);
    assert!(stage.knows(&client).await);
}

/// FLOW-20
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_works_once() {
    let stage = Stage::new();
    let client = Client::new();
    let callback = stage.callback(&client).await;
    let thief = client.twin();
    assert_eq!(go(client.navigate(&callback)).await.status, 303);
    assert_eq!(stage.provider.count(Endpoint::Token), 1);
    // The back button, or a reload: on to where the user was going, and the session stays the same.
    let session = client.jar().find(SESSION).cloned();
    let again = go(client.navigate(&callback)).await;
    assert_eq!(again.status, 303);
    assert_eq!(again.location(), Some(stage.url("/after")));
    assert_eq!(client.jar().find(SESSION).cloned(), session);
    // Somebody who has the login cookie as it was, and the address, but no session.
    let answer = go(thief.navigate(&callback)).await;
    assert_refused(&answer, 400, "replayed without a session");
    // Signed out meanwhile: no way back in.
    go(client.post(stage.url("/oauth2/logout/local"))).await;
    let answer = go(client.navigate(&callback)).await;
    assert_refused(&answer, 400, "replayed after a logout");
    assert_eq!(
        stage.provider.count(Endpoint::Token),
        1,
        "the code went out once"
    );
    assert!(!stage.knows(&client).await);
}

/// FLOW-18, FLOW-19
#[tokio::test(flavor = "multi_thread")]
async fn an_error_from_the_provider_is_told_and_nothing_is_redeemed() {
    let stage = Stage::new();
    for (error, status, reason) in [
        ("access_denied", 403, "login_refused"),
        ("login_required", 403, "login_refused"),
        ("interaction_required", 403, "login_refused"),
        ("consent_required", 403, "login_refused"),
        ("account_selection_required", 403, "login_refused"),
        ("invalid_scope", 403, "login_refused"),
        ("invalid_request", 403, "login_refused"),
        ("unauthorized_client", 403, "login_refused"),
        ("temporarily_unavailable", 503, "provider_unavailable"),
        ("server_error", 503, "provider_unavailable"),
        ("<script>alert(1)</script>", 403, "login_refused"),
    ] {
        for html in [true, false] {
            let client = Client::new();
            stage
                .provider
                .fault(Endpoint::Authorize, Fault::oauth(error));
            let callback = stage.callback(&client).await;
            let callback = format!(
                "{callback}&error_description=%3Cb%3Edescribed%3C%2Fb%3E&error_uri=https%3A%2F%2Fevil.example"
            );
            let call = if html {
                client.navigate(callback)
            } else {
                client.get(callback)
            };
            let answer = go(call).await;
            let text = answer.text();
            if html {
                assert_refused(&answer, status, error);
                assert!(
                    text.contains("redirect=%2Fafter"),
                    "{error}: back to where one was going: {text}"
                );
                assert!(
                    !text.contains("<script") && !text.contains("<b>described"),
                    "{error}: {text}"
                );
            } else {
                assert_eq!(answer.json()["reason"], reason, "{error}");
                assert_eq!(answer.status, status, "{error}");
            }
            assert!(!text.contains("evil.example"), "{error}: {text}");
            assert_eq!(
                answer.header("retry-after").is_some(),
                status == 503,
                "{error}"
            );
            stage.nothing_redeemed(error);
        }
    }
}

/// FLOW-09: error answers are checked, too.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_by_another_issuer_is_no_answer() {
    let stage = Stage::new();
    let client = Client::new();
    let faults = [Fault::oauth("access_denied"), Fault::WrongIssuer];
    stage.provider.faults(Endpoint::Authorize, faults);
    let callback = stage.callback(&client).await;
    let answer = go(client.get(callback)).await;
    assert_eq!(
        (answer.status, &answer.json()["reason"]),
        (400, &json!("login_invalid"))
    );
}

/// OIDC-01..10, REG-09, REG-10: what the token endpoint says is not believed unseen.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_stand_up_makes_no_session() {
    let stage = Stage::new();
    let rows = [
        ("another nonce (OIDC-07)", vec![Fault::WrongNonce]),
        (
            "no nonce (OIDC-07)",
            vec![Fault::Claims(json!({"nonce": null}))],
        ),
        (
            "a nonce that is no text",
            vec![Fault::Claims(json!({"nonce": 7}))],
        ),
        (
            "no nonce, said to be unsupported (OIDC-07)",
            vec![Fault::Claims(
                json!({"nonce": null, "nonce_supported": false}),
            )],
        ),
        (
            "another audience (OIDC-02, REG-10)",
            vec![Fault::WrongAudience],
        ),
        ("no audience", vec![Fault::Claims(json!({"aud": null}))]),
        (
            "a further audience (OIDC-02)",
            vec![Fault::Claims(json!({"aud": ["shop", "somebody-else"]}))],
        ),
        (
            "another party (OIDC-03)",
            vec![Fault::Claims(json!({"azp": "somebody-else"}))],
        ),
        ("another issuer (OIDC-01)", vec![Fault::WrongIssuer]),
        ("no issuer", vec![Fault::Claims(json!({"iss": null}))]),
        ("expired (OIDC-06)", vec![Fault::ExpiredIdToken]),
        ("no expiry", vec![Fault::Claims(json!({"exp": null}))]),
        (
            "an expiry that is a text",
            vec![Fault::Claims(json!({"exp": "4102444800"}))],
        ),
        (
            "no time of issue (OIDC-06)",
            vec![Fault::Claims(json!({"iat": null}))],
        ),
        (
            "issued in the future",
            vec![Fault::Claims(json!({"iat": 4_102_444_800_i64}))],
        ),
        (
            "not valid yet",
            vec![Fault::Claims(json!({"nbf": 4_102_444_800_i64}))],
        ),
        (
            "nobody (OIDC-11)",
            vec![Fault::Claims(json!({"sub": null}))],
        ),
        ("an empty subject", vec![Fault::Claims(json!({"sub": ""}))]),
        ("unsigned (OIDC-05)", vec![Fault::AlgNone]),
        (
            "HS256 with the public key (OIDC-05)",
            vec![Fault::HmacWithPublicKey],
        ),
        (
            "a signature that does not fit (OIDC-04)",
            vec![Fault::BadSignature],
        ),
        (
            "at_hash of another token (OIDC-08)",
            vec![Fault::WrongAtHash],
        ),
        ("no ID token (OIDC-21)", vec![Fault::MissingIdToken]),
        (
            "an ID token that is none",
            vec![Fault::Answer(json!({"id_token": "a.b.c"}))],
        ),
        ("invalid_grant", vec![Fault::oauth("invalid_grant")]),
        ("invalid_client", vec![Fault::oauth("invalid_client")]),
    ];
    for (row, faults) in rows {
        refused_after_the_code(&stage, faults, 400, "login_invalid", row).await;
    }
    // JWT-10: for the first one the keys are fetched again; there may be newer ones when the second comes.
    for status in [400, 503] {
        let client = Client::new();
        let callback = stage.callback(&client).await;
        stage.provider.fault(Endpoint::Token, Fault::UnknownKey);
        let answer = go(client.get(callback)).await;
        assert_eq!(answer.status, status, "{}", brief(&answer));
        assert!(!sets_session(&answer));
    }
}

/// RESP-08: an outage is no refusal.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_that_fails_is_an_outage() {
    let stage = Stage::with(Provider::start(), |setup| {
        setup.set("provider.timeout", "3s")
    });
    let rows = [
        ("500", Fault::status(500)),
        ("502", Fault::status(502)),
        ("server_error", Fault::oauth("server_error")),
        (
            "temporarily_unavailable",
            Fault::oauth("temporarily_unavailable"),
        ),
        ("cut before", Fault::DropBefore),
        ("cut after", Fault::DropAfter),
        ("half an answer", Fault::TruncatedBody),
        ("silence", Fault::Stall),
    ];
    for (row, fault) in rows {
        refused_after_the_code(&stage, vec![fault], 503, "provider_unavailable", row).await;
    }
    for (row, fault) in [
        ("a hotel's page", Fault::Html),
        (
            "no access token",
            Fault::Answer(json!({"access_token": null})),
        ),
        (
            "another kind of token",
            Fault::Answer(json!({"token_type": "DPoP"})),
        ),
        ("a huge body", Fault::HugeBody(5_000_000)),
        // Last: for seven seconds nobody asks again.
        ("too many requests", Fault::RetryAfter(7)),
    ] {
        let client = Client::new();
        let callback = stage.callback(&client).await;
        stage.provider.fault(Endpoint::Token, fault);
        let answer = go(client.get(callback)).await;
        assert!(
            matches!(answer.status, 400 | 503),
            "{row}: {}",
            brief(&answer)
        );
        assert!(!sets_session(&answer), "{row}");
        stage.provider.behave();
        if answer.status == 503 && row != "too many requests" {
            let other = Client::new();
            let callback = stage.callback(&other).await;
            assert!(sets_session(&go(other.get(callback)).await), "{row}");
        }
    }
    stage.provider.release();
}

async fn refused_after_the_code(
    stage: &Stage,
    faults: Vec<Fault>,
    status: u16,
    reason: &str,
    row: &str,
) {
    for html in [true, false] {
        let client = Client::new();
        let callback = stage.callback(&client).await;
        stage.provider.always(Endpoint::Token, faults.clone());
        let asked = stage.provider.count(Endpoint::Token);
        let call = if html {
            client.navigate(callback)
        } else {
            client.get(callback)
        };
        let answer = go(call).await;
        stage.provider.behave();
        assert!(stage.provider.count(Endpoint::Token) > asked, "{row}");
        if html {
            assert_refused(&answer, status, row);
        } else {
            assert_eq!(answer.status, status, "{row}: {}", brief(&answer));
            assert_eq!(answer.json()["reason"], reason, "{row}");
            assert!(!sets_session(&answer), "{row}");
        }
        assert!(!stage.knows(&client).await, "{row}");
        assert_eq!(stage.echo.count(), 0, "{row}");
        // Each row is for itself: failures in a row would hold back calls.
        let other = Client::new();
        let callback = stage.callback(&other).await;
        assert!(sets_session(&go(other.get(callback)).await), "{row}");
    }
}

/// OIDC-12
#[tokio::test(flavor = "multi_thread")]
async fn user_info_about_somebody_else_makes_no_session() {
    let stage = Stage::with(Provider::start(), |setup| {
        setup.set("provider.userinfo", true)
    });
    for (row, fault) in [
        ("somebody else", Fault::ForeignSubject),
        ("nobody", Fault::Answer(json!({"sub": null}))),
    ] {
        let client = Client::new();
        let callback = stage.callback(&client).await;
        stage.provider.fault(Endpoint::UserInfo, fault);
        let answer = go(client.get(callback)).await;
        assert_eq!(
            (answer.status, &answer.json()["reason"]),
            (400, &json!("login_invalid")),
            "{row}"
        );
        assert!(!stage.knows(&client).await, "{row}");
    }
    let client = Client::new();
    let callback = stage.callback(&client).await;
    stage.provider.fault(Endpoint::UserInfo, Fault::status(503));
    assert_eq!(go(client.get(callback)).await.status, 503);
    assert!(!stage.knows(&client).await);
}
