//! Listens to `session/events` as a page does: over HTTP/1.1 and HTTP/2, from the first event to the last.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use daypass_testbed::client::{Call, Client, Response, Streaming};
use daypass_testbed::echo::Echo;
use daypass_testbed::pki::Authority;
use daypass_testbed::provider::{Endpoint, Provider};
use daypass_testbed::raw::wait_for;
use daypass_testbed::redis::Redis;
use serde_json::Value;

use crate::stage::{JANE, PATIENCE, Stage};

const EVENTS: &str = "/oauth2/session/events";

/// A page that listens.
struct Page {
    stream: Streaming,
    text: String,
    /// The id to come back with.
    last_id: String,
    retry: Option<u64>,
}

/// One event.
#[derive(Debug)]
struct Event {
    kind: String,
    data: Value,
}

impl Page {
    async fn open(call: Call) -> Self {
        let stream = call.stream().await.expect("a stream");
        assert_eq!(stream.status, 200);
        let mut page = Self {
            stream,
            text: String::new(),
            last_id: String::new(),
            retry: None,
        };
        // The first block sets the id and the pause before coming back; it is no event.
        while page.last_id.is_empty() {
            let block = page.block().await.expect("an opening");
            assert!(page.read(&block).is_none(), "{block}");
        }
        page
    }

    async fn of(stage: &Stage) -> Self {
        Self::open(stage.client.get(stage.daypass.url(EVENTS))).await
    }

    /// Comes back as a browser does.
    async fn again(stage: &Stage, last_id: &str) -> Self {
        let call = stage.client.get(stage.daypass.url(EVENTS));
        Self::open(call.header("last-event-id", last_id)).await
    }

    /// The next block of lines; `None` at the proper end.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(block);
            }
            let piece = tokio::time::timeout(PATIENCE, self.stream.next()).await;
            let piece = piece.expect("something in time").expect("a proper end")?;
            self.text
                .push_str(std::str::from_utf8(&piece).expect("UTF-8"));
        }
    }

    /// What the lines of a block mean to a browser.
    fn read(&mut self, block: &str) -> Option<Event> {
        let (mut kind, mut data) = (String::new(), String::new());
        for line in block.lines() {
            match line.split_once(':').expect("a field") {
                ("", _) => {}
                ("event", value) => value.trim_start().clone_into(&mut kind),
                ("data", value) => value.trim_start().clone_into(&mut data),
                ("id", value) => value.trim_start().clone_into(&mut self.last_id),
                ("retry", value) => self.retry = value.trim_start().parse().ok(),
                other => panic!("{other:?}"),
            }
        }
        (!data.is_empty()).then(|| Event {
            kind,
            data: serde_json::from_str(&data).expect("JSON"),
        })
    }

    /// The next event; `None` at the proper end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.block().await?;
            if let Some(event) = self.read(&block) {
                return Some(event);
            }
        }
    }

    async fn expect(&mut self, kind: &str) -> Value {
        let event = self
            .next()
            .await
            .unwrap_or_else(|| panic!("the end, no {kind}"));
        assert_eq!(event.kind, kind, "{event:?}");
        event.data
    }
}

async fn go(call: Call) -> Response {
    call.send().await.expect("an answer")
}

/// Uses the session until its token has been refreshed once more.
async fn refresh(stage: &Stage) {
    let before = stage.provider.count(Endpoint::Refresh);
    let deadline = Instant::now() + PATIENCE;
    while stage.provider.count(Endpoint::Refresh) == before {
        assert!(Instant::now() < deadline, "no refresh");
        assert_eq!(
            go(stage.client.get(stage.daypass.url("/a"))).await.status,
            200
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn short_lived(in_redis: Option<&Redis>) -> Stage {
    let provider = Provider::with(|settings| settings.access_ttl = Duration::from_secs(2));
    Stage::with(provider, Echo::start(), |setup, _| {
        let setup = setup.set("session.refresh_before", "1s");
        match in_redis {
            Some(redis) => setup.redis(redis),
            None => setup,
        }
    })
}

/// PRODUCT §3, BFF-02
#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_told_of_refreshes_and_of_the_end() {
    let redis = Redis::start();
    for store in [None, Some(&redis)] {
        let stage = short_lived(store);
        stage.sign_in().await;
        let mut page = Page::of(&stage).await;
        let headers = &page.stream.headers;
        assert_eq!(headers["content-type"], "text/event-stream");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["x-accel-buffering"], "no");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert!(headers.contains_key("x-request-id"));
        assert_eq!(page.retry, Some(3000));
        stage.wait_for_metric("daypass_streams_active", &[("route", "_daypass")], 1.0);

        refresh(&stage).await;
        let mut told = page.expect("refreshed").await;
        assert_eq!(
            (&told["active"], &told["subject"]),
            (&true.into(), &JANE.into())
        );
        let mut session = go(stage.client.get(stage.daypass.url("/oauth2/session")))
            .await
            .json();
        // The same document, but for the seconds that have passed and further refreshes.
        for document in [&mut told, &mut session] {
            document["token"] = Value::Null;
            for part in [
                "expires_in_seconds",
                "idle_expires_in_seconds",
                "idle_expires_at",
            ] {
                document["session"][part] = Value::Null;
            }
        }
        assert_eq!(told, session);

        stage.sign_out_elsewhere().await;
        let told = loop {
            // A refresh may still have come in between.
            let event = page.next().await.expect("the end is told");
            if event.kind != "refreshed" {
                assert_eq!(event.kind, "ended");
                break event.data;
            }
        };
        assert_eq!(told["active"], false);
        assert_eq!(
            (&told["reason"], &told["login_url"]),
            (&"revoked".into(), &"/oauth2/login".into())
        );
        assert!(page.next().await.is_none(), "a proper end follows");
        stage.wait_for_metric(
            "daypass_streams_closed_total",
            &[("reason", "revoked")],
            1.0,
        );
        stage.wait_for_metric("daypass_streams_active", &[], 0.0);
        stage.wait_for_access(EVENTS, "revoked");
        // And who comes back is told why not.
        let refused = go(stage.client.get(stage.daypass.url(EVENTS))).await;
        assert_eq!(refused.status, 401);
        assert_eq!(
            refused.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(refused.json()["reason"], "revoked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_comes_back_is_told_what_it_missed_and_nothing_twice() {
    let stage = short_lived(None);
    stage.sign_in().await;
    let first = Page::of(&stage).await;
    let id = first.last_id.clone();
    drop(first);
    refresh(&stage).await;
    let mut back = Page::again(&stage, &id).await;
    let told = back.expect("refreshed").await;
    assert_eq!(told["active"], true);
    assert_ne!(back.last_id, id);
    // A page of an earlier login, or of another application.
    for id in ["1-0-l", "what", ""] {
        let mut strange = Page::again(&stage, id).await;
        if !id.is_empty() {
            strange.expect("refreshed").await;
        }
        assert_eq!(strange.last_id.split('-').count(), 3);
    }
    // With the latest id nothing is told until something happens.
    let mut again = Page::again(&stage, &back.last_id).await;
    stage.sign_out_elsewhere().await;
    let event = again.next().await.expect("an event");
    // Unless a refresh came in between, which the other stream was told, too.
    assert!(
        ["ended", "refreshed"].contains(&event.kind.as_str()),
        "{event:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_announced_and_listening_does_not_put_it_off() {
    // A fifth of the idle time-out before it.
    let stage = Stage::signed_in(|setup, _| setup.set("session.idle_timeout", "8s")).await;
    let mut page = Page::of(&stage).await;
    let told = page.expect("expiring").await;
    let left = told["session"]["idle_expires_in_seconds"].as_i64();
    assert!(left.is_some_and(|left| left <= 2), "{told}");
    let told = page.expect("ended").await;
    assert_eq!(told["reason"], "idle");
    assert!(page.next().await.is_none());

    let stage = Stage::signed_in(|setup, _| {
        setup
            .set("session.lifetime", "6s")
            .set("session.idle_timeout", "0")
    })
    .await;
    let mut page = Page::of(&stage).await;
    page.expect("expiring").await;
    assert_eq!(page.expect("ended").await["reason"], "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_for_the_session_s_own_pages() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let url = stage.daypass.url(EVENTS);
    let stranger = go(Client::new().get(&url)).await;
    assert_eq!(
        (stranger.status, stranger.json()["reason"].as_str()),
        (401, Some("no_session"))
    );
    // Not even for a navigation is this a way to log in.
    assert_eq!(go(Client::new().navigate(&url)).await.status, 401);
    let post = go(stage.client.post(&url)).await;
    assert_eq!((post.status, post.header("allow")), (405, Some("GET")));
    // CSRF-01: another site could hold all the streams a session may have.
    let foreign = stage
        .client
        .get(&url)
        .header("sec-fetch-site", "cross-site");
    assert_eq!(go(foreign).await.status, 403);
    let head = go(stage.client.request(http::Method::HEAD, &url)).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    // HTTP/1.0 has no chunks: the end of the connection is the end.
    let mut old = TcpStream::connect(stage.daypass.public()).expect("connected");
    old.set_read_timeout(Some(PATIENCE)).expect("set");
    let request = format!(
        "GET {EVENTS} HTTP/1.0\r\nHost: {}\r\nCookie: {}\r\n\r\n",
        stage.daypass.authority(),
        stage.cookie()
    );
    old.write_all(request.as_bytes()).expect("sent");
    stage.wait_for_metric("daypass_streams_active", &[], 1.0);
    stage.sign_out_elsewhere().await;
    let mut answer = String::new();
    old.read_to_string(&mut answer).expect("an end");
    assert!(answer.contains("\r\n\r\nretry: 3000\nid: "), "{answer}");
    assert!(answer.contains("event: ended\ndata: {"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_holds_so_many_streams_and_no_more() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let mut pages = Vec::new();
    for _ in 0..8 {
        pages.push(Page::open(stage.client.twin().get(stage.daypass.url(EVENTS))).await);
    }
    let ninth = go(stage.client.get(stage.daypass.url(EVENTS))).await;
    assert_eq!(ninth.status, 429);
    assert_eq!(
        ninth.header("content-type"),
        Some("application/problem+json")
    );
    assert!(
        ninth
            .header("retry-after")
            .is_some_and(|wait| wait.parse::<u64>().is_ok())
    );
    // Other sessions have their own, and a page that leaves makes room.
    let other = Client::new();
    other
        .browse(stage.daypass.url("/oauth2/login"))
        .await
        .expect("a login");
    Page::open(other.get(stage.daypass.url(EVENTS))).await;
    pages.pop();
    stage.wait_for_metric("daypass_streams_active", &[], 7.0);
    pages.push(Page::of(&stage).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_carries_many_of_them_on_one_connection() {
    let authority = Authority::new();
    let certificate = authority.issue(&["localhost", "127.0.0.1"]);
    let mut stage = Stage::new(|setup, _| setup.tls(&certificate));
    stage.client = Client::trusting(&authority.pem);
    stage.sign_in().await;
    let mut pages = Vec::new();
    for _ in 0..8 {
        let page = Page::of(&stage).await;
        assert_eq!(format!("{:?}", page.stream.version), "HTTP/2.0");
        assert!(!page.stream.headers.contains_key("transfer-encoding"));
        pages.push(page);
    }
    // A page that leaves resets its stream: its place is free, and the others go on.
    pages.pop();
    stage.wait_for_metric("daypass_streams_active", &[], 7.0);
    let out = stage.client.post(stage.daypass.url("/oauth2/logout/local"));
    assert_eq!(
        go(out.header("sec-fetch-site", "same-origin")).await.status,
        204
    );
    for page in &mut pages {
        assert_eq!(page.expect("ended").await["reason"], "revoked");
        assert!(page.next().await.is_none(), "a proper end follows");
    }
}

/// K8S-10
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_sends_its_pages_elsewhere() {
    let mut stage = Stage::signed_in(|setup, _| setup).await;
    let mut page = Page::of(&stage).await;
    stage.daypass.term();
    while let Some(block) = page.block().await {
        assert!(page.read(&block).is_none(), "no event: {block}");
    }
    let retry = page.retry.expect("a hint");
    assert!((500..3500).contains(&retry), "{retry}");
    // Nobody waits for the drain's end on its account.
    let began = Instant::now();
    let status = stage.daypass.wait_exit(PATIENCE).expect("an end");
    assert!(status.success() && began.elapsed() < PATIENCE);
    assert!(
        wait_for(PATIENCE, || TcpStream::connect(stage.daypass.public())
            .is_err()
            .then_some(()))
        .is_some()
    );
}
