//! Shows that a logout at one replica ends what is open at another, over the Redis they share.

use std::time::{Duration, Instant};

use daypass_testbed::client::{Client, Streaming, WebSocketStream, tungstenite::Message};
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::Provider;
use daypass_testbed::raw::wait_for;
use daypass_testbed::redis::Redis;
use futures_util::StreamExt as _;
use tokio::net::TcpStream;

use crate::BINARY;
use crate::stage::PATIENCE;

/// Far less than the pause between looks at the store that nobody asked for: the other replica was told.
const TOLD: Duration = Duration::from_secs(5);

struct Fleet {
    replicas: Vec<Daypass>,
    client: Client,
    echo: Echo,
    _redis: Redis,
    provider: Provider,
}

impl Fleet {
    async fn signed_in() -> Self {
        let (provider, echo, redis) = (Provider::start(), Echo::start(), Redis::start());
        let setup = Setup::new(&provider, &echo.url()).redis(&redis);
        let replicas = Daypass::fleet(BINARY, &setup, 2);
        let client = Client::new();
        let page = client.browse(replicas[0].url("/oauth2/login")).await;
        assert_eq!(page.expect("a login").status, 200);
        Self {
            replicas,
            client,
            echo,
            _redis: redis,
            provider,
        }
    }

    /// A stream at a replica that has begun.
    async fn stream(&self, replica: usize, path: &str) -> Streaming {
        let call = self.client.get(self.replicas[0].url(path));
        let call = call.header("accept", "text/event-stream");
        let call = call.via(self.replicas[replica].public());
        let mut stream = call.stream().await.expect("a stream");
        assert_eq!(stream.status, 200);
        stream.next().await.expect("no error").expect("a beginning");
        stream
    }

    /// A WebSocket at the first replica, whose address is the origin.
    async fn socket(&self) -> WebSocketStream<TcpStream> {
        let origin = self.replicas[0].url("");
        let url = self.replicas[0].url("/ws");
        let socket = self.client.websocket(&url, &[("origin", &origin)]).await;
        socket.expect("a WebSocket")
    }

    async fn sign_out_at(&self, replica: usize) {
        let tab = self.client.twin();
        let out = tab.post(self.replicas[0].url("/oauth2/logout/local"));
        let out = out.via(self.replicas[replica].public());
        let out = out.header("sec-fetch-site", "same-origin").send().await;
        assert_eq!(out.expect("an answer").status, 204);
    }
}

/// Far less than the second or two after which what lasts is watched.
const AT_ONCE: Duration = Duration::from_millis(700);

/// Everything up to the end, in time; `None` when it ends with an error.
async fn rest(mut stream: Streaming) -> Option<String> {
    let all = async {
        let mut text = String::new();
        while let Some(piece) = stream.next().await.ok()? {
            text.push_str(&String::from_utf8_lossy(&piece));
        }
        Some(text)
    };
    tokio::time::timeout(TOLD, all)
        .await
        .expect("an end in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_at_one_replica_ends_streams_at_the_other() {
    let fleet = Fleet::signed_in().await;
    let stream = fleet.stream(1, "/sse?ms=20").await;
    let page = fleet.stream(1, "/oauth2/session/events").await;
    let began = Instant::now();
    fleet.sign_out_at(0).await;
    assert!(rest(stream).await.is_none(), "cut off in the middle");
    let told = rest(page).await.expect("a proper end");
    assert!(
        told.contains("event: ended\ndata: {\"active\":false,\"reason\":\"revoked\""),
        "{told}"
    );
    assert!(began.elapsed() < TOLD, "{:?}", began.elapsed());
    let closed = wait_for(PATIENCE, || {
        let metric = "daypass_streams_closed_total";
        let count = fleet.replicas[1].metric(metric, &[("reason", "revoked")]);
        ((count - 2.0).abs() < 0.1).then_some(())
    });
    assert!(closed.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_at_one_replica_closes_websockets_at_the_other() {
    let fleet = Fleet::signed_in().await;
    let mut socket = fleet.socket().await;
    fleet.sign_out_at(1).await;
    let last = tokio::time::timeout(TOLD, socket.next()).await;
    let Some(Ok(Message::Close(Some(frame)))) = last.expect("an end in time") else {
        panic!("no close frame");
    };
    assert_eq!(u16::from(frame.code), 1008);
}

/// What has only just begun is not watched yet, and ends all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_opened_just_before_a_logout_elsewhere_ends_at_once() {
    let mut took = Vec::new();
    // What waits for the watch to begin takes longer each time.
    while took.iter().all(|one| *one >= AT_ONCE) {
        assert!(took.len() < 5, "{took:?}");
        let fleet = Fleet::signed_in().await;
        let grpc = fleet.stream(1, "/sse?ms=20&grpc").await;
        let poll = fleet.client.get(fleet.replicas[0].url("/poll?ms=60000"));
        let poll = tokio::spawn(poll.via(fleet.replicas[1].public()).send());
        let seen = wait_for(PATIENCE, || {
            let requests = fleet.echo.requests();
            let mut polls = requests
                .iter()
                .filter(|seen| seen.target.starts_with("/poll"));
            polls.next().map(drop)
        });
        assert!(seen.is_some());
        fleet.sign_out_at(0).await;
        let began = Instant::now();
        assert!(rest(grpc).await.is_none(), "cut off in the middle");
        let refused = poll.await.expect("no panic").expect("an answer");
        assert_eq!(
            (refused.status, &refused.json()["reason"]),
            (401, &"revoked".into())
        );
        took.push(began.elapsed());
    }
}

/// LOGOUT-09, LOGOUT-14, LOGOUT-17: whoever ends the session, and wherever.
#[tokio::test(flavor = "multi_thread")]
async fn a_logout_without_the_cookie_ends_streams_at_the_other_replica() {
    for by in ["back-channel", "front-channel", "operator"] {
        let fleet = Fleet::signed_in().await;
        let sid = fleet.provider.latest_sid();
        let stream = fleet.stream(1, "/sse?ms=20").await;
        let page = fleet.stream(1, "/oauth2/session/events").await;
        let here = &fleet.replicas[0];
        match by {
            "back-channel" => {
                let token = fleet
                    .provider
                    .logout_token(&serde_json::json!({"sid": sid}), &[]);
                let to = here.url("/oauth2/logout/backchannel");
                let sent = fleet.provider.send_logout_token(&to, here.public(), &token);
                assert_eq!(sent.await.expect("an answer").status, 200);
            }
            "front-channel" => {
                let query: String = form_urlencoded::Serializer::new(String::new())
                    .extend_pairs([("iss", &fleet.provider.issuer()), ("sid", &sid)])
                    .finish();
                let frame = here.url(&format!("/oauth2/logout/frontchannel?{query}"));
                let sent = Client::new().get(frame).send().await;
                assert_eq!(sent.expect("an answer").status, 200);
            }
            _ => {
                let words = ["sessions", "revoke", "--sid", &sid, "-c", "daypass.yaml"];
                let ended = crate::cli::process::run(here.directory(), &words, &[]);
                assert_eq!(ended.stdout, "ended 1 session\n", "{}", ended.stderr);
            }
        }
        assert!(rest(stream).await.is_none(), "{by}: cut off in the middle");
        let told = rest(page).await.expect("a proper end");
        assert!(told.contains(r#""reason":"revoked""#), "{by}: {told}");
    }
}
