//! Shows what becomes of a session when the answer to a refresh is lost with its connection.

use std::time::Duration;

use daypass_testbed::provider::{Endpoint, Fault, Rotation};

use super::rig::{Rig, assert_refused};

/// "Promptly": well within any grace period of a provider.
const PROMPT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_asked_for_once_more_at_once() {
    // REFRESH-22, REFRESH-23: every row costs two presentations, by the same holder, and no session.
    let grace = Rotation::Grace(Duration::from_secs(30));
    for (name, fault, rotation, reused) in [
        // The provider has not acted: nothing is reused.
        (
            "cut before it was read",
            Fault::DropBefore,
            Rotation::Strict,
            0,
        ),
        // It has. That the second presentation is one of a rotated token is inherent; a grace period is for this.
        ("cut after it was processed", Fault::DropAfter, grace, 1),
        ("cut in the body", Fault::TruncatedBody, grace, 1),
    ] {
        let rig = Rig::with(3, |settings| settings.rotation = rotation, |setup| setup);
        let person = rig.expired().await;
        rig.echo.forget();
        rig.provider.fault(Endpoint::Refresh, fault);
        for answer in rig.burst(&person, 60).await {
            assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        }
        rig.assert_renewed(&person);
        let asked = rig.provider.requests(Endpoint::Refresh);
        assert_eq!((asked.len(), rig.provider.reused()), (2, reused), "{name}");
        let pause = asked[1].at.duration_since(asked[0].at);
        assert!(pause < PROMPT, "{name}: asked again after {pause:?}");
        assert_eq!(
            asked[0].param("refresh_token"),
            asked[1].param("refresh_token"),
            "{name}"
        );
        assert_eq!(rig.provider.active_grants(), 1, "{name}");
        assert_eq!(
            (rig.refreshes("success"), rig.refreshes("rejected")),
            (1, 0),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_provider_that_loses_its_answer_ends_the_session_and_says_so() {
    // Nothing can save it: the only copy of the new token is gone, and the old one is spent. What must hold is that it
    // is asked once more and not for ever, and that the person is told to sign in instead of to wait.
    let rig = Rig::new();
    let person = rig.expired().await;
    for replica in 0..3 {
        assert_eq!(rig.session(&person, replica).await.status, 200);
    }
    rig.echo.forget();
    rig.provider.fault(Endpoint::Refresh, Fault::DropAfter);
    for (index, answer) in rig.burst(&person, 30).await.iter().enumerate() {
        assert_refused(answer, "revoked", &format!("request {index}"));
    }
    assert_eq!((rig.calls(), rig.provider.reused()), (2, 1), "inherent");
    assert_eq!((rig.echo.count(), rig.keys().len()), (0, 0));
    // And signing in again is all it takes.
    let again = rig.sign_in().await;
    assert_eq!(rig.get(&again, 2).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_goes_away_for_a_while_loses_nobody() {
    let mut rig = Rig::new();
    let person = rig.expired().await;
    rig.echo.forget();
    rig.provider.stop();
    for answer in rig.burst(&person, 9).await {
        super::rig::assert_unavailable(&answer, "provider_unavailable", "down");
    }
    assert_eq!((rig.calls(), rig.echo.count()), (0, 0));
    // PRODUCT §7: a provider outage alone makes no replica unready, and public routes go on.
    for replica in &rig.fleet {
        assert_eq!(replica.admin_get("/readyz").expect("an answer").0, 200);
    }
    let public = rig
        .call(&person, 1, "/public/x")
        .send()
        .await
        .expect("an answer");
    assert_eq!(public.status, 200);
    rig.echo.forget();
    rig.provider.resume();
    for replica in 0..3 {
        rig.until(&person, replica, 200).await;
    }
    rig.assert_renewed(&person);
    assert_eq!((rig.calls(), rig.provider.reused()), (1, 0));
}
