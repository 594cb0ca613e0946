//! Ends sessions at one replica and looks for them at another.

use daypass_testbed::client::{Client, Response};
use daypass_testbed::provider::{Endpoint, Provider};
use daypass_testbed::raw::wait_for;
use serde_json::{Value, json};

use super::PATIENCE;
use crate::cli::process;
use crate::faults::rig::Rig;
use crate::login::go;

const JANE: &str = "248289761001";

async fn send(rig: &Rig, replica: usize, token: &str) -> Response {
    let to = rig.fleet[0].url("/oauth2/logout/backchannel");
    let sent = rig
        .provider
        .send_logout_token(&to, rig.fleet[replica].public(), token);
    sent.await.expect("an answer")
}

async fn signed_in(rig: &Rig) -> Client {
    let client = Client::new();
    let page = client
        .browse(rig.fleet[0].url("/hello"))
        .await
        .expect("a login");
    assert_eq!(page.status, 200);
    client
}

/// Status of a request at each replica.
async fn seen(rig: &Rig, client: &Client) -> Vec<u16> {
    let mut all = Vec::new();
    for replica in &rig.fleet {
        let call = client
            .get(rig.fleet[0].url("/orders"))
            .via(replica.public());
        all.push(go(call).await.status);
    }
    all
}

/// Waits until every replica refuses: Redis tells them within milliseconds.
async fn refused(rig: &Rig, client: &Client) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while seen(rig, client).await.iter().any(|status| *status != 401) {
        assert!(tokio::time::Instant::now() < deadline, "served on");
    }
}

fn token(provider: &Provider, claims: &Value) -> String {
    provider.logout_token(claims, &[])
}

/// LOGOUT-08, LOGOUT-09, SESS-08, SESS-09, REG-12
#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_is_told_is_true_at_all() {
    let rig = Rig::with(2, |_| {}, |setup| setup);
    let laptop = signed_in(&rig).await;
    let sid = rig.provider.latest_sid();
    let (phone, tablet) = (signed_in(&rig).await, signed_in(&rig).await);
    rig.provider
        .configure(|settings| settings.user = "john".to_owned());
    let other = signed_in(&rig).await;
    for client in [&laptop, &phone, &tablet, &other] {
        assert_eq!(seen(&rig, client).await, [200, 200]);
    }
    let by_sid = token(&rig.provider, &json!({"sid": sid, "sub": JANE}));
    assert_eq!(send(&rig, 0, &by_sid).await.status, 200);
    refused(&rig, &laptop).await;
    let told = laptop.get(rig.fleet[0].url("/oauth2/session"));
    let told = go(told.via(rig.fleet[1].public())).await;
    assert_eq!(
        (told.status, &told.json()["reason"]),
        (401, &json!("revoked"))
    );
    refused(&rig, &laptop).await;
    assert_eq!(seen(&rig, &phone).await, [200, 200]);
    for replica in [1, 0] {
        assert_eq!(
            send(&rig, replica, &by_sid).await.status,
            400,
            "used at {replica}"
        );
    }

    let by_sub = token(&rig.provider, &json!({"sub": JANE}));
    assert_eq!(send(&rig, 1, &by_sub).await.status, 200);
    for client in [&phone, &tablet] {
        refused(&rig, client).await;
    }
    assert_eq!(seen(&rig, &other).await, [200, 200]);
    // Sets whose members are gone go at once; what the tokens said, and whom to revoke, is remembered for minutes.
    let left = |kind: &str| {
        let keys = rig.redis.keys();
        keys.iter()
            .filter(|key| key.starts_with(&format!("daypass:{kind}:")))
            .count()
    };
    assert!(
        wait_for(PATIENCE, || (left("i") == 2).then_some(())).is_some(),
        "{:?}",
        rig.redis.keys()
    );
    assert_eq!((left("s"), left("j")), (1, 2));
    for key in rig.redis.keys() {
        assert!(!key.contains(JANE) && !key.contains(&sid), "{key}");
        let ends = rig.redis.ttl(&key).is_some();
        let gone = || rig.redis.command(&["EXISTS", &key]).integer() == Some(0);
        assert!(ends || gone(), "{key} never ends");
    }
    let dump = rig.redis.dump();
    assert!(!dump.windows(JANE.len()).any(|part| part == JANE.as_bytes()));
}

/// LOGOUT-10: a store that does not answer is no reason to lose a logout.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_again_after_an_outage_of_the_store() {
    let mut rig = Rig::with(1, |_| {}, |setup| setup);
    let client = signed_in(&rig).await;
    let token = token(&rig.provider, &json!({"sub": JANE}));
    rig.redis.kill();
    let answer = send(&rig, 0, &token).await;
    assert_eq!(
        (answer.status, answer.header("retry-after").is_some()),
        (503, true)
    );
    assert_eq!(answer.json()["error"], "temporarily_unavailable");
    let frame = format!(
        "/oauth2/logout/frontchannel?iss={}&sid=0123456789abcdef0",
        rig.provider.issuer()
    );
    assert_eq!(go(client.get(rig.fleet[0].url(&frame))).await.status, 503);
    rig.redis.restart();
    let back = wait_for(PATIENCE, || {
        let connected = rig.fleet[0].metric("daypass_store_connected", &[]);
        (connected > 0.5).then_some(())
    });
    assert!(back.is_some(), "{}", rig.fleet[0].log());
    assert_eq!(seen(&rig, &client).await, [200]);
    assert_eq!(send(&rig, 0, &token).await.status, 200);
    assert_eq!(seen(&rig, &client).await, [401]);
}

/// LOGOUT-17, PRODUCT §1
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one incident, told in its order")]
async fn an_operator_sees_and_ends_sessions_of_the_whole_fleet() {
    let rig = Rig::with(2, |_| {}, |setup| setup);
    let laptop = signed_in(&rig).await;
    let laptop_sid = rig.provider.latest_sid();
    let phone = signed_in(&rig).await;
    rig.provider
        .configure(|settings| settings.user = "john".to_owned());
    let other = signed_in(&rig).await;
    let folder = rig.fleet[0].directory();
    let sessions = |words: &[&str]| {
        let mut all = vec!["sessions"];
        all.extend_from_slice(words);
        all.extend_from_slice(&["-c", "daypass.yaml"]);
        let ended = process::run(folder, &all, &[]);
        assert_eq!(
            daypass_testbed::secrets::leaks_in(&ended.stdout),
            Vec::<String>::new()
        );
        assert_eq!(
            daypass_testbed::secrets::leaks_in(&ended.stderr),
            Vec::<String>::new()
        );
        ended
    };
    let listed = |words: &[&str]| -> Vec<Value> {
        let mut all = vec!["list", "--json"];
        all.extend_from_slice(words);
        let ended = sessions(&all);
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{words:?}");
        let lines = ended.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("a JSON line"))
            .collect()
    };

    let by_sid = listed(&["--sid", &laptop_sid]);
    assert_eq!(by_sid.len(), 1);
    let one = &by_sid[0];
    assert_eq!(
        (&one["subject"], &one["sid"]),
        (&json!(JANE), &json!(laptop_sid))
    );
    assert_eq!(one["provider"], "provider");
    let told = go(laptop.get(rig.fleet[0].url("/oauth2/session")))
        .await
        .json();
    assert_eq!(one["created_at"], told["session"]["created_at"]);
    assert_eq!(one["expires_at"], told["session"]["expires_at"]);
    let unused = one["ends_unused_in_seconds"].as_u64().expect("seconds");
    assert!((3000..=3600).contains(&unused), "{unused}");
    let reference = one["session"].as_str().expect("a reference");
    assert_eq!(reference.len(), 12);
    assert!(
        rig.fleet[0].log().contains(reference),
        "as the audit log names it"
    );
    for (words, count) in [
        (&["--subject", JANE][..], 2),
        (&["--subject", JANE, "--provider", "provider"], 2),
        (&["--subject", "nobody"], 0),
        (&["--all"], 3),
        (&["--all", "--provider", "provider"], 3),
    ] {
        assert_eq!(listed(words).len(), count, "{words:?}");
    }
    let table = sessions(&["list", "--all"]).stdout;
    assert!(
        table.starts_with("SESSION  ") && table.lines().count() == 4,
        "{table}"
    );
    assert!(
        table.contains(JANE) && table.contains(&laptop_sid),
        "{table}"
    );

    // Of a record that an earlier version wrote, nobody can tell whose it is.
    let keys = rig.redis.keys();
    let records: Vec<_> = keys
        .iter()
        .filter(|key| key.starts_with("daypass:s:"))
        .collect();
    rig.redis.command(&[
        "HSET",
        "daypass:s:{AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA}",
        "d",
        "x",
    ]);
    assert_eq!(records.len(), 3);
    let all = listed(&["--all"]);
    assert_eq!(all.iter().filter(|one| one["subject"].is_null()).count(), 1);
    assert!(sessions(&["list", "--all"]).stdout.contains("unknown"));

    let revoke = |words: &[&str]| {
        let mut all = vec!["revoke"];
        all.extend_from_slice(words);
        let ended = sessions(&all);
        assert_eq!(ended.code, Some(0), "{words:?}: {}", ended.stderr);
        // Each is written down, and nobody is named.
        let lines: Vec<Value> = ended
            .stderr
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of the audit log"))
            .collect();
        assert!(!ended.stderr.contains(JANE));
        let written = lines.iter().filter(|line| {
            line["target"] == "audit" && line["event"] == "logout" && line["kind"] == "operator"
        });
        let told = format!("ended {} session", written.count());
        assert!(ended.stdout.starts_with(&told), "{}", ended.stderr);
        ended.stdout
    };
    assert_eq!(revoke(&["--sid", "nothing"]), "ended 0 sessions\n");
    assert_eq!(revoke(&["--sid", &laptop_sid]), "ended 1 session\n");
    refused(&rig, &laptop).await;
    assert_eq!(seen(&rig, &phone).await, [200, 200]);
    assert_eq!(revoke(&["--subject", JANE]), "ended 1 session\n");
    refused(&rig, &phone).await;
    assert_eq!(seen(&rig, &other).await, [200, 200]);
    assert_eq!(
        revoke(&["--all", "--provider", "provider"]),
        "ended 1 session\n"
    );
    assert_eq!(
        revoke(&["--all"]),
        "ended 1 session\n",
        "the one nobody knows"
    );
    refused(&rig, &other).await;
    assert!(listed(&["--all"]).is_empty());

    let ended = sessions(&["revoke", "--all", "--provider", "typo"]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stderr.contains("no provider `typo`"),
        "{}",
        ended.stderr
    );
    for words in [
        &["revoke"][..],
        &["list", "--all", "--sid", "x"],
        &["end", "--all"],
    ] {
        assert_eq!(sessions(words).code, Some(2), "{words:?}");
    }
    let mut rig = rig;
    rig.redis.kill();
    let folder = rig.fleet[0].directory();
    for (action, said) in [("list", ""), ("revoke", "ended 0 sessions\n")] {
        let ended = process::run(
            folder,
            &["sessions", action, "--all", "-c", "daypass.yaml"],
            &[],
        );
        assert_eq!(ended.code, Some(1), "{action}");
        assert!(ended.stdout.ends_with(said), "{action}: {}", ended.stdout);
        assert!(
            ended.stderr.contains("session.store: "),
            "{action}: {}",
            ended.stderr
        );
    }
}

/// LOGOUT-05: a replica that drains is still the one that knows the tokens.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_only_a_draining_replica_held_is_revoked_all_the_same() {
    let mut rig = Rig::with(2, |_| {}, |setup| setup);
    let bystander = signed_in(&rig).await;
    rig.provider
        .configure(|settings| settings.user = "john".to_owned());
    signed_in(&rig).await;
    let sid = rig.provider.latest_sid();
    let slow = tokio::spawn(bystander.get(rig.fleet[0].url("/slow?ms=4000")).send());
    let arrived = wait_for(PATIENCE, || {
        let requests = rig.echo.requests();
        let mut slow = requests
            .iter()
            .filter(|seen| seen.target.starts_with("/slow"));
        slow.next().map(drop)
    });
    assert!(arrived.is_some());
    rig.fleet[0].term();
    let draining = wait_for(PATIENCE, || {
        let (status, _) = rig.fleet[0].admin_get("/readyz")?;
        (status == 503).then_some(())
    });
    assert!(draining.is_some());
    let token = token(&rig.provider, &json!({"sid": sid}));
    assert_eq!(send(&rig, 1, &token).await.status, 200);
    assert!(rig.provider.wait_for_count(Endpoint::Revoke, 1, PATIENCE));
    assert_eq!(
        slow.await.expect("no panic").expect("an answer").status,
        200
    );
    let left = rig.fleet[0].wait_exit(PATIENCE).expect("an end");
    assert_eq!(left.code(), Some(0));
}
