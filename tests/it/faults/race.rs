//! Shows who wins when a refresh meets a logout, or a sibling's refresh.

use daypass_testbed::provider::{Endpoint, Fault};

use super::rig::{PATIENCE, Rig, assert_refused};

/// How the provider is caught by a logout.
#[tokio::test(flavor = "multi_thread")]
async fn a_logout_beats_a_refresh_that_finishes_after_it() {
    // REFRESH-34.
    let rig = Rig::new();
    for (row, (name, fault, success)) in [
        // The provider has rotated the token already: what it answers must not come back to life.
        ("after the rotation", Fault::StallAnswer, true),
        // It gets to the token when the logout has revoked it.
        ("before the rotation", Fault::Stall, false),
    ]
    .into_iter()
    .enumerate()
    {
        let person = rig.expired().await;
        for replica in 0..3 {
            assert_eq!(rig.session(&person, replica).await.status, 200, "{name}");
        }
        rig.echo.forget();
        rig.provider.forget_requests();
        rig.provider.fault(Endpoint::Refresh, fault);
        let cookie = person.client.twin();
        let waiting = async {
            let answers = rig.burst(&person, 6).await;
            for answer in answers {
                assert_refused(&answer, "revoked", name);
            }
        };
        let leaving = async {
            tokio::task::block_in_place(|| rig.wait_for_calls(1));
            // On a replica that may or may not be the one that refreshes.
            let answer = rig.log_out(&person, row + 1).await;
            assert_eq!(answer.status, 204, "{name}: {}", answer.text());
            // The logout revokes what it found.
            let revoked = rig.provider.wait_for_count(Endpoint::Revoke, 1, PATIENCE);
            assert!(revoked, "{name}");
            rig.provider.release();
        };
        tokio::join!(waiting, leaving);
        assert_eq!(rig.calls(), 1, "{name}");
        let shown = rig.provider.requests(Endpoint::Refresh);
        let shown = shown[0].param("refresh_token").expect("a token");
        if success {
            let both = rig.provider.wait_for_count(Endpoint::Revoke, 2, PATIENCE);
            assert!(both, "{name}: the new token is revoked as well");
            let revoked = rig.provider.requests(Endpoint::Revoke);
            let revoked: Vec<_> = revoked.iter().map(|call| call.param("token")).collect();
            assert_eq!(revoked[0], Some(shown), "{name}");
            let new = revoked[1].expect("a token").to_owned();
            assert!(
                new != shown && rig.provider.issued_secrets().contains(&new),
                "{name}"
            );
        }
        assert_eq!(rig.provider.active_grants(), 0, "{name}");
        // Gone everywhere, also for a copy of the cookie, which the logout took from the browser.
        for replica in 0..3 {
            *person.client.jar() = cookie.jar().clone();
            assert_refused(&rig.get(&person, replica).await, "revoked", name);
        }
        assert_eq!(rig.keys(), [""; 0], "{name}: neither record nor lease");
        assert_eq!(rig.echo.count(), 0, "{name}");
    }
    assert_eq!(rig.provider.reused(), 0);
    assert_eq!(rig.refreshes("success"), 0);
    assert!(rig.refreshes("logged_out") >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_grant_means_nothing_when_a_sibling_has_rotated_the_token() {
    // REFRESH-20: the holder loses its lease while the provider is slow, a sibling refreshes, and only then the holder
    // hears `invalid_grant`.
    let rig = Rig::new();
    let person = rig.expired().await;
    rig.echo.forget();
    let late = [Fault::Stall, Fault::oauth("invalid_grant")];
    rig.provider.faults(Endpoint::Refresh, late);
    let holder = async {
        let answer = rig.get(&person, 0).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let sibling = async {
        tokio::task::block_in_place(|| rig.wait_for_calls(1));
        rig.redis.command(&["DEL", &person.lease()]);
        let answer = rig.get(&person, 1).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        rig.provider.release();
    };
    tokio::join!(holder, sibling);
    for answer in rig.burst(&person, 30).await {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    rig.assert_renewed(&person);
    assert_eq!(rig.generation(&person), Some(1));
    assert_eq!((rig.calls(), rig.provider.reused()), (2, 0));
    assert_eq!(
        (rig.refreshes("success"), rig.refreshes("superseded")),
        (1, 1)
    );
    assert_eq!(rig.refreshes("rejected"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_the_lease_overwrites_nothing() {
    // REFRESH-04. The late answer is a success this time, as providers without reuse detection give.
    let rig = Rig::with(
        3,
        |settings| settings.rotation = daypass_testbed::provider::Rotation::Off,
        |setup| setup,
    );
    let person = rig.expired().await;
    rig.echo.forget();
    rig.provider.fault(Endpoint::Refresh, Fault::StallAnswer);
    let holder = async { assert_eq!(rig.get(&person, 0).await.status, 200) };
    let sibling = async {
        tokio::task::block_in_place(|| rig.wait_for_calls(1));
        rig.redis.command(&["DEL", &person.lease()]);
        assert_eq!(rig.get(&person, 1).await.status, 200);
        rig.provider.release();
    };
    tokio::join!(holder, sibling);
    assert_eq!(rig.generation(&person), Some(1), "written once");
    rig.burst(&person, 9).await;
    rig.assert_renewed(&person);
    rig.assert_refreshes("superseded", 1);
    assert_eq!((rig.calls(), rig.refreshes("success")), (2, 1));
}
