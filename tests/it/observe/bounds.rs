//! Shows that nobody outside can make series up (OBS-02): the number of them is bounded by the configuration.

use std::collections::BTreeSet;

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{Provider, random};
use daypass_testbed::raw::{self, wait_for};
use serde_json::json;

use super::PATIENCE;
use crate::BINARY;

fn series(daypass: &Daypass) -> BTreeSet<String> {
    let samples = daypass.metrics().samples;
    samples
        .into_iter()
        .map(|sample| format!("{}{:?}", sample.name, sample.labels))
        .collect()
}

/// Everything a stranger and a user can vary, once.
async fn vary(daypass: &Daypass, provider: &Provider, odd: &str) {
    let name = format!("user-{odd}");
    provider.configure(|settings| {
        let claims =
            json!({"sub": name.clone(), "name": odd, "email": format!("{odd}@example.com")});
        settings.users.insert(name.clone(), claims);
        settings.user.clone_from(&name);
    });
    let (client, stranger) = (Client::new(), Client::new());
    let url = |path: &str| daypass.url(path);
    let page = client
        .browse(url(&format!("/{odd}?{odd}={odd}")))
        .await
        .expect("login");
    assert_eq!(page.status, 200);
    let method: String = odd
        .chars()
        .filter(char::is_ascii_alphabetic)
        .collect::<String>()
        .to_ascii_uppercase();
    let method = method.parse().expect("a method");
    for (call, status) in [
        (client.get(url(&format!("/{odd}/{odd}"))), 200),
        (stranger.get(url(&format!("/{odd}"))), 401),
        (
            stranger
                .get(url(&format!("/public/{odd}")))
                .header("user-agent", odd)
                .header("x-request-id", odd),
            200,
        ),
        (stranger.get(url(&format!("/oauth2/{odd}"))), 404),
        (
            stranger.get(url(&format!(
                "/oauth2/callback/{odd}?code={odd}&state={odd}"
            ))),
            400,
        ),
        (
            stranger.get(url(&format!("/oauth2/callback?error={odd}&state={odd}"))),
            400,
        ),
        (
            stranger.get(url(&format!("/oauth2/login?provider={odd}"))),
            404,
        ),
        (
            stranger
                .get(url("/"))
                .header("host", format!("{odd}.example")),
            421,
        ),
        (stranger.request(method, url("/public")), 200),
        (
            stranger.get(url("/public")).target(&format!("/%2f{odd}")),
            400,
        ),
        (
            stranger
                .get(url("/"))
                .header("cookie", format!("daypass={odd}")),
            401,
        ),
    ] {
        let shown = format!("{call:?}");
        let answer = call.send().await.expect("an answer");
        assert_eq!(answer.status, status, "{shown}: {}", answer.text());
    }
    let garbage = format!("{odd} {odd}\r\n{odd}\r\n\r\n");
    raw::exchange(
        daypass.public(),
        garbage.as_bytes(),
        std::time::Duration::from_millis(300),
    );
    assert_eq!(
        client
            .browse(url("/oauth2/logout"))
            .await
            .expect("logout")
            .status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_clients_vary_makes_a_series() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    vary(&daypass, &provider, "first").await;
    // The last but one thing to be counted, so everything was before the second time.
    let counted = |count: f64| {
        wait_for(PATIENCE, || {
            (daypass.metric("daypass_logouts_total", &[]) >= count).then_some(())
        })
    };
    assert!(counted(1.0).is_some());
    vary(&daypass, &provider, "second").await;
    assert!(counted(2.0).is_some());
    let before = series(&daypass);
    for round in 0..4 {
        let odd = format!("z{}", random(9).replace(['-', '_'], "q"));
        vary(&daypass, &provider, &odd).await;
        assert!(counted(f64::from(round) + 3.0).is_some());
        let text = daypass.metrics().text;
        assert!(!text.contains(&odd), "{odd} is in the metrics");
    }
    let after = series(&daypass);
    let new: Vec<_> = after.difference(&before).collect();
    assert_eq!(new, [""; 0], "{} series", after.len());
}
