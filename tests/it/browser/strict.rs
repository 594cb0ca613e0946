//! Shows that `same_site: strict` works in a browser, although the way back from a login starts at another site.

use daypass_testbed::node;

use super::{LIMIT, Real, step};

#[test]
fn a_strict_cookie_signs_in_from_another_site() {
    let real = Real::start("off", |setup| {
        setup.set("session.cookie.same_site", "strict")
    });
    let (url, issuer) = (real.url("/"), real.provider.issuer());
    let arguments = [
        ("url", url.as_str()),
        ("provider", issuer.as_str()),
        ("until", "from_elsewhere"),
    ];
    let lines =
        node::browser("flow.mjs", &arguments, LIMIT).unwrap_or_else(|error| panic!("{error}"));
    let cookies = &step(&lines, "cookies")["cookies"];
    let session = cookies
        .as_array()
        .and_then(|cookies| cookies.iter().find(|cookie| cookie["name"] == "daypass"))
        .expect("a session cookie");
    assert_eq!(session["sameSite"], "Strict");
    // A link of another site comes without the cookie, and finds the session all the same.
    step(&lines, "from_elsewhere");
    assert_eq!(
        real.provider
            .count_from(1, "grant.success", Some("authorization_code")),
        1
    );
}
