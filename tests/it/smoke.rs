//! The main job in one piece: sign in, browse with the token attached, sign out.

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::Provider;

use crate::BINARY;

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_browses_and_signs_out() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let client = Client::new();
    let page = client
        .browse(daypass.url("/hello?a=1"))
        .await
        .expect("login");
    println!("{} {}", page.status, page.text());
    println!("{}", daypass.log());
    assert_eq!(page.status, 200);
    let seen = echo.last().expect("forwarded");
    assert!(seen.bearer().is_some());
    let me = client
        .get(daypass.url("/oauth2/session"))
        .send()
        .await
        .expect("session");
    println!("{}", me.text());
    let out = client
        .browse(daypass.url("/oauth2/logout"))
        .await
        .expect("logout");
    println!("{} {}", out.status, out.text());
    let again = client.get(daypass.url("/api")).send().await.expect("api");
    println!("{} {:?} {}", again.status, again.headers, again.text());
    assert_eq!(again.status, 401);
}
