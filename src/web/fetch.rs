//! Tells what kind of request a browser makes, and whether another site made it do so (Fetch Metadata).

use http::Method;
use http::header::{ACCEPT, CONNECTION, HeaderMap, HeaderName, ORIGIN, REFERER, UPGRADE};
use url::Url;

use super::headers::tokens;
use super::redirect::is_at;
use crate::config::model::{CrossSite, Origin};

/// What a request without session may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A person opens a page: may be redirected to log in (RESP-01).
    Navigation,
    /// Anything else gets 401 (RESP-02).
    Other,
}

/// Tells navigations from all else (FLOW-22, RESP-01..06).
///
/// A navigation is a GET or HEAD for a top-level document. Frames are none (RESP-06), nor are form posts (RESP-05),
/// upgrades, and prefetches, which must start nothing (FLOW-23). Without Fetch Metadata the request must prefer HTML
/// and lack `X-Requested-With` (RESP-03).
pub fn kind(method: &Method, headers: &HeaderMap) -> Kind {
    let mode = single(headers, &SEC_FETCH_MODE);
    let dest = single(headers, &SEC_FETCH_DEST);
    let navigation = (method == Method::GET || method == Method::HEAD)
        && !asks_upgrade(headers)
        && !is_prefetch(headers)
        && match (mode, dest) {
            (None, None) => !headers.contains_key("x-requested-with") && prefers_html(headers),
            (mode, dest) => {
                mode.is_none_or(|mode| mode == b"navigate")
                    && dest.is_none_or(|dest| dest == b"document")
            }
        };
    if navigation {
        Kind::Navigation
    } else {
        Kind::Other
    }
}

/// Whether the browser fetches ahead of a wish that may never come: such a request starts no login, sets no cookie and
/// spends no refresh token (FLOW-23).
pub fn is_prefetch(headers: &HeaderMap) -> bool {
    ["sec-purpose", "purpose", "x-purpose", "x-moz"]
        .iter()
        .any(|name| {
            headers.get_all(*name).iter().any(|value| {
                let purpose = value.as_bytes().split(|byte| matches!(byte, b';' | b','));
                purpose.map(<[u8]>::trim_ascii).any(|token| {
                    token.eq_ignore_ascii_case(b"prefetch")
                        || token.eq_ignore_ascii_case(b"prerender")
                        || token.eq_ignore_ascii_case(b"preview")
                })
            })
        })
}

/// Whether the browser says that another site made it ask: then it holds back `SameSite=Strict` cookies.
pub fn sent_by_another_site(headers: &HeaderMap) -> bool {
    single(headers, &SEC_FETCH_SITE).is_some_and(|site| site == b"cross-site")
}

/// Whether an error is better shown as a page: a person will see it, as far as the browser tells (a posted form and a frame
/// navigate, too: RESP-05, RESP-06), and HTML is preferred.
pub fn wants_page(headers: &HeaderMap) -> bool {
    single(headers, &SEC_FETCH_MODE).is_none_or(|mode| mode == b"navigate") && prefers_html(headers)
}

/// Whether HTML is named in `Accept`, and JSON is not wanted more (RFC 9110 §12.5.1).
fn prefers_html(headers: &HeaderMap) -> bool {
    let (mut html, mut json) = (0, 0);
    for range in tokens(headers, &ACCEPT) {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let quality = parts.find_map(quality).unwrap_or(1000);
        if name.eq_ignore_ascii_case(b"text/html")
            || name.eq_ignore_ascii_case(b"application/xhtml+xml")
        {
            html = html.max(quality);
        } else if name.eq_ignore_ascii_case(b"application/json")
            || name.eq_ignore_ascii_case(b"application/problem+json")
        {
            json = json.max(quality);
        }
    }
    html > 0 && html >= json
}

/// Whether the request asks to change protocols (WebSocket over HTTP/1.1).
pub fn asks_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        || tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"))
}

/// Whether a request that rides on the cookie comes from another site and must be refused (CSRF-01, CSRF-02, CSRF-04).
///
/// Looked at are methods that are not safe (RFC 9110 §9.2.1), and protocol upgrades, which no same-origin policy guards.
/// The first that is there decides:
/// 1. `Sec-Fetch-Site: same-origin` or `none`: the browser vouches. A sibling subdomain (`same-site`) is another site.
/// 2. `Origin`: one of `ours` or an allowed one. `null` never is.
/// 3. `Referer`: likewise, by its origin.
/// 4. None of the three: no browser. All send `Origin` on cross-site requests of these kinds, so there is nobody to be
///    tricked, and scripts that hold a cookie go on working.
pub fn cross_site(
    method: &Method,
    headers: &HeaderMap,
    is_upgrade: bool,
    ours: &[Origin],
    allowed: &CrossSite,
) -> bool {
    let allowed: &[Origin] = match allowed {
        CrossSite::Allow => return false,
        CrossSite::Deny => &[],
        CrossSite::Origins(origins) => origins,
    };
    if method.is_safe() && !is_upgrade {
        return false;
    }
    let site = single(headers, &SEC_FETCH_SITE);
    if matches!(site, Some(b"same-origin" | b"none")) {
        return false;
    }
    let mut known = ours.iter().chain(allowed);
    if let Some(from) = single(headers, &ORIGIN) {
        return !known.any(|origin| from.eq_ignore_ascii_case(origin.text.as_bytes()));
    }
    // The browser says that it was another site, and nothing names it.
    if site.is_some() {
        return true;
    }
    match single(headers, &REFERER) {
        None => false,
        Some(from) => !std::str::from_utf8(from)
            .ok()
            .and_then(|from| Url::parse(from).ok())
            .is_some_and(|from| known.any(|origin| is_at(&from, origin))),
    }
}

/// Whether nothing tells where a request for a page comes from. An old browser may be sent here from anywhere by a link
/// with `referrerpolicy="no-referrer"`, as may a new one to an origin that is not trustworthy, which gets no Fetch Metadata;
/// scripts ask for no pages.
pub fn may_come_from_anywhere(headers: &HeaderMap) -> bool {
    let told = [SEC_FETCH_SITE, ORIGIN, REFERER];
    !told.iter().any(|name| headers.contains_key(name)) && prefers_html(headers)
}

/// The value of a field that may stand once; given more often it is a value that equals nothing.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.as_bytes().trim_ascii();
    Some(if values.next().is_some() { b"" } else { value })
}

/// Thousandths of `q=0.8`; `None` for other parameters. A weight that is none counts nothing.
fn quality(parameter: &[u8]) -> Option<u16> {
    let [b'q' | b'Q', b'=', weight @ ..] = parameter else {
        return None;
    };
    let (whole, fraction) = match weight {
        [whole, b'.', fraction @ ..] if fraction.len() <= 3 => (whole, fraction),
        [whole] => (whole, &[][..]),
        _ => return Some(0),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Some(0);
    }
    let thousandths = fraction
        .iter()
        .chain(std::iter::repeat(&b'0'))
        .take(3)
        .fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    match whole {
        b'0' => Some(thousandths),
        b'1' => Some(1000),
        _ => Some(0),
    }
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

#[cfg(test)]
mod tests;
