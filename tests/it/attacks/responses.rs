//! Shows that an upstream cannot touch our cookies, open the session to other sites, or have answers kept for others.

use serde_json::json;

use crate::stage::Stage;

async fn stage() -> Stage {
    Stage::signed_in(|setup, upstream| {
        setup
            .route_first(json!({
                "name": "allow", "path_prefix": "/allow", "upstream": upstream, "cross_site": "allow", "rewrite_prefix": "/",
            }))
            .route_first(json!({
                "name": "optional", "path_prefix": "/optional", "access": "optional", "upstream": upstream, "rewrite_prefix": "/",
            }))
            .route_first(json!({
                "name": "changed", "path_prefix": "/changed", "upstream": upstream, "rewrite_prefix": "/",
                "headers": {"response": {"set": {"x-set": "by us", "cache-control": "no-cache"}, "remove": ["x-powered-by"]}},
            }))
            .set("routes.3.rewrite_prefix", "/")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_cannot_set_or_clear_our_cookies() {
    let stage = stage().await;
    let name = stage
        .cookie()
        .split('=')
        .next()
        .unwrap_or_default()
        .to_owned();
    let login = {
        let jar = stage.client.jar();
        let other = jar
            .cookies()
            .iter()
            .find(|cookie| cookie.name.contains("daypass") && cookie.name != name);
        other.map(|cookie| cookie.name.clone())
    };
    let mut rows: Vec<(&str, String, bool)> = vec![
        ("sets ours", format!("{name}=evil; Path=/"), false),
        ("clears ours", format!("{name}=; Max-Age=0; Path=/"), false),
        ("no attributes", format!("{name}=evil"), false),
        ("no value", name.clone(), false),
        (
            "capitals",
            format!("{}=evil", name.to_ascii_uppercase()),
            false,
        ),
        ("space before", format!("  {name}=evil"), false),
        ("tab before the sign", format!("{name}\t=evil"), false),
        ("nameless", format!("={name}=evil"), false),
        (
            "sub-domain",
            format!("{name}=evil; Domain=example.com"),
            false,
        ),
        ("its own", "a=b; Path=/; HttpOnly".to_owned(), true),
        ("alike", format!("x{name}=b; Path=/"), true),
        ("ours in the value", format!("a={name}=b"), true),
        ("ours as attribute", format!("a=b; {name}=evil"), true),
    ];
    if let Some(login) = &login {
        rows.push((
            "sets our login cookie",
            format!("{login}=evil; Path=/"),
            false,
        ));
    }
    for (row, line, passes) in rows {
        for path in ["", "/public", "/optional", "/allow"] {
            let query: String = form(&[("set-cookie", &line), ("set-cookie", "last=1")]);
            let answer = stage
                .client
                .get(stage.daypass.url(&format!("{path}/headers?{query}")));
            let answer = answer.header("cookie", stage.cookie()).without_cookies();
            let answer = answer.send().await.expect(row);
            assert_eq!(answer.status, 200, "{row}, {path}");
            let mut want = vec![line.trim().to_owned(), "last=1".to_owned()];
            if !passes {
                want.remove(0);
            }
            assert_eq!(answer.header_all("set-cookie"), want, "{row}, {path}");
        }
    }
    // The session is as it was.
    assert_eq!(
        stage
            .client
            .get(stage.daypass.url("/a"))
            .send()
            .await
            .expect("an answer")
            .status,
        200
    );
}

fn form(pairs: &[(&str, &str)]) -> String {
    let mut url = url_of(pairs);
    url.split_off(1)
}

/// `?a=b&…`, escaped as forms are.
fn url_of(pairs: &[(&str, &str)]) -> String {
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            })
            .collect()
    };
    pairs.iter().fold("?".to_owned(), |url, (name, value)| {
        let sign = if url.len() > 1 { "&" } else { "" };
        format!("{url}{sign}{}={}", name.replace('_', "-"), escape(value))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_session_are_kept_by_nobody_else() {
    // CACHE-02, CACHE-03.
    let stage = stage().await;
    for (row, given, want) in [
        ("nothing said", None, Some("private, no-cache")),
        (
            "public",
            Some("public, max-age=60"),
            Some("private, max-age=60"),
        ),
        (
            "shared age",
            Some("s-maxage=600, max-age=5"),
            Some("private, max-age=5"),
        ),
        ("capitals", Some("PUBLIC, S-MaxAge=600"), Some("private")),
        ("max-age", Some("max-age=60"), Some("private, max-age=60")),
        (
            "private",
            Some("private, max-age=60"),
            Some("private, max-age=60"),
        ),
        ("private, and public", Some("public, private"), None),
        (
            "private for one field",
            Some("private=\"x-a\""),
            Some("private"),
        ),
        ("no-store", Some("no-store"), Some("no-store")),
        ("no-cache", Some("no-cache"), Some("private, no-cache")),
        (
            "must-understand",
            Some("public, must-understand, no-store"),
            None,
        ),
    ] {
        let pairs: Vec<_> = given
            .iter()
            .map(|value| ("cache-control", *value))
            .collect();
        let target = format!("/headers{}", url_of(&pairs));
        let get = |path: &str| {
            let call = stage
                .client
                .get(stage.daypass.url(&format!("{path}{target}")));
            call.send()
        };
        for path in ["", "/optional", "/allow"] {
            let answer = get(path).await.expect(row);
            let control = answer
                .header_all("cache-control")
                .join(", ")
                .to_ascii_lowercase();
            match want {
                Some(want) => assert_eq!(control, want, "{row}, {path}"),
                None => assert!(
                    control.contains("private") || control.contains("no-store"),
                    "{row}, {path}: {control}"
                ),
            }
            let vary = answer.header_all("vary").join(", ").to_ascii_lowercase();
            assert!(
                vary.split(',').any(|name| name.trim() == "cookie"),
                "{row}, {path}: {vary}"
            );
        }
        // Public routes are the upstream's own business.
        let answer = get("/public").await.expect(row);
        assert_eq!(
            answer.header_all("cache-control"),
            given.into_iter().collect::<Vec<_>>(),
            "{row}, public"
        );
    }
    // Without session an optional route answers everybody the same, and says on what it depends.
    let answer = stage
        .client
        .get(stage.daypass.url("/optional/headers?cache-control=public"));
    let answer = answer.without_cookies().send().await.expect("an answer");
    assert_eq!(answer.header_all("cache-control"), ["public"]);
    assert!(answer.header_all("vary").join(",").contains("Cookie"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_route_that_allows_it_is_open_to_other_sites() {
    let stage = stage().await;
    let lines = [
        ("access-control-allow-origin", "https://evil.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "x-secret"),
        ("access-control-allow-private-network", "true"),
        ("x-kept", "1"),
    ];
    let target = format!("/headers{}", url_of(&lines));
    for (path, passes) in [
        ("", false),
        ("/optional", false),
        ("/allow", true),
        ("/public", true),
    ] {
        let answer = stage
            .client
            .get(stage.daypass.url(&format!("{path}{target}")))
            .send()
            .await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.header("x-kept"), Some("1"), "{path}");
        for (name, value) in &lines[..4] {
            assert_eq!(
                answer.header(name),
                passes.then_some(*value),
                "{path}: {name}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_sets_and_removes_response_headers() {
    let stage = stage().await;
    let target = url_of(&[
        ("x-powered-by", "PHP"),
        ("x-set", "upstream"),
        ("x-request-id", "upstream"),
        ("x-kept", "1"),
    ]);
    let answer = stage
        .client
        .get(stage.daypass.url(&format!("/changed/headers{target}")))
        .send()
        .await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.header("x-powered-by"), None);
    assert_eq!(answer.header_all("x-set"), ["by us"]);
    assert_eq!(answer.header("x-kept"), Some("1"));
    let ids = answer.header_all("x-request-id");
    assert!(ids.len() == 1 && ids[0] != "upstream", "{ids:?}");
    assert_eq!(
        Some(&*ids[0]),
        stage
            .arrived("id")
            .expect("it arrived")
            .header("x-request-id")
    );
}
