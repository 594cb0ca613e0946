//! Renders our own pages and problem documents. Knows no HTTP server.
//!
//! The pages are small semantic HTML without script; the one inline style sheet is named by its hash in the page's CSP.

use askama::Template;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::digest;
use url::Url;

mod problem;
mod text;

pub use problem::problem;
pub use text::ErrorPage;

use text::{Forward, Icon, Text};

/// A page to answer with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// HTML in UTF-8.
    pub body: String,
    /// Value of `Content-Security-Policy`; visible ASCII, so always a header value.
    pub csp: String,
}

/// What every page is told.
#[derive(Debug, Clone, Copy, Default)]
pub struct PageContext<'a> {
    /// Name of the application (`pages.title`).
    pub app_title: Option<&'a str>,
    /// What a user can quote; empty when there is none.
    pub request_id: &'a str,
    /// Where "Try again" or "Sign in" leads, and at a wrong address "Open the application": a path of ours or an http(s)
    /// URL. Anything else is left out; then, and on pages where trying again is of no use, the way leads to `/`.
    pub retry: Option<&'a str>,
    /// Where "Sign out" leads, for a signed-in user without access; not shown on other pages.
    pub sign_out: Option<&'a str>,
    /// A word that tells an expert more, such as the provider's cleaned `error` code.
    pub code: Option<&'a str>,
}

/// One way to sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What the user sees.
    pub label: String,
    /// Where it leads: a path of ours.
    pub href: String,
}

impl ErrorPage {
    /// The page for people.
    pub fn render(self, context: PageContext<'_>) -> Page {
        let text = self.text();
        let retry = context.retry.filter(|href| is_link(href));
        let sign_out = match self {
            Self::DeniedClaims | Self::DeniedScopes => {
                context.sign_out.filter(|href| is_link(href))
            }
            _ => None,
        };
        page(
            &Error {
                heading: text.title,
                icon: text.icon,
                context,
                style: STYLE,
                primary: forward(text.forward, retry),
                sign_out,
                text,
            },
            None,
        )
    }

    /// The same for programs (RFC 9457); `login_url` where signing in helps.
    pub fn problem(self, login_url: Option<&str>, request_id: &str) -> String {
        let text = self.text();
        problem(
            text.status,
            text.reason,
            text.title,
            text.explanation,
            login_url,
            request_id,
        )
    }
}

/// Lets the user choose among several providers.
pub fn chooser(context: PageContext<'_>, choices: &[Choice]) -> Page {
    page(
        &Chooser {
            heading: "Sign in",
            icon: Icon::Person,
            context,
            style: STYLE,
            choices,
        },
        None,
    )
}

/// Says that the session has ended; `sign_in` is a path of ours.
pub fn signed_out(context: PageContext<'_>, sign_in: &str) -> Page {
    page(
        &SignedOut {
            heading: "You are signed out",
            icon: Icon::Done,
            context,
            style: STYLE,
            sign_in,
        },
        None,
    )
}

/// Opens `target` once more, from here: a browser that another site sent holds back `SameSite=Strict` cookies, and its next
/// request, which this page makes, carries them.
///
/// `target` is a path of ours or an http(s) URL.
pub fn onward(context: PageContext<'_>, target: &str) -> Page {
    let target = if is_link(target) { target } else { "/" };
    page(
        &Onward {
            heading: "One moment",
            icon: Icon::Loop,
            context,
            style: STYLE,
            target,
        },
        None,
    )
}

/// Asks before a logout that another site started (CSRF-06): a form that posts to `action`, with `redirect` in a hidden
/// field of that name; `cancel` is where "Stay signed in" leads.
///
/// Chromium holds every redirect after a form to `form-action`, so `redirect_origins` must name where the answer to the
/// form may lead: the origins of the providers' `end_session_endpoint`s, or the scheme source `https:` where a provider sends
/// the browser on to others. Texts that are neither are left out.
pub fn confirm_logout(
    context: PageContext<'_>,
    action: &str,
    redirect: Option<&str>,
    cancel: &str,
    redirect_origins: &[String],
) -> Page {
    page(
        &ConfirmLogout {
            heading: "Sign out?",
            icon: Icon::Door,
            context,
            style: STYLE,
            action,
            redirect,
            cancel,
        },
        Some(redirect_origins),
    )
}

const STYLE: &str = include_str!("../templates/page.css");

#[derive(Template)]
#[template(path = "error.html")]
struct Error<'a> {
    heading: &'a str,
    icon: Icon,
    context: PageContext<'a>,
    style: &'static str,
    text: Text,
    primary: Option<(&'static str, &'a str)>,
    sign_out: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "chooser.html")]
struct Chooser<'a> {
    heading: &'a str,
    icon: Icon,
    context: PageContext<'a>,
    style: &'static str,
    choices: &'a [Choice],
}

#[derive(Template)]
#[template(path = "signed_out.html")]
struct SignedOut<'a> {
    heading: &'a str,
    icon: Icon,
    context: PageContext<'a>,
    style: &'static str,
    sign_in: &'a str,
}

#[derive(Template)]
#[template(path = "onward.html")]
struct Onward<'a> {
    heading: &'a str,
    icon: Icon,
    context: PageContext<'a>,
    style: &'static str,
    target: &'a str,
}

#[derive(Template)]
#[template(path = "confirm_logout.html")]
struct ConfirmLogout<'a> {
    heading: &'a str,
    icon: Icon,
    context: PageContext<'a>,
    style: &'static str,
    action: &'a str,
    redirect: Option<&'a str>,
    cancel: &'a str,
}

/// `form` holds the further places a form's answer may lead to; `None` for pages without a form.
fn page(template: &impl Template, form: Option<&[String]>) -> Page {
    Page {
        body: template
            .render()
            .expect("rendering texts into a string has nothing that can fail"),
        csp: csp(form),
    }
}

/// PAGE-01.
fn csp(form: Option<&[String]>) -> String {
    let hash = BASE64_STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()));
    let mut csp = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; frame-ancestors 'none'; base-uri 'none'; form-action "
    );
    let Some(places) = form else {
        csp.push_str("'none'");
        return csp;
    };
    csp.push_str("'self'");
    for source in places.iter().filter_map(|place| form_source(place)) {
        csp.push(' ');
        csp.push_str(&source);
    }
    csp
}

/// A source expression, made anew from its parts: nothing a configuration holds can add a directive.
fn form_source(place: &str) -> Option<String> {
    if place == "https:" {
        return Some(place.to_owned());
    }
    let url = Url::parse(place).ok()?;
    matches!(url.scheme(), "https" | "http").then(|| url.origin().ascii_serialization())
}

/// Label and target of the main button.
fn forward(wish: Forward, retry: Option<&str>) -> Option<(&'static str, &str)> {
    match (wish, retry) {
        (Forward::TryAgain, Some(href)) => Some(("Try again", href)),
        (Forward::SignIn, Some(href)) => Some(("Sign in", href)),
        (Forward::Address, Some(href)) => Some(("Open the application", href)),
        // At a wrong address there is no start page.
        (Forward::Address, None) => None,
        (Forward::TryAgain | Forward::SignIn, None) | (Forward::Start, _) => {
            Some(("Go to the start page", "/"))
        }
    }
}

/// Keeps `javascript:` and its like out of links, whoever hands them in.
fn is_link(href: &str) -> bool {
    let is_path = href.starts_with('/') && !href.starts_with("//") && !href.starts_with("/\\");
    is_path || href.starts_with("https://") || href.starts_with("http://")
}

#[cfg(test)]
mod tests;
