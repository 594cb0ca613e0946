//! Ends sessions of one of several providers, and no others.

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{CLIENT_ID, Endpoint, Fault, Provider};
use serde_json::{Value, json};

use crate::BINARY;
use crate::login::{brief, go};

const JANE: &str = "248289761001";
/// Long enough to end a session in a frame.
const SID: &str = "08a5019c-17e1-4977-8f42";

/// Two issuers that give their users the same names, and two clients at the first.
struct Stage {
    daypass: Daypass,
    one: Provider,
    two: Provider,
    _echo: Echo,
}

impl Stage {
    fn new() -> Self {
        let (one, two, echo) = (Provider::start(), Provider::start(), Echo::start());
        let section = |provider: &Provider, client: &str| {
            json!({"issuer": provider.issuer(), "client_id": client,
                "client_secret": provider.client_secret()})
        };
        let providers = json!({
            "blog": section(&one, "blog"),
            "one": section(&one, CLIENT_ID),
            "two": section(&two, CLIENT_ID),
        });
        let setup = Setup::new(&one, &echo.url()).unset("provider");
        let setup = setup.set("providers", providers);
        Self {
            daypass: Daypass::ready(BINARY, setup),
            one,
            two,
            _echo: echo,
        }
    }

    /// Signs in at a provider, in its session [`SID`].
    async fn signed_in(&self, name: &str) -> Client {
        let provider = if name == "one" { &self.one } else { &self.two };
        let sid = json!({"sid": SID});
        provider.fault(Endpoint::Token, Fault::Claims(sid));
        let client = Client::new();
        let login = format!("/oauth2/login?provider={name}&redirect=%2Fhello");
        let page = client.browse(self.daypass.url(&login)).await;
        assert_eq!(page.expect("a login").status, 200, "{name}");
        client
    }

    async fn knows(&self, client: &Client) -> bool {
        go(client.get(self.daypass.url("/hello"))).await.status == 200
    }

    async fn end(&self, provider: &Provider, claims: &Value) {
        let token = provider.logout_token(claims, &[]);
        let to = self.daypass.url("/oauth2/logout/backchannel");
        let sent = provider.send_logout_token(&to, self.daypass.public(), &token);
        let answer = sent.await.expect("an answer");
        assert_eq!(answer.status, 200, "{claims}: {}", brief(&answer));
    }
}

/// LOGOUT-09, LOGOUT-14: a name is one within its issuer, and a token is for one client.
#[tokio::test(flavor = "multi_thread")]
async fn a_logout_at_one_provider_ends_nothing_of_another() {
    let stage = Stage::new();
    for (row, claims) in [
        ("by sub", Some(json!({"sub": JANE}))),
        ("by sid", Some(json!({"sid": SID}))),
        ("by both", Some(json!({"sid": SID, "sub": JANE}))),
        ("in a frame", None),
    ] {
        let (one, two) = (stage.signed_in("one").await, stage.signed_in("two").await);
        if let Some(claims) = claims {
            let mut other = claims.clone();
            other["aud"] = json!("blog");
            stage.end(&stage.one, &other).await;
            assert!(stage.knows(&one).await, "{row}: said to another client");
            stage.end(&stage.one, &claims).await;
        } else {
            let query: String = form_urlencoded::Serializer::new(String::new())
                .extend_pairs([("iss", &*stage.one.issuer()), ("sid", SID)])
                .finish();
            let frame = format!("/oauth2/logout/frontchannel?{query}");
            let frame = go(Client::new().get(stage.daypass.url(&frame))).await;
            assert_eq!(frame.status, 200, "{row}");
        }
        assert!(!stage.knows(&one).await, "{row}");
        assert!(stage.knows(&two).await, "{row}");
        // The next one may sign in again, there and here.
        stage.signed_in("one").await;
    }
}
