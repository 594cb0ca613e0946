//! Shows that `same_site: strict` works in a browser, although the way back from a login starts at another site.

use daypass_testbed::node;

use super::{ACCESS_TTL, LIMIT, Real};

#[test]
fn a_strict_cookie_signs_in_from_another_site() {
    let real = Real::start("off", |setup| {
        setup.set("session.cookie.same_site", "strict")
    });
    let (url, issuer) = (real.url("/"), real.provider.issuer());
    let expiry = ACCESS_TTL.as_secs().to_string();
    let arguments = [
        ("url", url.as_str()),
        ("provider", issuer.as_str()),
        ("expiry", expiry.as_str()),
    ];
    node::browser("flow.mjs", &arguments, LIMIT).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        real.provider
            .count("grant.success", Some("authorization_code")),
        2
    );
}
