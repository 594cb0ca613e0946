//! Signs out at a real provider, which tells daypass from server to server.

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::node::{RealOptions, RealProvider};
use daypass_testbed::raw::wait_for;

use super::PATIENCE;
use crate::BINARY;
use crate::login::go;

/// LOGOUT-06, LOGOUT-09
#[tokio::test(flavor = "multi_thread")]
async fn signing_out_at_the_provider_ends_the_session_here() {
    for (row, by_subject) in [("by sid", "0"), ("by sub", "1")] {
        let public = daypass_testbed::ports::free();
        let origin = format!("http://{public}");
        let provider = RealProvider::start(&RealOptions {
            environment: vec![
                (
                    "BACKCHANNEL_LOGOUT_URI".to_owned(),
                    format!("{origin}/oauth2/logout/backchannel"),
                ),
                ("BACKCHANNEL_BY_SUBJECT".to_owned(), by_subject.to_owned()),
            ],
            ..RealOptions::for_daypass(&origin)
        });
        let echo = Echo::start();
        let daypass = Daypass::ready(BINARY, Setup::real(&provider, &echo.url()).at(public));
        let client = Client::new();
        let page = client.browse(daypass.url("/hello")).await.expect("a page");
        let page = provider
            .sign_in(&client, page, "jane")
            .await
            .expect("a login");
        assert_eq!(page.status, 200, "{row}: {}", page.text());
        assert_eq!(
            go(client.get(daypass.url("/orders"))).await.status,
            200,
            "{row}"
        );

        // Not by way of daypass: the user goes to the provider, or another application does.
        let page = client
            .browse(format!("{}/session/end", provider.issuer()))
            .await;
        let page = page.expect("the sign-out page");
        provider.sign_out(&client, &page).await.expect("signed out");
        let told = wait_for(PATIENCE, || {
            (provider.count("backchannel.success", None) == 1).then_some(())
        });
        assert!(told.is_some(), "{row}: {:?}", provider.events());
        assert_eq!(provider.count("backchannel.error", None), 0, "{row}");
        assert_eq!(
            go(client.get(daypass.url("/orders"))).await.status,
            401,
            "{row}"
        );
        let kind = [("kind", "back_channel")];
        assert_eq!(
            daypass.metric("daypass_logouts_total", &kind).to_string(),
            "1",
            "{row}"
        );
    }
}
