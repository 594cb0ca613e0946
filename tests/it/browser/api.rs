//! Goes the same way with a client that is no browser, and looks at every answer on it.

use std::time::Duration;

use daypass_testbed::client::Client;
use daypass_testbed::daypass::Setup;
use daypass_testbed::raw::wait_for;
use daypass_testbed::redis::Redis;

use super::Real;

type Change = Box<dyn FnOnce(Setup) -> Setup>;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_goes_the_whole_way_through_the_real_provider() {
    let redis = Redis::start();
    let stored = redis.url();
    let in_redis: Change =
        Box::new(move |setup| setup.session_key().set("session.store", stored.as_str()));
    let basic: Change = Box::new(|setup| setup.set("provider.par", "off"));
    let required: Change = Box::new(|setup| setup.set("provider.par", "required"));
    // name, PAR of the provider, our configuration, whether requests are pushed (RFC 9126)
    let rows: [(&str, &str, Change, bool); 4] = [
        (
            "memory, PAR not offered",
            "off",
            Box::new(|setup| setup),
            false,
        ),
        ("Redis, PAR offered", "on", in_redis, true),
        ("memory, PAR offered, switched off here", "on", basic, false),
        ("memory, PAR required by both", "required", required, true),
    ];
    // Side by side: each mostly waits for its tokens to expire.
    let ways = rows.map(|(name, par, change, pushed)| async move {
        let real = tokio::task::block_in_place(|| Real::start(par, change));
        the_whole_way(name, &real).await;
        let least = usize::from(pushed);
        let count = real
            .provider
            .count_from(least, "pushed_authorization_request.success", None);
        assert_eq!(count > 0, pushed, "{name}: {count} pushed requests");
    });
    futures_util::future::join_all(ways).await;
    // Index sets go off the request's path.
    let mut keys = redis.keys();
    keys.retain(|key| !key.starts_with("daypass:i:"));
    assert_eq!(keys, Vec::<String>::new(), "what was signed out is gone");
}

async fn the_whole_way(name: &str, real: &Real) {
    let client = Client::new();

    // RESP-01: a script is told, not sent around.
    let refused = client.get(real.url("/orders")).send().await.expect(name);
    assert_eq!(refused.status, 401, "{name}");
    assert_eq!(
        refused.header("content-type"),
        Some("application/problem+json"),
        "{name}"
    );
    let problem = refused.json();
    assert_eq!(problem["reason"], "no_session", "{name}");
    let login_url = problem["login_url"].as_str().expect("a login_url");
    assert_eq!(real.echo.count(), 0, "{name}: nothing was forwarded");

    // It may open the `login_url` it was given.
    let login = refused.url.join(login_url).expect("a URL");
    let form = client.browse(&login).await.expect(name);
    let page = real
        .provider
        .sign_in(&client, form, "jane")
        .await
        .expect(name);
    assert!(
        page.url.as_str().starts_with(&real.origin),
        "{name}: {}",
        page.url
    );

    // It may age just then, but not each time.
    let mut first = token(real, &client, name).await;
    let mut others = 0;
    loop {
        let again = token(real, &client, name).await;
        if first == again {
            break;
        }
        others += 1;
        assert!(others < 5, "{name}: a fresh token is shown as it is");
        first = again;
    }

    let session = client
        .get(real.url("/oauth2/session"))
        .send()
        .await
        .expect(name)
        .json();
    assert_eq!(
        (&session["active"], &session["subject"]),
        (&true.into(), &"jane".into()),
        "{name}"
    );
    assert!(
        !session.to_string().contains(&first),
        "{name}: never a token"
    );

    // Past the expiry: the next request brings a new token, and nobody is asked anything.
    let left = session["token"]["expires_in_seconds"]
        .as_u64()
        .expect("a number");
    tokio::time::sleep(Duration::from_secs(left + 1)).await;
    let renewed = token(real, &client, name).await;
    assert_ne!(renewed, first, "{name}: a new token");
    assert_eq!(real.provider.count("grant.error", None), 0, "{name}");

    // Asked for by hand, with the header a browser would send.
    let forced = client
        .post(real.url("/oauth2/session/refresh"))
        .header("sec-fetch-site", "same-origin");
    let forced = forced.send().await.expect(name);
    assert_eq!(forced.status, 200, "{name}: {}", forced.text());

    // Out, with the provider's own question, and back to where we wanted to go.
    let question = client
        .browse(real.url("/oauth2/logout?redirect=/public/bye"))
        .await
        .expect(name);
    let page = real
        .provider
        .sign_out(&client, &question)
        .await
        .expect(name);
    assert_eq!(
        (page.status, page.url.path()),
        (200, "/public/bye"),
        "{name}"
    );
    assert!(
        client.jar().find("daypass").is_none(),
        "{name}: no session cookie is left"
    );
    let refused = client.get(real.url("/orders")).send().await.expect(name);
    assert_eq!(refused.status, 401, "{name}");
    let asked = client.browse(real.url("/orders")).await.expect(name);
    assert!(
        asked.text().contains("name=\"login\""),
        "{name}: asked again, at {}",
        asked.url
    );
    // RFC 7009: the grant ends at the provider, too.
    let revoked = wait_for(Duration::from_secs(5), || {
        (real.provider.count("grant.revoked", None) > 0).then_some(())
    });
    assert!(
        revoked.is_some(),
        "{name}: the refresh token is revoked: {:?}",
        real.provider.events()
    );
}

/// The access token that the upstream sees.
async fn token(real: &Real, client: &Client, name: &str) -> String {
    let answer = client.get(real.url("/orders")).send().await.expect(name);
    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    let request = real.echo.last().expect("forwarded");
    assert_eq!(request.header("x-user"), Some("jane"), "{name}");
    request.bearer().expect("a token").to_owned()
}
