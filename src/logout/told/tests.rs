//! Shows what a provider can end by saying so, and what it cannot.

use super::*;
use crate::logout::flow::tests::{World, world, world_of};
use crate::oidc::CallError;
use crate::rp::fakes;

const LONG_SID: &str = "08a5019c-17e1-4977";

/// A token that claims to be of `issuer`; what it says, the fake provider tells.
fn token(issuer: &str) -> String {
    use base64::Engine as _;
    let encode = |text: String| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.",
        encode("{}".into()),
        encode(format!(r#"{{"iss":"{issuer}"}}"#))
    )
}

async fn session(world: &World, subject: &str, sid: Option<&str>) -> SessionId {
    let mut session = fakes::session("provider");
    session.subject = subject.into();
    session.sid = sid.map(Into::into);
    world.store.create(session).await.unwrap()
}

fn counted(world: &World, series: &str) -> bool {
    let text = String::from_utf8(world.flow.metrics.encode().unwrap()).unwrap();
    text.lines().any(|line| line == series)
}

/// LOGOUT-08, LOGOUT-09, LOGOUT-10, LOGOUT-12
#[tokio::test]
async fn a_good_token_ends_its_sessions_once() {
    let world = world(&["provider"]);
    let ended = session(&world, "jane", Some("s1")).await;
    let other = session(&world, "jane", Some("s2")).await;
    let token = token("https://provider.example");
    world.flow.back_channel(&token).await.unwrap();
    assert!(world.store.get(&ended).is_none() && world.store.get(&other).is_some());
    assert_eq!(world.store.forbidden(), ["s1"], "for logins under way");
    assert!(counted(
        &world,
        r#"daypass_logouts_total{kind="back_channel"} 1"#
    ));
    assert!(counted(
        &world,
        r#"daypass_session_ends_total{reason="logout"} 1"#
    ));
    let again = world.flow.back_channel(&token).await;
    assert_eq!(again, Err(BackChannelError::Invalid("it was used before")));

    *world.idp.logout_token.lock() = || {
        let mut token = fakes::logout_token();
        (token.id, token.sid) = ("token-2".into(), None);
        Ok(token)
    };
    world.flow.back_channel(&token).await.unwrap();
    assert!(world.store.get(&other).is_none());
    *world.idp.logout_token.lock() = || {
        let mut token = fakes::logout_token();
        token.id = "token-3".into();
        Ok(token)
    };
    world
        .flow
        .back_channel(&token)
        .await
        .expect("nothing to end is fine");
}

/// Back-Channel Logout §2.4: the token's audience is one client.
#[tokio::test]
async fn a_token_ends_the_sessions_of_its_client_only() {
    // Two clients at one issuer, and a second way in for the first.
    let issuer = "https://provider.example";
    let mut models = ["provider", "other", "again"].map(fakes::provider);
    for model in &mut models {
        model.issuer = issuer.into();
    }
    models[1].client_id = "blog".into();
    let world = world_of(models.into());
    let mut ids = Vec::new();
    for provider in ["provider", "other", "again"] {
        let mut session = fakes::session(provider);
        (session.issuer, session.sid) = (issuer.into(), Some("s1".into()));
        ids.push(world.store.create(session).await.unwrap());
    }
    // The first one takes the token.
    world.flow.back_channel(&token(issuer)).await.unwrap();
    let left = [0, 1, 2].map(|at| world.store.get(&ids[at]).is_some());
    assert_eq!(left, [false, true, false]);
}

#[tokio::test]
async fn a_failure_leaves_the_token_good_and_a_bad_token_ends_nothing() {
    let world = world(&["provider", "other"]);
    let id = session(&world, "jane", Some("s1")).await;
    let good = token("https://provider.example");
    world.store.fail(true);
    let error = world.flow.back_channel(&good).await.unwrap_err();
    assert!(matches!(error, BackChannelError::Unavailable(_)), "{error}");
    world.store.fail(false);

    *world.idp.logout_token.lock() = || Err(LogoutTokenError::Keys(fakes::outage()));
    let error = world.flow.back_channel(&good).await.unwrap_err();
    assert!(matches!(error, BackChannelError::Unavailable(_)), "{error}");
    *world.idp.logout_token.lock() =
        || Err(LogoutTokenError::Keys(CallError::Metadata("x".into())));
    assert!(world.flow.back_channel(&good).await.is_err());
    *world.idp.logout_token.lock() = || Err(LogoutTokenError::Refused("it has a `nonce`"));
    for (name, token, want) in [
        ("refused", good.clone(), "it has a `nonce`"),
        (
            "unknown issuer",
            token("https://evil.example"),
            "`iss` is none of our providers",
        ),
        ("no token", "x".to_owned(), "it is no signed JWT"),
        ("nothing", String::new(), "it is no signed JWT"),
    ] {
        let error = world.flow.back_channel(&token).await.unwrap_err();
        assert_eq!(error, BackChannelError::Invalid(want), "{name}");
    }
    assert!(world.store.get(&id).is_some());
    // What another provider says is of its own sessions only: the fake says `s1` of jane, too.
    world
        .flow
        .back_channel(&token("https://other.example"))
        .await
        .unwrap();
    assert!(world.store.get(&id).is_some());

    *world.idp.logout_token.lock() = || Ok(fakes::logout_token());
    world.flow.back_channel(&good).await.unwrap();
    assert!(world.store.get(&id).is_none());
}

/// LOGOUT-14
#[tokio::test]
async fn a_frame_ends_the_named_session_with_or_without_its_cookie() {
    let issuer = "https://provider.example";
    for (row, own_sid, asked, with_cookie, gone, own) in [
        ("by sid alone", LONG_SID, LONG_SID, false, true, false),
        ("with the cookie", LONG_SID, LONG_SID, true, true, true),
        ("a sid that can be guessed", "17", "17", false, false, false),
        ("the same with the cookie", "17", "17", true, true, true),
        (
            "another sid with the cookie",
            "17",
            "18",
            true,
            false,
            false,
        ),
        (
            "another long sid",
            LONG_SID,
            "another-sid-of-some-length",
            true,
            false,
            false,
        ),
    ] {
        let world = world(&["provider"]);
        let id = session(&world, "jane", Some(own_sid)).await;
        let none = session(&world, "jane", None).await;
        let carried = [id.clone(), none.clone()];
        let carried = if with_cookie { &carried[..] } else { &[] };
        let done = world
            .flow
            .front_channel(&world.origin, issuer, asked, carried)
            .await
            .unwrap();
        assert_eq!(
            (world.store.get(&id).is_none(), done.own),
            (gone, own),
            "{row}"
        );
        assert!(world.store.get(&none).is_some(), "{row}");
        assert_eq!(done.framed_by, [issuer], "{row}");
        let count = format!(
            r#"daypass_logouts_total{{kind="front_channel"}} {}"#,
            u8::from(gone)
        );
        assert!(counted(&world, &count), "{row}");
        world.flow.revoker.drained().await;
        assert_eq!(world.idp.count("revoke"), 0, "{row}");
        assert!(
            world.store.forbidden().is_empty(),
            "{row}: nothing is written without a session"
        );
    }
}

#[tokio::test]
async fn a_frame_of_a_stranger_or_an_outage_ends_nothing() {
    let world = world(&["provider"]);
    let id = session(&world, "jane", Some(LONG_SID)).await;
    let ask = async |issuer| {
        let carried = std::slice::from_ref(&id);
        world
            .flow
            .front_channel(&world.origin, issuer, LONG_SID, carried)
            .await
    };
    assert_eq!(
        ask("https://evil.example").await,
        Err(FrontChannelError::UnknownIssuer)
    );
    world.store.fail(true);
    assert_eq!(
        ask("https://provider.example").await,
        Err(FrontChannelError::Unavailable)
    );
    world.store.fail(false);
    assert!(world.store.get(&id).is_some());
}
