//! Reads what a provider says about itself, and believes it only if it is that provider (OIDC Discovery §4, RFC 8414).

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use url::{Host, Url};

use super::cached::Fetched;
use super::call::{Caller, Failed, Reply, Request};
use super::{CallError, Claims, Provider};
use crate::config::model;
use crate::metrics::{CallResult, Endpoint};

/// Checked metadata: the issuer is the configured one, and every URL may be called.
#[derive(Debug, PartialEq)]
pub(super) struct Metadata {
    pub(super) authorization_endpoint: Url,
    pub(super) token_endpoint: Url,
    pub(super) jwks_uri: Url,
    pub(super) userinfo_endpoint: Option<Url>,
    pub(super) revocation_endpoint: Option<Url>,
    pub(super) end_session_endpoint: Option<Url>,
    pub(super) par_endpoint: Option<Url>,
    pub(super) par_required: bool,
    pub(super) iss_parameter: bool,
    /// Signature algorithms of ID tokens; `None` when not told.
    pub(super) id_token_algorithms: Option<Vec<String>>,
    /// Signature algorithms of client assertions; `None` when not told.
    pub(super) assertion_algorithms: Option<Vec<String>>,
}

impl Provider {
    /// The metadata, fetched when they are not at hand.
    pub(super) async fn metadata(&self) -> Result<Arc<Metadata>, CallError> {
        self.metadata.get(|| self.read_metadata()).await
    }

    /// Whether it is there: it was heard within `time`, or answers now.
    ///
    /// # Errors
    /// What the look met; the same for a while, without another look.
    ///
    /// # Cancel safety
    /// Cancel safe: a look that was begun is finished, and remembered.
    pub async fn is_there(&self, time: Duration) -> Result<(), CallError> {
        let presence = self.caller.presence();
        if presence.heard_within(time) {
            return Ok(());
        }
        if let Some(error) = presence.missing_lately() {
            return Err(error);
        }
        // An answer that makes no sense is one: the copy at hand, where there is one, will do.
        let _ = self.metadata.renew(|| self.read_metadata()).await;
        presence.missing().map_or(Ok(()), Err)
    }

    /// Whether nobody was found there, not just once, and nothing was heard since.
    pub fn is_away(&self) -> bool {
        self.caller.presence().is_away()
    }

    fn read_metadata(
        &self,
    ) -> impl Future<Output = Result<Fetched<Metadata>, CallError>> + Send + 'static {
        let caller = Arc::clone(&self.caller);
        let config = Arc::clone(&self.config);
        async move {
            let (presence, asked) = (caller.presence(), Instant::now());
            let document = fetch(&caller, &config)
                .await
                .inspect_err(|error| presence.missed(asked, error))?;
            let value = parse(&document, &config).map_err(CallError::Metadata)?;
            Ok(Fetched { value, ttl: TTL })
        }
    }
}

/// Whether the issuer can be used at all; the text goes into the configuration's problem list.
pub(super) fn check_issuer(config: &model::Provider) -> Result<(), String> {
    let issuer = Url::parse(&config.issuer).map_err(|_| "the issuer is no URL".to_owned())?;
    callable(&issuer, config.insecure_http).map_err(|why| format!("the issuer {why}"))?;
    if issuer.query().is_some() {
        // Discovery §3, RFC 8414 §2.
        return Err("the issuer has a query".to_owned());
    }
    Ok(())
}

/// Tries both well-known addresses (META-02). The second one is asked only when the first one answered, but not with
/// metadata: a provider that cannot be reached is not worth a second wait.
async fn fetch(caller: &Caller, config: &model::Provider) -> Result<Claims, CallError> {
    let [first, second] = well_known(&config.issuer)?;
    let failed = match read(caller, config, &first).await {
        Ok(document) => return Ok(document),
        Err(failed) => failed,
    };
    if matches!(failed.result, CallResult::ClientError | CallResult::Invalid)
        && let Ok(document) = read(caller, config, &second).await
    {
        return Ok(document);
    }
    Err(failed.error)
}

async fn read(caller: &Caller, config: &model::Provider, url: &Url) -> Result<Claims, Failed> {
    let request = Request {
        endpoint: Endpoint::Discovery,
        url,
        // A moment before nobody waits any more: how it ended is to be known.
        within: config.timeout.mul_f64(0.9),
        authorization: None,
        form: None,
    };
    caller.call(request, Reply::json).await
}

/// The document's address appended to the issuer (Discovery §4.1) and put before its path (RFC 8414 §3.1).
fn well_known(issuer: &str) -> Result<[Url; 2], CallError> {
    let malformed = |_| CallError::Metadata("the issuer is no URL".to_owned());
    // Only here a trailing slash is dropped; as an identifier the issuer keeps it (META-01).
    let base = issuer.strip_suffix('/').unwrap_or(issuer);
    let appended =
        Url::parse(&format!("{base}/.well-known/openid-configuration")).map_err(malformed)?;
    let mut inserted = Url::parse(base).map_err(malformed)?;
    let path = inserted.path().trim_end_matches('/').to_owned();
    inserted.set_path(&format!("/.well-known/oauth-authorization-server{path}"));
    Ok([appended, inserted])
}

/// Reads the members we know; others are ignored (META-10), `null` counts as absent.
fn parse(document: &Claims, config: &model::Provider) -> Result<Metadata, String> {
    // Before any other member is looked at (META-01, Discovery §4.3): byte for byte.
    match document.get("issuer").and_then(Value::as_str) {
        Some(issuer) if issuer == config.issuer => {}
        Some(_) => {
            return Err(
                "`issuer` differs from the configured one (every character counts, a trailing slash too)"
                    .to_owned(),
            );
        }
        None => return Err("`issuer` is missing".to_owned()),
    }
    let url = |name| endpoint(document, name, config.insecure_http);
    let required = |name| url(name)?.ok_or_else(|| format!("`{name}` is missing"));
    Ok(Metadata {
        authorization_endpoint: required("authorization_endpoint")?,
        token_endpoint: required("token_endpoint")?,
        jwks_uri: required("jwks_uri")?,
        userinfo_endpoint: url("userinfo_endpoint")?,
        revocation_endpoint: url("revocation_endpoint")?,
        end_session_endpoint: url("end_session_endpoint")?,
        par_endpoint: url("pushed_authorization_request_endpoint")?,
        par_required: flag(document, "require_pushed_authorization_requests")?,
        iss_parameter: flag(document, "authorization_response_iss_parameter_supported")?,
        id_token_algorithms: names(document, "id_token_signing_alg_values_supported")?,
        assertion_algorithms: names(document, "token_endpoint_auth_signing_alg_values_supported")?,
    })
}

fn member<'a>(document: &'a Claims, name: &str) -> Option<&'a Value> {
    document.get(name).filter(|value| !value.is_null())
}

fn endpoint(document: &Claims, name: &str, insecure_http: bool) -> Result<Option<Url>, String> {
    let Some(value) = member(document, name) else {
        return Ok(None);
    };
    let url = value
        .as_str()
        .and_then(|text| Url::parse(text).ok())
        .ok_or_else(|| format!("`{name}` is no URL"))?;
    callable(&url, insecure_http).map_err(|why| format!("`{name}` {why}"))?;
    Ok(Some(url))
}

/// `https`, or `http` to this machine or where it was allowed (META-03); no user, no fragment (RFC 6749 §3.1, §3.2).
fn callable(url: &Url, insecure_http: bool) -> Result<(), &'static str> {
    match url.scheme() {
        "https" => {}
        "http" if insecure_http || is_loopback(url) => {}
        "http" => return Err("uses plain http; https is needed, or `insecure_http: true`"),
        _ => return Err("is no https URL"),
    }
    if url.fragment().is_some() {
        return Err("has a fragment");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user name or password in it");
    }
    Ok(())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        None => false,
    }
}

fn flag(document: &Claims, name: &str) -> Result<bool, String> {
    match member(document, name) {
        None => Ok(false),
        Some(value) => value
            .as_bool()
            .ok_or_else(|| format!("`{name}` is no boolean")),
    }
}

fn names(document: &Claims, name: &str) -> Result<Option<Vec<String>>, String> {
    let Some(value) = member(document, name) else {
        return Ok(None);
    };
    value
        .as_array()
        .and_then(|items| {
            items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect()
        })
        .map(Some)
        .ok_or_else(|| format!("`{name}` is no list of names"))
}

/// How long metadata are good before they are read again in the background (META-06).
const TTL: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests;
