//! Shows the ways to reach Redis: ACL users, Unix sockets, TLS, and configurations that cannot work.

use super::redis::{now, open, record_key};
use super::*;
use crate::session::testing::documented_rights;

#[tokio::test]
async fn an_acl_user_with_the_documented_rights_is_enough_and_a_wrong_password_is_an_outage() {
    let server = RedisServer::start();
    let rights = documented_rights("### Servers").split(' ');
    let user = ["ACL", "SETUSER", "daypass", "on", ">pa:ss/w@rd"];
    server.cli(&user.into_iter().chain(rights).collect::<Vec<_>>());
    let mut store = server.store();
    store.username = Some("daypass".into());
    store.password = Some(crate::secret::StorePassword::new("pa:ss/w@rd"));
    let (sessions, _) = open(&config(model::Store::Redis(Box::new(store.clone()))));
    let id = sessions.create(session_at(now())).await.unwrap();
    let lease = granted(sessions.lease(&id, 0).await);
    assert!(sessions.renew(&id, &lease).await.unwrap());
    sessions
        .commit(&id, &lease, &tokens(1, now()))
        .await
        .unwrap();
    // Who lost the lease says that they still wait for an answer, and the others hear of it: that takes the time of Redis.
    let lease = granted(sessions.lease(&id, 1).await);
    let lapsed = record_key(&server).replace(":s:", ":l:");
    server.cli(&["DEL", &lapsed]);
    let thief = granted(sessions.lease(&id, 1).await);
    assert!(!sessions.renew(&id, &lease).await.unwrap());
    let answer = sessions.end(&id, &thief).await.unwrap();
    assert!(
        matches!(answer, EndAnswer::Disputed { .. }),
        "the displaced one may have been heard: {answer:?}"
    );
    sessions.give_up(&id, thief, Duration::ZERO).await.unwrap();
    let answer = sessions.lease(&id, 1).await.unwrap();
    assert!(matches!(answer, LeaseAnswer::Held { .. }), "{answer:?}");
    sessions.delete(&id).await.unwrap();
    let session = session_at(now());
    sessions.create(session.clone()).await.unwrap();
    let whose = Whose::subject(&session.issuer, &session.subject);
    let kind = crate::metrics::LogoutKind::BackChannel;
    sessions.forbid(whose, &["provider"]).await.unwrap();
    sessions.end_all(whose, kind, true, |_| {}).await.unwrap();
    assert!(
        sessions
            .use_up("iss", "jti", Duration::from_secs(1))
            .await
            .unwrap()
    );

    let right = config(model::Store::Redis(Box::new(store.clone())));
    store.password = Some(crate::secret::StorePassword::new("wrong"));
    let (sessions, _) = open(&config(model::Store::Redis(Box::new(store))));
    assert!(sessions.load(&id).await.is_err());
    // A reload brings the right one.
    sessions.reconfigure(&right).unwrap();
    eventually("let in", async || sessions.ping().await.is_ok()).await;
}

#[tokio::test]
async fn unix_sockets_work() {
    let dir = std::env::temp_dir().join(format!("daypass-redis-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let socket = dir.join("redis.sock");
    let server = RedisServer::start_with(&["--unixsocket", socket.to_str().unwrap()]);
    let mut store = server.store();
    store.url = crate::secret::StoreUrl::new(format!("unix:{}", socket.display()));
    let (sessions, _) = open(&config(model::Store::Redis(Box::new(store))));
    let id = sessions.create(session_at(now())).await.unwrap();
    found(sessions.load(&id).await);
    drop(server);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn tls_trusts_the_configured_authority_and_shows_the_client_certificate() {
    let dir = std::env::temp_dir().join(format!("daypass-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let pem = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    for name in ["server", "client"] {
        let made = std::process::Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args([
                "-addext",
                "subjectAltName=DNS:localhost",
                "-addext",
                "basicConstraints=critical,CA:FALSE",
            ])
            .args([
                "-keyout",
                &pem(&format!("{name}.key")),
                "-out",
                &pem(&format!("{name}.crt")),
            ])
            .output()
            .unwrap();
        assert!(made.status.success());
    }
    let tls_port = daypass_testbed::ports::free().port();
    let server = RedisServer::start_with(&[
        "--tls-port",
        &tls_port.to_string(),
        "--tls-cert-file",
        &pem("server.crt"),
        "--tls-key-file",
        &pem("server.key"),
        "--tls-ca-cert-file",
        &pem("client.crt"),
        "--tls-auth-clients",
        "yes",
    ]);
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let key = crate::secret::PrivateKey::new(String::from_utf8(read("client.key")).unwrap());
    let mut store = server.store();
    store.url = crate::secret::StoreUrl::new(format!("rediss://localhost:{tls_port}/0"));
    store.ca_pem = Some(read("server.crt"));
    store.client_cert = Some((read("client.crt"), key));
    let (sessions, _) = open(&config(model::Store::Redis(Box::new(store.clone()))));
    eventually("let in", async || sessions.ping().await.is_ok()).await;
    let id = sessions.create(session_at(now())).await.unwrap();
    found(sessions.load(&id).await);

    let mut anonymous = store.clone();
    anonymous.client_cert = None;
    let mut distrustful = store.clone();
    distrustful.ca_pem = None;
    for (name, store) in [
        ("no client certificate", anonymous),
        ("public authorities", distrustful),
    ] {
        let (sessions, _) = open(&config(model::Store::Redis(Box::new(store))));
        assert!(sessions.ping().await.is_err(), "{name}");
    }
    store.ca_pem = Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec());
    let broken = config(model::Store::Redis(Box::new(store)));
    assert!(Sessions::open(&broken, Arc::new(SystemClock), metrics()).is_err());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_without_quoting_it() {
    let server = RedisServer::start();
    let store = |change: &dyn Fn(&mut model::RedisStore)| {
        let mut store = server.store();
        change(&mut store);
        config(model::Store::Redis(Box::new(store)))
    };
    let url = |text: &'static str| {
        store(&|s: &mut model::RedisStore| s.url = crate::secret::StoreUrl::new(text))
    };
    for (name, config) in [
        ("no URL", url("s3cret")),
        ("another scheme", url("http://user:s3cret@localhost")),
        (
            "unverified TLS",
            url("rediss://user:s3cret@localhost/#insecure"),
        ),
        (
            "CA without TLS",
            store(&|s| s.ca_pem = Some(b"s3cret".to_vec())),
        ),
    ] {
        let error = Sessions::open(&config, Arc::new(SystemClock), metrics()).err();
        assert!(
            !error.as_ref().unwrap().contains("s3cret"),
            "{name}: {error:?}"
        );
    }
    assert!(
        Sessions::open(
            &url("rediss://localhost:6390/2"),
            Arc::new(SystemClock),
            metrics()
        )
        .is_ok()
    );

    let (sessions, _) = open(&server.config());
    assert!(sessions.reconfigure(&url("redis://127.0.0.1:1/0")).is_err());
    assert!(
        sessions
            .reconfigure(&store(&|s| s.key_prefix = "other:".into()))
            .is_err()
    );
    assert!(sessions.reconfigure(&memory_config(1)).is_err());
    assert!(sessions.reconfigure(&server.config()).is_ok());
}
