//! Keeps cookies as a browser does, as far as a session proxy can tell the difference (RFC 6265bis).

use url::Url;

/// One stored cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
    /// Host it belongs to, without port: cookies do not know ports.
    pub host: String,
    /// Also sent to sub-domains (`Domain` was given).
    pub subdomains: bool,
    /// `Path`.
    pub path: String,
    /// `Secure`.
    pub secure: bool,
    /// `HttpOnly`.
    pub http_only: bool,
    /// `SameSite`, as written.
    pub same_site: Option<String>,
    /// `Max-Age` in seconds, as written.
    pub max_age: Option<i64>,
    /// The header line it came in.
    pub line: String,
}

/// All cookies of one browser.
#[derive(Debug, Default, Clone)]
pub struct Jar {
    cookies: Vec<Cookie>,
    refused: Vec<String>,
}

impl Jar {
    /// Takes up a `Set-Cookie` line that came from `url`.
    pub fn store(&mut self, url: &Url, line: &str) {
        match parse(url, line) {
            Ok((cookie, expired)) => {
                self.cookies.retain(|old| {
                    (&old.name, &old.host, &old.path) != (&cookie.name, &cookie.host, &cookie.path)
                });
                if !expired {
                    crate::secrets::record("cookie", &cookie.value);
                    self.cookies.push(cookie);
                }
            }
            Err(why) => self.refused.push(format!("{why}: {line}")),
        }
    }

    /// The `Cookie` header for a request to `url`.
    pub fn header(&self, url: &Url) -> Option<String> {
        let mut fitting: Vec<&Cookie> = self
            .cookies
            .iter()
            .filter(|cookie| fits(cookie, url))
            .collect();
        // Longer paths come first (§5.8.3).
        fitting.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let pairs: Vec<_> = fitting
            .iter()
            .map(|cookie| format!("{}={}", cookie.name, cookie.value))
            .collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// Stored cookies.
    pub fn cookies(&self) -> &[Cookie] {
        &self.cookies
    }

    /// The cookie of that name.
    pub fn find(&self, name: &str) -> Option<&Cookie> {
        self.cookies.iter().find(|cookie| cookie.name == name)
    }

    /// Puts `value` in the place of a stored cookie's: tampering.
    pub fn overwrite(&mut self, name: &str, value: &str) {
        for cookie in self.cookies.iter_mut().filter(|cookie| cookie.name == name) {
            value.clone_into(&mut cookie.value);
        }
    }

    /// Forgets one cookie.
    pub fn remove(&mut self, name: &str) {
        self.cookies.retain(|cookie| cookie.name != name);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.cookies.clear();
    }

    /// `Set-Cookie` lines a browser would have refused, with the reason.
    pub fn refused(&self) -> &[String] {
        &self.refused
    }
}

/// Plain http on loopback counts as secure, as it does for browsers that treat it as trustworthy.
fn trustworthy(url: &Url) -> bool {
    url.scheme() == "https" || matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"))
}

fn parse(url: &Url, line: &str) -> Result<(Cookie, bool), &'static str> {
    let mut parts = line.split(';');
    let (name, value) = parts
        .next()
        .and_then(|pair| pair.split_once('='))
        .ok_or("no name")?;
    let host = url.host_str().ok_or("no host")?;
    let default_path = match url.path().rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((directory, _)) => directory,
    };
    let mut cookie = Cookie {
        name: name.trim().to_owned(),
        value: value.trim().to_owned(),
        host: host.to_owned(),
        subdomains: false,
        path: default_path.to_owned(),
        secure: false,
        http_only: false,
        same_site: None,
        max_age: None,
        line: line.to_owned(),
    };
    let (mut expired, mut path_given) = (false, false);
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim();
        match key.trim().to_ascii_lowercase().as_str() {
            "secure" => cookie.secure = true,
            "httponly" => cookie.http_only = true,
            "samesite" => cookie.same_site = Some(value.to_owned()),
            "path" if value.starts_with('/') => {
                value.clone_into(&mut cookie.path);
                path_given = true;
            }
            "domain" if !value.is_empty() => {
                let domain = value.trim_start_matches('.').to_ascii_lowercase();
                if host != domain && !host.ends_with(&format!(".{domain}")) {
                    return Err("foreign domain");
                }
                cookie.host = domain;
                cookie.subdomains = true;
            }
            "max-age" => cookie.max_age = value.parse().ok(),
            "expires" => {
                let now = crate::provider::unix_now();
                expired = httpdate::parse_http_date(value).is_ok_and(|time| {
                    let since = time
                        .duration_since(std::time::UNIX_EPOCH)
                        .unwrap_or_default();
                    i64::try_from(since.as_secs()).unwrap_or(i64::MAX) <= now
                });
            }
            _ => {}
        }
    }
    // Max-Age wins over Expires (§4.1.2.2).
    if let Some(age) = cookie.max_age {
        expired = age <= 0;
    }
    if cookie.secure && !trustworthy(url) {
        return Err("Secure over plain http");
    }
    if cookie.name.starts_with("__Secure-") && !cookie.secure {
        return Err("__Secure- without Secure");
    }
    let host_rules = cookie.secure && !cookie.subdomains && path_given && cookie.path == "/";
    if cookie.name.starts_with("__Host-") && !host_rules {
        return Err("__Host- without Secure and Path=/, or with Domain");
    }
    if cookie.name.len() + cookie.value.len() > 4096 {
        return Err("larger than 4096 bytes");
    }
    Ok((cookie, expired))
}

fn fits(cookie: &Cookie, url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host_fits =
        host == cookie.host || (cookie.subdomains && host.ends_with(&format!(".{}", cookie.host)));
    let path = url.path();
    let path_fits = path == cookie.path
        || path
            .strip_prefix(cookie.path.as_str())
            .is_some_and(|rest| cookie.path.ends_with('/') || rest.starts_with('/'));
    host_fits && path_fits && (!cookie.secure || trustworthy(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn browsers_refuse_these_lines() {
        for (from, line) in [
            ("http://shop.example.com/", "a=b; Secure"),
            ("https://shop.example.com/", "__Secure-a=b"),
            ("https://shop.example.com/", "__Host-a=b; Secure"),
            (
                "https://shop.example.com/",
                "__Host-a=b; Secure; Path=/; Domain=shop.example.com",
            ),
            ("https://shop.example.com/", "__Host-a=b; Path=/"),
            ("https://shop.example.com/", "a=b; Domain=example.org"),
        ] {
            let mut jar = Jar::default();
            jar.store(&url(from), line);
            assert!(
                jar.cookies().is_empty() && jar.refused().len() == 1,
                "{line}"
            );
        }
    }

    #[test]
    fn a_host_cookie_works_on_plain_loopback() {
        let mut jar = Jar::default();
        jar.store(
            &url("http://127.0.0.1:8080/a"),
            "__Host-a=b; Secure; Path=/; HttpOnly; SameSite=Lax",
        );
        assert_eq!(
            jar.header(&url("http://127.0.0.1:9999/x")).as_deref(),
            Some("__Host-a=b")
        );
    }

    #[test]
    fn paths_and_domains_decide_where_a_cookie_goes() {
        let mut jar = Jar::default();
        jar.store(&url("https://shop.example.com/oauth2/login"), "login=1");
        jar.store(
            &url("https://shop.example.com/"),
            "wide=2; Domain=example.com; Path=/",
        );
        let sent = |to: &str| jar.header(&url(to)).unwrap_or_default();
        assert_eq!(
            sent("https://shop.example.com/oauth2/callback"),
            "login=1; wide=2"
        );
        assert_eq!(sent("https://shop.example.com/oauth2x"), "wide=2");
        assert_eq!(sent("https://other.example.com/oauth2/callback"), "wide=2");
        assert_eq!(sent("https://example.org/"), "");
    }

    #[test]
    fn a_cookie_that_is_expired_on_arrival_deletes() {
        for line in [
            "a=; Max-Age=0; Path=/",
            "a=; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/",
        ] {
            let mut jar = Jar::default();
            jar.store(&url("https://shop.example.com/"), "a=b; Path=/");
            jar.store(&url("https://shop.example.com/"), line);
            assert_eq!(
                jar.header(&url("https://shop.example.com/")),
                None,
                "{line}"
            );
        }
    }
}
