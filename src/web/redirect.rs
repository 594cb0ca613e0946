//! Decides where a browser may be sent back to: our own origins and nowhere else (FLOW-16).

use url::Url;

use super::path::CanonicalPath;
use crate::config::model::Origin;

/// Longest return target, as given and as kept.
pub const MAX_RETURN_TO: usize = 2048;

/// A place of ours to return to after signing in or out.
///
/// Path and query on the current origin, or an absolute URL on another of ours. Its path is canonical, so it holds
/// nothing a browser could take for another host, and it is not below our own endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnTo(String);

impl ReturnTo {
    /// Reads a return target given by a client. `None` for anything that is not plainly ours; the caller then falls back.
    ///
    /// Either a path (one leading slash) with or without query, or a whole `http(s)` URL on one of `ours`. The fragment
    /// is dropped. What lies below `base_path` is refused, for coming back to `login` or `logout` goes in circles.
    pub fn parse(
        candidate: &str,
        current: &Origin,
        ours: &[Origin],
        base_path: &str,
    ) -> Option<Self> {
        if candidate.len() > MAX_RETURN_TO || candidate.chars().any(char::is_control) {
            return None;
        }
        let candidate = candidate
            .split_once('#')
            .map_or(candidate, |(before, _)| before);
        let hierarchy = candidate
            .split_once('?')
            .map_or(candidate, |(before, _)| before);
        // Browsers take `\` for `/`, and trim space at either end.
        if hierarchy.contains('\\') || candidate.starts_with(' ') || candidate.ends_with(' ') {
            return None;
        }
        let (origin, url, raw_path) = if candidate.starts_with('/') {
            if candidate.starts_with("//") {
                return None;
            }
            let base = Url::parse(&current.text).ok()?;
            (current, base.join(candidate).ok()?, hierarchy)
        } else {
            let rest = ["https://", "http://"].iter().find_map(|scheme| {
                let (start, rest) = candidate.split_at_checked(scheme.len())?;
                start.eq_ignore_ascii_case(scheme).then_some(rest)
            })?;
            let authority = rest.split(['/', '?']).next().unwrap_or_default();
            if authority.is_empty() || authority.contains('@') {
                return None;
            }
            let url = Url::parse(candidate).ok()?;
            let mut known = std::iter::once(current).chain(ours);
            let origin = known.find(|origin| is_at(&url, origin))?;
            let path = hierarchy.get(candidate.len() - rest.len() + authority.len()..)?;
            (origin, url, if path.is_empty() { "/" } else { path })
        };
        // Refuses what the URL parser mends in silence, `/../..` for one.
        CanonicalPath::parse(raw_path.as_bytes()).ok()?;
        // The parser has had its say: what it made of the candidate must still be ours.
        if !is_at(&url, origin) || url.path().starts_with("//") {
            return None;
        }
        let path = CanonicalPath::parse(url.path().as_bytes()).ok()?;
        if path.below(base_path).is_some() {
            return None;
        }
        let mut text = String::with_capacity(candidate.len() + 8);
        if origin != current {
            text.push_str(&origin.text);
        }
        text.push_str(path.as_str());
        if let Some(query) = url.query() {
            text.push('?');
            // Left alone by the parser, and harmless in a query, but `Location` is better without.
            text.push_str(&query.replace('\\', "%5C"));
        }
        (text.len() <= MAX_RETURN_TO).then_some(Self(text))
    }

    /// The main page of the current origin, where those go who have nowhere to go.
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// Path and query, or absolute URL: fit for `Location`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As [`as_str`](Self::as_str), owned.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// Whether the URL is on the origin, without user information.
pub(crate) fn is_at(url: &Url, origin: &Origin) -> bool {
    url.scheme() == if origin.secure { "https" } else { "http" }
        && url.host_str() == Some(&*origin.host)
        && url.port_or_known_default() == Some(origin.port)
        && url.username().is_empty()
        && url.password().is_none()
}

#[cfg(test)]
mod tests;
