//! Shows that every page is complete, escaped and as strict as it says.

use super::*;
use crate::metrics::Unauthenticated;

const EVERY: &[ErrorPage] = &[
    ErrorPage::NotFound,
    ErrorPage::Misdirected,
    ErrorPage::DeniedRoute,
    ErrorPage::DeniedClaims,
    ErrorPage::DeniedScopes,
    ErrorPage::CrossSite,
    ErrorPage::Unauthenticated(Unauthenticated::NoSession),
    ErrorPage::Unauthenticated(Unauthenticated::Expired),
    ErrorPage::Unauthenticated(Unauthenticated::Idle),
    ErrorPage::Unauthenticated(Unauthenticated::Revoked),
    ErrorPage::LoginRefused,
    ErrorPage::LoginExpired,
    ErrorPage::LoginInvalid,
    ErrorPage::CookiesBlocked,
    ErrorPage::LoginLoop,
    ErrorPage::UnknownProvider,
    ErrorPage::ProviderUnavailable,
    ErrorPage::StoreUnavailable,
    ErrorPage::LogoutFailed,
    ErrorPage::BadRequest,
    ErrorPage::MethodNotAllowed,
    ErrorPage::TooLarge,
    ErrorPage::HeadersTooLarge,
    ErrorPage::TooSlow,
    ErrorPage::RateLimited,
    ErrorPage::UpstreamUnavailable,
    ErrorPage::UpstreamTimeout,
    ErrorPage::Internal,
];

fn context() -> PageContext<'static> {
    PageContext {
        app_title: Some("Acme Shop"),
        request_id: "01JD6Y5Q3Z8K4W0M7T2R9XHVBN",
        retry: Some("/oauth2/login?redirect=%2Forders"),
        sign_out: Some("/oauth2/logout"),
        code: None,
    }
}

/// Every page by a name fit for a file.
fn all_pages() -> Vec<(String, Page)> {
    let mut pages: Vec<_> = EVERY
        .iter()
        .map(|error| {
            (
                format!("{error:?}").replace(['(', ')'], ""),
                error.render(context()),
            )
        })
        .collect();
    let choices = [
        "Employees",
        "Customers <b>&",
        "Partner log-in with a rather long name that wraps",
    ]
    .map(|label| Choice {
        label: label.to_owned(),
        href: "/oauth2/login?provider=x&redirect=%2F".to_owned(),
    });
    pages.push(("Chooser".into(), chooser(context(), &choices)));
    pages.push(("SignedOut".into(), signed_out(context(), "/oauth2/login")));
    pages.push(("Onward".into(), onward(context(), "/orders?a=1")));
    pages.push((
        "ConfirmLogout".into(),
        confirm_logout(context(), "/oauth2/logout", Some("/bye"), "/", &[]),
    ));
    let refused = PageContext {
        code: Some("access_denied"),
        ..context()
    };
    pages.push((
        "LoginRefusedWithCode".into(),
        ErrorPage::LoginRefused.render(refused),
    ));
    pages.push((
        "Bare".into(),
        ErrorPage::NotFound.render(PageContext::default()),
    ));
    pages
}

/// PAGE-02
#[test]
fn every_page_is_complete_and_loads_nothing() {
    for (name, page) in all_pages() {
        let body = &page.body;
        for (part, count) in [
            ("<!doctype html>", 1),
            ("<html lang=\"en\">", 1),
            ("<title>", 1),
            ("<h1", 1),
            ("<main", 1),
            ("name=\"viewport\"", 1),
            ("<script", 0),
            ("style=", 0),
            ("src=", 0),
            ("<link", 0),
            ("url(", 0),
            ("@import", 0),
        ] {
            assert_eq!(body.matches(part).count(), count, "{name}: {part}");
        }
        assert!(body.contains("<a class=\"button"), "{name}: no way forward");
        if name != "Bare" {
            assert!(body.contains(context().request_id), "{name}");
            assert!(body.contains("Acme Shop"), "{name}");
        }
    }
}

/// PAGE-01
#[test]
fn the_csp_names_the_very_style_sheet_of_the_page() {
    for (name, page) in all_pages() {
        let (_, rest) = page.body.split_once("<style>").unwrap();
        let (style, _) = rest.split_once("</style>").unwrap();
        let hash = BASE64_STANDARD.encode(digest::digest(&digest::SHA256, style.as_bytes()));
        for part in [
            "default-src 'none'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            &format!("style-src 'sha256-{hash}'"),
        ] {
            assert!(page.csp.contains(part), "{name}: {part}");
        }
        assert!(http::HeaderValue::from_str(&page.csp).is_ok(), "{name}");
    }
}

#[test]
fn form_action_is_closed_without_a_form_and_names_only_origins_with_one() {
    assert!(csp(None).ends_with("form-action 'none'"));
    let places = [
        "https://idp.example/realms/acme?x=1",
        "http://127.0.0.1:9000",
        "https:",
        "javascript:alert(1)",
        "data:text/html,x",
        "*; script-src 'unsafe-inline'",
        "https://a b; script-src *",
    ]
    .map(str::to_owned);
    let page = confirm_logout(context(), "/oauth2/logout", None, "/", &places);
    let (_, form_action) = page.csp.split_once("form-action ").unwrap();
    assert_eq!(
        form_action,
        "'self' https://idp.example http://127.0.0.1:9000 https:"
    );
}

/// FLOW-19, PAGE-02
#[test]
fn whatever_is_shown_is_escaped() {
    let evil = "\"><script>alert(1)</script>";
    let context = PageContext {
        app_title: Some(evil),
        request_id: evil,
        retry: Some("/\"><script>"),
        sign_out: Some("/\"><script>"),
        code: Some(evil),
    };
    let choice = Choice {
        label: evil.into(),
        href: evil.into(),
    };
    for page in [
        ErrorPage::DeniedClaims.render(context),
        ErrorPage::LoginRefused.render(context),
        chooser(context, &[choice]),
        signed_out(context, evil),
        confirm_logout(context, evil, Some(evil), evil, &[]),
    ] {
        assert!(!page.body.contains("<script"), "{}", page.body);
    }
}

#[test]
fn a_link_that_runs_code_or_leaves_unseen_is_left_out() {
    for href in [
        "javascript:alert(1)",
        "//evil.example",
        "/\\evil.example",
        "data:text/html,x",
        "",
    ] {
        let context = PageContext {
            retry: Some(href),
            ..PageContext::default()
        };
        let page = ErrorPage::LoginExpired.render(context);
        assert!(page.body.contains("href=\"/\""), "{href}");
    }
}

/// The reasons of the contract (PRODUCT §3) and their statuses.
#[test]
fn reasons_and_statuses_are_stable() {
    for (page, status, reason) in [
        (
            ErrorPage::Unauthenticated(Unauthenticated::NoSession),
            401,
            "no_session",
        ),
        (
            ErrorPage::Unauthenticated(Unauthenticated::Expired),
            401,
            "expired",
        ),
        (
            ErrorPage::Unauthenticated(Unauthenticated::Idle),
            401,
            "idle",
        ),
        (
            ErrorPage::Unauthenticated(Unauthenticated::Revoked),
            401,
            "revoked",
        ),
        (
            ErrorPage::Unauthenticated(Unauthenticated::ProviderUnavailable),
            503,
            "provider_unavailable",
        ),
        (
            ErrorPage::Unauthenticated(Unauthenticated::StoreUnavailable),
            503,
            "store_unavailable",
        ),
        (ErrorPage::NotFound, 404, "no_route"),
        (ErrorPage::Misdirected, 421, "misdirected"),
        (ErrorPage::DeniedClaims, 403, "claims"),
        (ErrorPage::CrossSite, 403, "cross_site"),
        (ErrorPage::TooLarge, 413, "too_large"),
        (ErrorPage::TooSlow, 408, "too_slow"),
        (ErrorPage::RateLimited, 429, "rate_limited"),
        (ErrorPage::UpstreamUnavailable, 502, "upstream_unavailable"),
        (ErrorPage::UpstreamTimeout, 504, "upstream_timeout"),
    ] {
        assert_eq!(page.status().as_u16(), status, "{page:?}");
        assert_eq!(page.reason(), reason, "{page:?}");
        let problem: serde_json::Value = serde_json::from_str(&page.problem(None, "r")).unwrap();
        assert_eq!(problem["status"], status, "{page:?}");
    }
}

/// `DAYPASS_PAGES=<folder> cargo test --lib pages -- --ignored` writes every page and its CSP there, to be
/// looked at in a browser.
#[test]
#[ignore = "writes files to look at"]
fn write_every_page_to_a_folder() {
    let folder = std::path::PathBuf::from(std::env::var_os("DAYPASS_PAGES").unwrap());
    std::fs::create_dir_all(&folder).unwrap();
    for (name, page) in all_pages() {
        std::fs::write(folder.join(format!("{name}.csp")), page.csp).unwrap();
        std::fs::write(folder.join(format!("{name}.html")), page.body).unwrap();
    }
}
