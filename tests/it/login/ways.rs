//! Signs in with every kind of client, request and provider that daypass knows.

use daypass_testbed::client::Client;
use daypass_testbed::provider::{
    Auth, CLIENT_ID, ClientKey, Endpoint, Fault, Par, Provider, Registration,
};
use serde_json::{Value, json};

use super::{SESSION, Stage, go, parameter, sets_session};

const JANE: &str = "248289761001";

/// CAUTH-01..05: all endpoints that ask who we are get the same, and one proof only.
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_client_signs_in_refreshes_and_revokes() {
    let key = ClientKey::generate();
    let odd = "p:a+s%s w/o=r&d?\"ü\\'~*-_.!#";
    let pem = json!(key.pem);
    let rows: [(&str, &str, Auth, Value); 6] = [
        (
            "basic",
            "shop",
            Auth::Basic("a-secret-of-some-length".into()),
            json!({"client_secret": "a-secret-of-some-length"}),
        ),
        (
            "basic with odd characters (RFC 6749 §2.3.1)",
            "sh:op + %41/ü@acme",
            Auth::Basic(odd.into()),
            json!({"client_auth": "client_secret_basic", "client_secret": odd}),
        ),
        (
            "post with odd characters",
            "sh:op + %41/ü@acme",
            Auth::Post(odd.into()),
            json!({"client_auth": "client_secret_post", "client_secret": odd}),
        ),
        (
            "key",
            "shop",
            Auth::PrivateKey(key.jwk.clone()),
            json!({"client_auth": "private_key_jwt", "client_key": pem}),
        ),
        (
            "key, not named",
            "shop",
            Auth::PrivateKey(key.jwk.clone()),
            json!({"client_key": pem}),
        ),
        ("none", "shop", Auth::None, json!({"client_auth": "none"})),
    ];
    // Side by side, because each waits for a token to expire.
    let rows = rows.map(|(row, id, auth, config)| whole_life(row, id, auth, config));
    futures_util::future::join_all(rows).await;
}

/// Signs in as this client, refreshes and signs out, and looks at how it showed who it is.
async fn whole_life(row: &str, id: &str, auth: Auth, config: Value) {
    let provider = Provider::with(|settings| settings.par = Par::Advertised);
    let method = match auth {
        Auth::Basic(_) | Auth::AnyBasic(_) => "basic",
        Auth::Post(_) => "post",
        Auth::PrivateKey(_) => "private_key_jwt",
        Auth::None => "none",
    };
    provider.register(Registration {
        client_id: id.to_owned(),
        auth,
        redirect_uris: Vec::new(),
        post_logout_redirect_uris: Vec::new(),
    });
    let mut section = json!({"issuer": provider.issuer(), "client_id": id});
    for (name, value) in config.as_object().expect("a map") {
        section[name] = value.clone();
    }
    // A token that soon runs out, so that a request refreshes; the next one lasts.
    provider.configure(|settings| settings.access_ttl = std::time::Duration::from_secs(1));
    let stage = Stage::with(provider, |setup| setup.set("provider", section));
    let client = Client::new();
    stage.sign_in(&client).await;
    stage
        .provider
        .configure(|settings| settings.access_ttl = std::time::Duration::from_secs(300));
    assert!(
        stage.echo.last().expect("forwarded").bearer().is_some(),
        "{row}"
    );
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert!(stage.knows(&client).await, "{row}");
    let out = go(client.navigate(stage.url("/oauth2/logout"))).await;
    assert_eq!(out.status, 303, "{row}");
    let patience = std::time::Duration::from_secs(5);
    assert!(
        stage.provider.wait_for_count(Endpoint::Revoke, 1, patience),
        "{row}"
    );
    for endpoint in [
        Endpoint::Par,
        Endpoint::Token,
        Endpoint::Refresh,
        Endpoint::Revoke,
    ] {
        let requests = stage.provider.requests(endpoint);
        assert!(!requests.is_empty(), "{row}: {endpoint:?}");
        for request in requests {
            assert_eq!(request.client_auth, method, "{row}: {endpoint:?}");
            let proofs = [
                request.header("authorization").is_some(),
                request.param("client_secret").is_some(),
                request.param("client_assertion").is_some(),
            ];
            let count = proofs.iter().filter(|given| **given).count();
            assert_eq!(
                count,
                usize::from(method != "none"),
                "{row}: {endpoint:?}: one proof"
            );
            assert!(
                request.status.is_none_or(|status| status < 300),
                "{row}: {endpoint:?}"
            );
        }
    }
}

/// FLOW-01, FLOW-02, FLOW-04
#[tokio::test(flavor = "multi_thread")]
async fn the_authorization_request_says_what_it_must_and_differs_each_time() {
    let stage = Stage::with(Provider::start(), |setup| {
        setup
            .set("provider.scopes", json!(["openid", "email", "orders.read"]))
            .set(
                "provider.authorize_params",
                json!({"kc_idp_hint": "acme", "ui_locales": "de"}),
            )
    });
    let client = Client::new();
    let path = "/oauth2/login?prompt=login&login_hint=jane%40example.com&acr_values=gold&ui_locales=en&max_age=900\
                &scope=admin&client_id=evil&redirect_uri=https%3A%2F%2Fevil.example&response_type=token&state=mine&nonce=mine&foo=bar&audience=x";
    let mut seen = Vec::new();
    for _ in 0..2 {
        let answer = go(client.navigate(stage.url(path))).await;
        assert_eq!(answer.status, 302);
        let url = answer.location().expect("to the provider");
        assert!(
            url.starts_with(&format!("{}/authorize?", stage.provider.issuer())),
            "{url}"
        );
        let said = |name: &str| parameter(&url, name);
        for (name, want) in [
            ("response_type", "code"),
            ("client_id", CLIENT_ID),
            ("redirect_uri", &stage.url("/oauth2/callback")),
            ("scope", "openid email orders.read"),
            ("code_challenge_method", "S256"),
            ("kc_idp_hint", "acme"),
            ("prompt", "login"),
            ("login_hint", "jane@example.com"),
            ("acr_values", "gold"),
            ("max_age", "900"),
        ] {
            assert_eq!(said(name).as_deref(), Some(want), "{name}");
        }
        for name in ["foo", "audience", "code_verifier", "client_secret"] {
            assert_eq!(said(name), None, "{name}");
        }
        for name in [
            "client_id",
            "scope",
            "state",
            "nonce",
            "redirect_uri",
            "response_type",
            "ui_locales",
        ] {
            let count = url.matches(&format!("{name}=")).count();
            assert_eq!(count, 1, "{name} stands once: {url}");
        }
        for (name, shortest) in [("state", 22), ("nonce", 22), ("code_challenge", 43)] {
            let value = said(name).expect(name);
            assert!(value.len() >= shortest, "{name}");
            assert!(!seen.contains(&value), "{name} is fresh");
            seen.push(value);
        }
    }
    // What was sent as `max_age` is held against the ID token (OIDC-10).
    let callback = stage.callback_of(&client, path).await;
    stage.provider.fault(
        Endpoint::Token,
        Fault::Claims(json!({"auth_time": 1_000_000_000})),
    );
    assert_eq!(
        go(client.get(callback)).await.json()["reason"],
        "login_invalid"
    );
    let callback = stage.callback_of(&client, path).await;
    assert!(sets_session(&go(client.get(callback)).await));
    let verifier = stage.provider.requests(Endpoint::Token);
    let verifier = verifier
        .last()
        .and_then(|request| request.param("code_verifier"));
    assert!(verifier.is_some_and(|text| (43..=128).contains(&text.len())));
}

/// PAR-01, PAR-02
#[tokio::test(flavor = "multi_thread")]
async fn authorization_requests_are_pushed_where_that_is_offered_or_asked_for() {
    let rows = [
        ("auto, not offered", "auto", Par::Off, Some(false)),
        ("auto, offered", "auto", Par::Advertised, Some(true)),
        ("auto, asked for", "auto", Par::Required, Some(true)),
        ("required, offered", "required", Par::Advertised, Some(true)),
        ("required, not offered", "required", Par::Off, None),
        ("off, offered", "off", Par::Advertised, Some(false)),
    ];
    for (row, ours, theirs, want) in rows {
        let provider = Provider::with(|settings| settings.par = theirs);
        let stage = Stage::with(provider, |setup| setup.set("provider.par", ours));
        let client = Client::new();
        let answer = go(client.navigate(stage.url("/hello?a=1"))).await;
        let Some(pushed) = want else {
            assert_eq!(answer.status, 503, "{row}: never unpushed");
            continue;
        };
        let url = answer.location().expect("to the provider");
        assert_eq!(
            stage.provider.count(Endpoint::Par),
            usize::from(pushed),
            "{row}"
        );
        let names: Vec<_> = url::Url::parse(&url)
            .expect("a URL")
            .query_pairs()
            .map(|(name, _)| name.into_owned())
            .collect();
        if pushed {
            assert_eq!(names.len(), 2, "{row}: {url}");
            assert!(
                names.contains(&"client_id".into()) && names.contains(&"request_uri".into()),
                "{row}: {url}"
            );
        } else {
            assert!(
                names.contains(&"state".into()) && !names.contains(&"request_uri".into()),
                "{row}: {url}"
            );
        }
        let page = client.browse(url).await.expect("a login");
        assert_eq!(
            (page.status, page.url.as_str()),
            (200, stage.url("/hello?a=1").as_str()),
            "{row}"
        );
        assert_eq!(
            stage.echo.last().expect("forwarded").header("x-user"),
            Some(JANE),
            "{row}"
        );
    }
}

/// RESP-08: a provider that will not take the push is one that cannot be asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_fails_starts_no_login() {
    let provider = Provider::with(|settings| settings.par = Par::Required);
    let stage = Stage::with(provider, |setup| setup);
    for (row, fault) in [
        ("500", Fault::status(500)),
        ("invalid_request", Fault::oauth("invalid_request")),
        ("a page", Fault::Html),
        ("cut", Fault::DropBefore),
    ] {
        stage.provider.always(Endpoint::Par, [fault]);
        let answer = go(Client::new().navigate(stage.url("/hello"))).await;
        assert_eq!(answer.status, 503, "{row}");
        assert!(answer.header("retry-after").is_some(), "{row}");
        stage.provider.behave();
    }
    stage.sign_in(&Client::new()).await;
}

/// OIDC-12: UserInfo adds, and never replaces what is signed.
#[tokio::test(flavor = "multi_thread")]
async fn user_info_completes_the_claims() {
    for (row, userinfo, name) in [("off", false, None), ("on", true, Some("Jane Doe"))] {
        let provider = Provider::with(|settings| settings.claims_in_id_token = false);
        let stage = Stage::with(provider, |setup| setup.set("provider.userinfo", userinfo));
        let client = Client::new();
        let change = json!({"email": "other@example.com", "acr": "gold", "name": "Jane Doe"});
        stage
            .provider
            .always(Endpoint::UserInfo, [Fault::Answer(change)]);
        stage.provider.always(
            Endpoint::Token,
            [Fault::Claims(json!({"email": "signed@example.com"}))],
        );
        stage.sign_in(&client).await;
        let seen = stage.echo.last().expect("forwarded");
        assert_eq!(seen.header("x-user"), Some(JANE), "{row}");
        assert_eq!(seen.header("x-name"), name, "{row}");
        assert_eq!(seen.header("x-email"), Some("signed@example.com"), "{row}");
        assert_eq!(
            stage.provider.count(Endpoint::UserInfo),
            usize::from(userinfo),
            "{row}"
        );
    }
}

/// OIDC-01: an issuer is compared byte for byte, and a slash at its end is part of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_with_a_slash_at_its_end_is_another_issuer() {
    let provider = Provider::start();
    let slashed = format!("{}/", provider.issuer());
    provider.configure(|settings| {
        settings.iss_parameter = false;
        settings.metadata = json!({"issuer": slashed});
    });
    provider.always(Endpoint::Token, [Fault::Claims(json!({"iss": slashed}))]);
    let stage = Stage::with(provider, |setup| {
        setup.set("provider.issuer", slashed.clone())
    });
    stage.sign_in(&Client::new()).await;

    // Written with a slash where the provider has none.
    let provider = Provider::start();
    let slashed = format!("{}/", provider.issuer());
    let stage = Stage::with(provider, |setup| setup.set("provider.issuer", slashed));
    let answer = go(Client::new().navigate(stage.url("/hello"))).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(
        stage
            .daypass
            .wait_for_log(&["issuer"], std::time::Duration::from_secs(5))
            .is_some(),
        "the log says why"
    );
}

/// BFF-03
#[tokio::test(flavor = "multi_thread")]
async fn our_endpoints_live_where_the_configuration_puts_them() {
    let stage = Stage::with(Provider::start(), |setup| {
        setup.set("base_path", "/app/-/auth")
    });
    let client = Client::new();
    let page = client.browse(stage.url("/hello")).await.expect("a login");
    assert_eq!(page.url.as_str(), stage.url("/hello"));
    let sent = stage.provider.requests(Endpoint::Authorize);
    assert_eq!(
        sent[0].param("redirect_uri"),
        Some(stage.url("/app/-/auth/callback").as_str())
    );
    let told = go(client.get(stage.url("/app/-/auth/session")))
        .await
        .json();
    assert_eq!(told["logout_url"], "/app/-/auth/logout");
    let problem = go(Client::new().get(stage.url("/x"))).await;
    assert_eq!(problem.json()["login_url"], "/app/-/auth/login");
    // The old place is an ordinary path now, and nothing below the new one is forwarded.
    stage.echo.forget();
    assert_eq!(
        go(client.get(stage.url("/oauth2/session"))).await.status,
        200
    );
    assert_eq!(
        stage.echo.last().expect("forwarded").target,
        "/oauth2/session"
    );
    stage.echo.forget();
    for path in [
        "/app/-/auth",
        "/app/-/auth/",
        "/app/-/auth/nothing",
        "/app/-/auth/login/x",
        "/app//-/./auth/nothing",
    ] {
        assert_eq!(
            go(client.get(stage.url("")).target(path)).await.status,
            404,
            "{path}"
        );
    }
    assert_eq!(stage.echo.count(), 0);
    let out = client
        .browse(stage.url("/app/-/auth/logout"))
        .await
        .expect("a logout");
    assert_eq!(
        (out.status, out.url.path()),
        (200, "/app/-/auth/logout/callback")
    );
    assert!(!stage.knows(&client).await);
}

/// FLOW-14, FLOW-26: an answer that is posted.
#[tokio::test(flavor = "multi_thread")]
async fn a_posted_answer_finishes_a_login() {
    let stage = Stage::new();
    let client = Client::new();
    let callback = stage.callback(&client).await;
    let pairs: Vec<(String, String)> = url::Url::parse(&callback)
        .expect("a URL")
        .query_pairs()
        .into_owned()
        .collect();
    let pairs = pairs
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let post = client
        .post(stage.url("/oauth2/callback"))
        .navigation()
        .form(pairs);
    let answer = go(post).await;
    assert_eq!(
        (answer.status, answer.location()),
        (303, Some(stage.url("/after")))
    );
    assert!(client.jar().find(SESSION).is_some());
}

/// With the page a person fills in.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_on_the_providers_page_and_comes_back_to_the_page_wanted() {
    let provider =
        Provider::with(|settings| settings.login = daypass_testbed::provider::Login::Form);
    let stage = Stage::with(provider, |setup| setup);
    let client = Client::new();
    let page = client
        .browse(stage.url("/orders/7?tab=a%20b&x=%2F"))
        .await
        .expect("the provider's page");
    let form = daypass_testbed::client::Form::first(&page)
        .expect("a form")
        .fill("username", "john");
    let page = client.submit(&form).await.expect("a login");
    assert_eq!(
        (page.status, page.url.as_str()),
        (200, stage.url("/orders/7?tab=a%20b&x=%2F").as_str())
    );
    let seen = stage.echo.last().expect("forwarded");
    assert_eq!(
        (seen.target.as_str(), seen.header("x-user")),
        ("/orders/7?tab=a%20b&x=%2F", Some("248289761002"))
    );
}
