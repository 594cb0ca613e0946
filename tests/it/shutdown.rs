//! Shows how it ends: what is under way is finished, nothing new is begun, and it never takes longer than it may (K8S-10).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::pki::Authority;
use daypass_testbed::provider::{Endpoint, Fault, Provider};
use daypass_testbed::raw::{self, wait_for};
use daypass_testbed::redis::Redis;
use futures_util::StreamExt;
use serde_json::Value;

use crate::BINARY;

const PATIENCE: Duration = Duration::from_secs(20);
/// Far less than `drain_timeout` (30 s by default): what a busy machine needs to end what has nothing to do.
const PROMPTLY: Duration = Duration::from_secs(10);

fn exits_well(daypass: &mut Daypass, limit: Duration) -> Duration {
    let began = Instant::now();
    let status = daypass.wait_exit(limit);
    let status =
        status.unwrap_or_else(|| panic!("it does not end in {limit:?}:\n{}", daypass.log()));
    assert_eq!(status.code(), Some(0), "{}", daypass.log());
    began.elapsed()
}

/// Waits until the upstream has seen a request for `target`.
fn arrived(echo: &Echo, target: &str) {
    let seen = wait_for(PATIENCE, || {
        echo.requests()
            .iter()
            .any(|seen| seen.target == target)
            .then_some(())
    });
    assert!(seen.is_some(), "{target} does not arrive");
}

/// A WebSocket through daypass; its items tell whether a message says that it is the last.
pub(crate) async fn open_socket(
    client: &Client,
    daypass: &Daypass,
) -> impl futures_util::Stream<Item = SocketEvent> + Unpin + use<> {
    let origin = daypass.url("");
    let opened = client
        .websocket(&daypass.url("/ws"), &[("origin", &origin)])
        .await;
    let socket = opened.expect("a WebSocket");
    socket.map(|event| event.map(|message| message.is_close()).map_err(drop))
}

/// Whether a message says that it is the last, or the connection broke.
pub(crate) type SocketEvent = Result<bool, ()>;

fn draining(daypass: &Daypass) -> Option<Value> {
    let (status, body) = daypass.admin_get("/readyz")?;
    (status == 503).then(|| serde_json::from_str(&body).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_process_ends_at_once_with_0_whichever_signal_asks() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let authority = Authority::new();
    let plain = Setup::new(&provider, &echo.url());
    let tls = plain.clone().tls(&authority.issue(&["localhost"]));
    for (name, setup, signal) in [
        ("SIGTERM", &plain, Daypass::term as fn(&Daypass)),
        ("SIGINT", &plain, Daypass::interrupt),
        ("SIGTERM, HTTP/2", &tls, Daypass::term),
    ] {
        let mut daypass = Daypass::ready(BINARY, setup);
        // It has served, has idle connections, and a session.
        let client = Client::trusting(&authority.pem);
        let page = client.browse(daypass.url("/")).await.expect("login");
        assert_eq!(page.status, 200, "{name}");
        assert_eq!(
            format!("{:?}", page.version) == "HTTP/2.0",
            name.contains("HTTP/2"),
            "{name}"
        );
        signal(&daypass);
        exits_well(&mut daypass, PROMPTLY);
        let said = daypass.wait_for_log(&["\"message\":\"drained\""], PATIENCE);
        assert!(said.is_some(), "{name}: {}", daypass.log());
    }
}

/// The whole order of it: not ready, no new connections, what is under way goes on, and then the end.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_in_order() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let mut daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let client = Client::new();
    assert_eq!(
        client.browse(daypass.url("/")).await.expect("login").status,
        200
    );
    let slow = tokio::spawn(client.get(daypass.url("/slow?ms=5000")).send());
    arrived(&echo, "/slow?ms=5000");
    daypass.term();
    let report = wait_for(PATIENCE, || draining(&daypass)).expect("not ready while it drains");
    assert_eq!(report["checks"]["draining"], "draining", "{report}");
    assert_eq!(report["status"], "unready", "{report}");
    assert_eq!(
        daypass.admin_get("/healthz").map(|(status, _)| status),
        Some(200),
        "alive all the same"
    );
    let refused = wait_for(PATIENCE, || {
        TcpStream::connect(daypass.public()).is_err().then_some(())
    });
    assert!(refused.is_some(), "new connections are refused");
    assert_eq!(daypass.exited(), None, "a request is under way");
    let answer = slow.await.expect("no panic").expect("the whole answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    exits_well(&mut daypass, PROMPTLY);
}

/// An idle keep-alive connection is closed, and a connection that is answered while draining is not kept.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_and_busy_ones_after_their_answer() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let mut daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let open = |path: &str| {
        let mut stream = TcpStream::connect(daypass.public()).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n",
            daypass.authority()
        )
        .expect("sent");
        stream
    };
    let mut idle = open("/public/one");
    let mut buffer = vec![0; 64 * 1024];
    let count = idle.read(&mut buffer).expect("an answer");
    assert!(
        buffer[..count].starts_with(b"HTTP/1.1 200"),
        "it has been answered and is kept"
    );
    let mut busy = open("/public/two?ms=4000");
    arrived(&echo, "/public/two?ms=4000");
    daypass.term();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).expect("closed in good order");
    assert!(
        draining(&daypass).is_some(),
        "closed while the other is still under way"
    );
    let mut answer = Vec::new();
    busy.read_to_end(&mut answer).expect("answered, and closed");
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    exits_well(&mut daypass, PROMPTLY);
}

/// REFRESH-05: the rotated token is stored before the process ends, even when nobody waits for it any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_under_way_is_stored_before_the_end() {
    let provider = Provider::with(|settings| settings.access_ttl = Duration::from_secs(1));
    let (echo, redis) = (Echo::start(), Redis::start());
    let setup = Setup::new(&provider, &echo.url())
        .redis(&redis)
        .set("session.refresh_before", "0s")
        .set("provider.timeout", "1s");
    let mut daypass = Daypass::ready(BINARY, &setup);
    let client = Client::new();
    // Where no token is shown, none is refreshed.
    let login = daypass.url("/oauth2/login?redirect=/public/in");
    assert_eq!(client.browse(login).await.expect("login").status, 200);
    provider.configure(|settings| settings.access_ttl = Duration::from_secs(300));
    provider.fault(Endpoint::Refresh, Fault::StallAnswer);
    // Requests give up after `provider.timeout`; the flight goes on.
    let gave_up = wait_for(PATIENCE, || {
        let url = daypass.url("/").parse().expect("a URL");
        let cookies = client.jar().header(&url).expect("cookies");
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nCookie: {cookies}\r\nConnection: close\r\n\r\n",
            daypass.authority()
        );
        let answer = raw::exchange(daypass.public(), request.as_bytes(), PATIENCE);
        (answer.status() == Some(503)).then_some(())
    });
    assert!(gave_up.is_some(), "{}", daypass.log());
    assert!(provider.wait_for_count(Endpoint::Refresh, 1, PATIENCE));
    daypass.term();
    assert!(
        wait_for(PATIENCE, || draining(&daypass)).is_some(),
        "{}",
        daypass.log()
    );
    assert_eq!(daypass.exited(), None, "a refresh is under way");
    provider.release();
    exits_well(&mut daypass, PROMPTLY);
    daypass.restart();
    daypass.wait_ready();
    assert_eq!(
        client
            .get(daypass.url("/"))
            .send()
            .await
            .expect("an answer")
            .status,
        200
    );
    assert_eq!(
        (provider.count(Endpoint::Refresh), provider.reused()),
        (1, 0),
        "the new token was there"
    );
}

/// What hangs is cut when `drain_timeout` is over, and not before; the end is still in good order.
#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_is_cut_when_time_is_up() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let setup = Setup::new(&provider, &echo.url()).set("limits.drain_timeout", "1s");
    for name in ["a request", "a stream of events", "a WebSocket"] {
        let mut daypass = Daypass::ready(BINARY, &setup);
        let client = Client::new();
        assert_eq!(
            client.browse(daypass.url("/")).await.expect("login").status,
            200
        );
        let (mut socket, mut stream, mut slow) = (None, None, None);
        match name {
            "a WebSocket" => {
                socket = Some(open_socket(&client, &daypass).await);
            }
            "a stream of events" => {
                let mut events = client
                    .get(daypass.url("/sse?ms=50"))
                    .stream()
                    .await
                    .expect("a stream");
                assert!(events.next().await.expect("alive").is_some());
                stream = Some(events);
            }
            _ => {
                slow = Some(tokio::spawn(
                    client.get(daypass.url("/hang?ms=60000")).send(),
                ));
                arrived(&echo, "/hang?ms=60000");
            }
        }
        let began = Instant::now();
        daypass.term();
        exits_well(&mut daypass, PROMPTLY);
        assert!(
            began.elapsed() > Duration::from_millis(950),
            "{name}: not before its time: {:?}",
            began.elapsed()
        );
        let said = daypass.wait_for_log(&["drain timed out"], PATIENCE);
        assert!(said.is_some(), "{name}: {}", daypass.log());
        if let Some(mut socket) = socket {
            let last = socket.next().await;
            assert!(!matches!(last, Some(Ok(false))), "{name}: {last:?}");
        }
        if let Some(mut stream) = stream {
            let ended = loop {
                match stream.next().await {
                    Ok(Some(_)) => {}
                    other => break other.is_err(),
                }
            };
            assert!(ended, "{name}: cut short, so it must not look complete");
        }
        if let Some(slow) = slow {
            assert!(
                slow.await.expect("no panic").is_err(),
                "{name}: there is no answer to give"
            );
        }
    }
}

/// A login that is half way when the process is killed is simply begun anew: nothing of it is left anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_during_login_leaves_nothing() {
    let (provider, echo, redis) = (Provider::start(), Echo::start(), Redis::start());
    let setup = Setup::new(&provider, &echo.url()).redis(&redis);
    let mut daypass = Daypass::ready(BINARY, &setup);
    let client = Client::new();
    let to_provider = client
        .navigate(daypass.url("/page"))
        .send()
        .await
        .expect("an answer");
    let to_us = client
        .navigate(to_provider.location().expect("a redirect"))
        .send()
        .await
        .expect("an answer");
    let callback = to_us.location().expect("the way back");
    assert_eq!(redis.keys(), [""; 0], "a login under way is in no store");
    provider.fault(Endpoint::Token, Fault::StallAnswer);
    let half_way = tokio::spawn(client.twin().navigate(&callback).send());
    assert!(provider.wait_for_count(Endpoint::Token, 1, PATIENCE));
    daypass.kill();
    assert!(half_way.await.expect("no panic").is_err(), "nobody answers");
    provider.release();
    assert_eq!(redis.keys(), [""; 0], "no session");
    daypass.restart();
    daypass.wait_ready();
    // The code is spent: the same callback signs nobody in, and says what to do.
    let late = client.navigate(&callback).send().await.expect("an answer");
    assert!(
        (400..500).contains(&late.status),
        "{}: {}",
        late.status,
        late.text()
    );
    assert_eq!(redis.keys(), [""; 0], "no session");
    let page = client.browse(daypass.url("/page")).await.expect("login");
    assert_eq!(
        (page.status, page.url.as_str()),
        (200, daypass.url("/page").as_str())
    );
    assert_eq!(
        provider.active_grants(),
        1,
        "spent again, the first code's grant is over"
    );
}
