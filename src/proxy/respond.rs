//! Turns a refusal into an answer of the right kind: a login for a navigation, a page for people, a problem for programs.

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};

use crate::config::model::{Config, OnUnauthenticated, SameSite};
use crate::login::{CallbackError, Start, StartError, Started, Wanted};
use crate::metrics::Unauthenticated;
use crate::pages::{self, Choice, ErrorPage, PageContext};
use crate::web::cookie;
use crate::web::fetch;
use crate::web::redirect::ReturnTo;

use super::again;
use super::answer::Answer;
use super::context::Context;
use super::cookies;
use super::refusal::{Refusal, SOON};

/// Answers a refusal; a navigation without session is sent to log in.
pub(super) async fn refuse_or_login(ctx: &mut Context, head: &Parts, refusal: Refusal) -> Answer {
    if !matches!(refusal, Refusal::Unauthenticated(_)) {
        return refuse(ctx, head, &refusal);
    }
    if !wants_login(ctx, head) {
        // Nobody could log in now: a program had better come back than send its user to do so.
        let refusal = if nobody_can_log_in(ctx) {
            Refusal::ProviderUnavailable { retry_after: SOON }
        } else {
            refusal
        };
        return refuse(ctx, head, &refusal);
    }
    let return_to = here(ctx, head);
    if strict_cookie_held_back(ctx, head) {
        ctx.decision = "own";
        let config = ctx.live.config.clone();
        let page = pages::onward(page_context(&config, ctx), &return_to);
        return Answer::page(StatusCode::OK, page);
    }
    let live = ctx.live.clone();
    let provider = ctx
        .route
        .and_then(|index| live.config.routes[index].provider)
        .map(|index| live.providers[index].config().name.clone());
    let wanted = Wanted {
        return_to,
        extra: Vec::new(),
    };
    let start = Start {
        origin: &live.config.public_origins[ctx.origin],
        return_to: wanted.return_to.clone(),
        provider: provider.as_deref(),
        login_cookie: cookies::login(&live.config, head),
        extra: Vec::new(),
        client: ctx.client.ip,
        automatic: true,
        waited: &ctx.waited,
    };
    match live.login.start(start).await {
        Ok(started) => {
            ctx.decision = "login";
            ctx.refusal = Some(refusal);
            to_provider(&live.config, head, &started)
        }
        Err(error) => start_refused(ctx, head, &error, &wanted),
    }
}

/// Whether the client is a person's browser on its way to a page (FLOW-22, FLOW-23, RESP-01..06).
fn wants_login(ctx: &Context, head: &Parts) -> bool {
    let navigates = fetch::kind(&head.method, &head.headers) == fetch::Kind::Navigation;
    let rule = ctx.route.map_or(OnUnauthenticated::Auto, |index| {
        ctx.live.config.routes[index].on_unauthenticated
    });
    let wanted = match rule {
        OnUnauthenticated::Auto => navigates,
        // Even then a redirect is of use only where nothing is lost by it.
        OnUnauthenticated::Redirect => head.method == Method::GET || head.method == Method::HEAD,
        OnUnauthenticated::Unauthorized => false,
    };
    wanted && !fetch::is_prefetch(&head.headers)
}

/// Whether every provider that this route takes is known to be away.
fn nobody_can_log_in(ctx: &Context) -> bool {
    let live = &ctx.live;
    let only = ctx
        .route
        .and_then(|index| live.config.routes[index].provider);
    match only {
        Some(index) => live.providers[index].is_away(),
        None => live.providers.iter().all(|provider| provider.is_away()),
    }
}

/// Whether the session may be there although no cookie came: `SameSite=Strict` ones stay behind when another site sends the
/// browser, and every way back from a provider is such a one (RFC 6265bis §5.8.3).
///
/// The request that the page in between makes is our own and never answers to this: nothing goes round in circles.
fn strict_cookie_held_back(ctx: &Context, head: &Parts) -> bool {
    let cookie = &ctx.live.config.session.cookie;
    cookie.same_site == SameSite::Strict
        && head.method == Method::GET
        && fetch::sent_by_another_site(&head.headers)
        && cookie::find(&head.headers, &cookie.name).next().is_none()
}

/// Where the request was going, to return to after the login.
fn here(ctx: &Context, head: &Parts) -> String {
    let config = &ctx.live.config;
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let origin = &config.public_origins[ctx.origin];
    ReturnTo::parse(target, origin, &config.public_origins, &config.base_path)
        .unwrap_or_else(ReturnTo::root)
        .into_string()
}

/// Sends the browser to the provider.
pub(super) fn to_provider(config: &Config, head: &Parts, started: &Started) -> Answer {
    // Only after a 303 no browser sends a form on (FLOW-14).
    let status = if head.method == Method::POST {
        StatusCode::SEE_OTHER
    } else {
        StatusCode::FOUND
    };
    Answer::redirect(status, &started.location).with(
        header::SET_COOKIE,
        cookies::set_login(config, &started.login_cookie),
    )
}

/// Answers a login that could not be started.
pub(super) fn start_refused(
    ctx: &mut Context,
    head: &Parts,
    error: &StartError,
    wanted: &Wanted,
) -> Answer {
    let refusal = match error {
        StartError::Choose => return chooser(ctx, wanted),
        StartError::UnknownProvider => Refusal::Login(ErrorPage::UnknownProvider),
        StartError::RateLimited { retry_after } => Refusal::RateLimited {
            retry_after: *retry_after,
        },
        StartError::Loop => Refusal::Login(ErrorPage::LoginLoop),
        StartError::ProviderUnavailable => Refusal::ProviderUnavailable { retry_after: SOON },
        StartError::StoreUnavailable => Refusal::StoreUnavailable,
    };
    let retry = again::wanted(&ctx.live.config, wanted, None);
    answer(ctx, head, &refusal, Some(&retry), None)
}

/// Answers a login that could not be finished; `wanted` is what was asked for, if that could be told.
pub(super) fn callback_refused(
    ctx: &mut Context,
    head: &Parts,
    error: &CallbackError,
    wanted: Option<&Wanted>,
) -> Answer {
    let nothing = Wanted {
        return_to: "/".to_owned(),
        extra: Vec::new(),
    };
    let wanted = wanted.unwrap_or(&nothing);
    let (refusal, code) = match error {
        CallbackError::BadState(_) => (Refusal::Login(ErrorPage::LoginExpired), None),
        CallbackError::NoCookie => (Refusal::Login(ErrorPage::CookiesBlocked), None),
        CallbackError::Refused { code } => {
            (Refusal::Login(ErrorPage::LoginRefused), Some(code.as_str()))
        }
        CallbackError::Invalid(_) => (Refusal::Login(ErrorPage::LoginInvalid), None),
        CallbackError::ProviderUnavailable => {
            (Refusal::ProviderUnavailable { retry_after: SOON }, None)
        }
        CallbackError::StoreUnavailable => (Refusal::StoreUnavailable, None),
        CallbackError::LoggedOut => (Refusal::Unauthenticated(Unauthenticated::Revoked), None),
        CallbackError::NotRestarted(error) => {
            return start_refused(ctx, head, error, wanted);
        }
    };
    tracing::warn!(%error, request.id = ctx.request_id.as_str(), "login not completed");
    let retry = again::wanted(&ctx.live.config, wanted, None);
    answer(ctx, head, &refusal, Some(&retry), code)
}

/// Answers a refusal, as a page or as a problem document, whichever the client reads.
pub(super) fn refuse(ctx: &mut Context, head: &Parts, refusal: &Refusal) -> Answer {
    let config = ctx.live.config.clone();
    let retry = match refusal {
        Refusal::Unauthenticated(_) => {
            let back = (head.method == Method::GET).then(|| here(ctx, head));
            Some(again::login(&config, back.as_deref()))
        }
        Refusal::Login(ErrorPage::LogoutFailed) => Some(format!("{}/logout", config.base_path)),
        Refusal::Misdirected => Some(config.main_origin().text.to_string()),
        Refusal::ProviderUnavailable { .. } | Refusal::StoreUnavailable | Refusal::Upstream(_)
            if head.method == Method::GET =>
        {
            Some(here(ctx, head))
        }
        _ => None,
    };
    answer(ctx, head, refusal, retry.as_deref(), None)
}

fn answer(
    ctx: &mut Context,
    head: &Parts,
    refusal: &Refusal,
    retry: Option<&str>,
    code: Option<&str>,
) -> Answer {
    if !fetch::wants_page(&head.headers) {
        return problem(ctx, head, refusal);
    }
    let config = ctx.live.config.clone();
    let sign_out = format!("{}/logout", config.base_path);
    let page = refusal.page().render(PageContext {
        app_title: config.pages.title.as_deref(),
        request_id: ctx.request_id.as_str(),
        retry,
        sign_out: Some(&sign_out),
        code,
    });
    finish(ctx, refusal, Answer::page(refusal.status(), page), &config)
}

/// Answers a refusal with a problem document (RFC 9457).
pub(super) fn problem(ctx: &mut Context, head: &Parts, refusal: &Refusal) -> Answer {
    let config = ctx.live.config.clone();
    let signing_in_helps = matches!(refusal, Refusal::Unauthenticated(_) | Refusal::Login(_));
    // A script wants to come back to its page, not to its own address: the Referer names it, when it is one of ours.
    let login =
        signing_in_helps.then(|| again::login(&config, referring_page(ctx, head).as_deref()));
    let page = refusal.page();
    let body = pages::problem(
        page.status(),
        page.reason(),
        page.title(),
        refusal.detail(),
        login.as_deref(),
        ctx.request_id.as_str(),
    );
    let answer = Answer::json(page.status(), "application/problem+json", body);
    finish(ctx, refusal, answer, &config)
}

fn referring_page(ctx: &Context, head: &Parts) -> Option<String> {
    let config = &ctx.live.config;
    let page = head.headers.get(header::REFERER)?.to_str().ok()?;
    let origin = &config.public_origins[ctx.origin];
    // A bare path in a Referer would be nonsense.
    if !page.starts_with("http") {
        return None;
    }
    ReturnTo::parse(page, origin, &config.public_origins, &config.base_path)
        .map(ReturnTo::into_string)
}

/// What goes with a status whatever its form: challenge, `Allow`, `Retry-After`, closing; and the account of it.
fn finish(ctx: &mut Context, refusal: &Refusal, mut answer: Answer, config: &Config) -> Answer {
    if answer.status() == StatusCode::UNAUTHORIZED {
        // A 401 needs a challenge (RFC 9110 §15.5.2); a scheme of our own raises no browser dialog (RESP-04).
        let challenge = format!("Daypass login=\"{}/login\"", config.base_path);
        if let Ok(challenge) = HeaderValue::try_from(challenge) {
            answer = answer.with(header::WWW_AUTHENTICATE, challenge);
        }
    }
    if let Refusal::Method { allow } = refusal {
        answer = answer.with(header::ALLOW, HeaderValue::from_static(allow));
    }
    if let Some(wait) = refusal.retry_after() {
        answer = answer.with(
            header::RETRY_AFTER,
            HeaderValue::from(wait.as_secs().max(1)),
        );
    }
    // Which kind of answer was given hangs on these (RFC 9110 §12.5.5).
    answer = answer.with(
        header::VARY,
        HeaderValue::from_static("Accept, Sec-Fetch-Mode, Cookie"),
    );
    ctx.decision = "refuse";
    ctx.refusal = Some(refusal.clone());
    answer.closing(refusal.closes())
}

fn chooser(ctx: &mut Context, wanted: &Wanted) -> Answer {
    let config = ctx.live.config.clone();
    let choices: Vec<_> = config
        .providers
        .iter()
        .map(|provider| Choice {
            label: provider.name.to_string(),
            href: again::wanted(&config, wanted, Some(&provider.name)),
        })
        .collect();
    ctx.decision = "own";
    Answer::page(
        StatusCode::OK,
        pages::chooser(page_context(&config, ctx), &choices),
    )
}

/// Sends a browser that is signed in on to where it was going.
///
/// The redirects from the provider count as cross-site up to their end, where a `Strict` cookie would be held back and
/// the next login begin. A page of ours that navigates by itself breaks the chain (COOKIE-03).
pub(super) fn signed_in(ctx: &Context, location: &str) -> Answer {
    let config = &ctx.live.config;
    if config.session.cookie.same_site != SameSite::Strict {
        return Answer::redirect(StatusCode::SEE_OTHER, location);
    }
    Answer::page(
        StatusCode::OK,
        pages::onward(page_context(config, ctx), location),
    )
}

/// The page after a logout.
pub(super) fn signed_out(ctx: &mut Context) -> Answer {
    let config = ctx.live.config.clone();
    let sign_in = again::login(&config, None);
    Answer::page(
        StatusCode::OK,
        pages::signed_out(page_context(&config, ctx), &sign_in),
    )
}

/// The page that asks before a logout another site started.
pub(super) async fn confirm_logout(ctx: &mut Context, redirect: Option<&str>) -> Answer {
    let live = ctx.live.clone();
    let action = format!("{}/logout", live.config.base_path);
    let origin = &live.config.public_origins[ctx.origin];
    let asked = live.logout.end_session_origins(origin);
    let mut origins = ctx.waited.on(asked).await;
    // A provider may send the browser on to others (brokers): `form-action` holds for the whole chain of redirects.
    origins.push("https:".to_owned());
    ctx.decision = "own";
    let page = pages::confirm_logout(
        page_context(&live.config, ctx),
        &action,
        redirect,
        "/",
        &origins,
    );
    // The form's POST must say where it comes from; a page under `no-referrer` would send `Origin: null`.
    Answer::page(StatusCode::OK, page).with_instead(
        header::REFERRER_POLICY,
        HeaderValue::from_static("same-origin"),
    )
}

fn page_context<'a>(config: &'a Config, ctx: &'a Context) -> PageContext<'a> {
    PageContext {
        app_title: config.pages.title.as_deref(),
        request_id: ctx.request_id.as_str(),
        ..PageContext::default()
    }
}
