//! Reads `provider` and `providers`.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jsonwebtoken::Algorithm;
use url::Url;
use zeroize::Zeroizing;

use super::model::{ClientAuth, Par, Provider};
use super::read::At;
use super::section::Section;
use super::table::{ALGORITHMS, PROVIDER};
use super::{scalar, tls};
use crate::secret::ClientSecret;

mod client_key;

pub use client_key::ClientKey;

/// All providers in the order of the file.
pub(super) fn providers(root: &Section<'_>) -> Option<Vec<Arc<Provider>>> {
    let reader = root.reader;
    let several = root.given("providers");
    let single = root.optional_section("provider");
    match (root.has("provider"), several) {
        (true, Some(several)) => {
            reader.problem(
                &several.spot,
                "both `provider` and `providers` are given: keep one of them",
            );
            None
        }
        (true, None) => Some(vec![Arc::new(provider(&single?, "provider")?)]),
        (false, None) => {
            reader.problem(
                &root.spot_of("provider"),
                "missing: write `provider: {issuer: https://login.example.com, client_id: shop, client_secret: {file: PATH}}`",
            );
            None
        }
        (false, Some(several)) => {
            let several = reader.map(several)?;
            if several.value.is_empty() {
                reader.problem(&several.spot, "no providers: write at least one");
                return None;
            }
            // All are read before the first failure counts, so that all problems are found.
            let providers: Vec<_> = several
                .value
                .into_iter()
                .map(|(name, value)| {
                    let proper = is_name(&name.value);
                    if !proper {
                        reader.problem(&name.spot, "a provider's name goes into URLs: write lower-case letters, digits and `-` only");
                    }
                    let section = Section::open(reader, &PROVIDER, value)?;
                    let provider = provider(&section, &name.value)?;
                    proper.then(|| Arc::new(provider))
                })
                .collect();
            providers.into_iter().collect()
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn provider(section: &Section<'_>, name: &str) -> Option<Provider> {
    let insecure_http = section.flag("insecure_http");
    if insecure_http == Some(true) {
        section.reader.warning(
            &section.spot_of("insecure_http"),
            "plain http to the provider is allowed, anyone on the way can read and forge logins: use https",
        );
    }
    let issuer = issuer(section, insecure_http.unwrap_or(true));
    let client_id = section.text("client_id");
    if let Some(id) = client_id
        .as_ref()
        .filter(|id| id.value.is_empty() || id.value.contains(char::is_control))
    {
        section.reader.problem(
            &id.spot,
            "must be the identifier the provider issued: write it as it is",
        );
    }
    let client_auth = client_auth(section);
    let scopes = scopes(section);
    let authorize_params = authorize_params(section);
    let par = section.choice("par", &[]).map(|par| match par.value {
        "required" => Par::Required,
        "off" => Par::Off,
        _ => Par::Auto,
    });
    let ca_pem = tls::authorities(section, "ca_file");
    let userinfo = section.flag("userinfo");
    let id_token_algorithms = algorithms(section);
    let timeout = section.duration("timeout");
    let refresh_patience = section.duration("refresh_patience");
    if let (Some(timeout), Some(patience)) = (timeout, refresh_patience)
        && patience < timeout
    {
        section.reader.problem(
            &section.spot_of("refresh_patience"),
            "shorter than `timeout`, so that refreshes would be given up while requests still wait: write a longer one",
        );
    }
    let default_token_lifetime = section.duration("default_token_lifetime");
    Some(Provider {
        name: name.into(),
        issuer: issuer?,
        client_id: client_id?.value,
        client_auth: client_auth?,
        scopes: scopes?,
        authorize_params: authorize_params?,
        par: par?,
        ca_pem,
        userinfo: userinfo?,
        id_token_algorithms: id_token_algorithms?,
        timeout: timeout?,
        refresh_patience: refresh_patience?,
        default_token_lifetime: default_token_lifetime?,
        insecure_http: insecure_http?,
    })
}

/// The issuer stays as written: it is compared as a string (Discovery §4.3).
fn issuer(section: &Section<'_>, insecure_http: bool) -> Option<String> {
    const EXPECTED: &str =
        "expected the issuer's URL: write, for example, `https://login.example.com/realms/acme`";
    let At { value, spot } = section.text("issuer")?;
    let url = Url::parse(&value)
        .ok()
        .filter(|url| matches!(url.scheme(), "https" | "http") && url.has_host());
    let complaint = match &url {
        None => EXPECTED,
        Some(url) if scalar::has_credentials(url) => {
            "no user or password may stand in the issuer: write it as the provider does"
        }
        // OIDC Discovery §3: an issuer has neither.
        Some(url) if url.query().is_some() || url.fragment().is_some() => {
            "an issuer has no query and no fragment: write the part before"
        }
        Some(_) if value.trim() != value => "spaces around the issuer: write it without",
        Some(_) if value.contains("/.well-known/") => {
            "this is the discovery document: write the issuer, the part before `/.well-known/`"
        }
        Some(url)
            if url.scheme() == "http"
                && !insecure_http
                && !url.host_str().is_some_and(scalar::is_loopback) =>
        {
            "plain http off loopback: write `https://`, or set `insecure_http: true` beside it"
        }
        Some(_) => return Some(value),
    };
    section.reader.problem(&spot, complaint);
    None
}

fn client_auth(section: &Section<'_>) -> Option<ClientAuth> {
    let reader = section.reader;
    let (has_secret, has_key) = (section.has("client_secret"), section.has("client_key"));
    let secret = section
        .secret("client_secret")
        .map(|secret| secret_of(&secret.value));
    let key = section.secret("client_key").and_then(|key| {
        let read = ClientKey::parse(&key.value);
        read.inspect_err(|problem| reader.problem(&key.spot, *problem))
            .ok()
    });
    if has_secret && has_key {
        reader.problem(
            &section.spot_of("client_key"),
            "both `client_secret` and `client_key` are given: keep one of them",
        );
        return None;
    }
    let method = match section.choice("client_auth", &["client_secret_jwt", "tls_client_auth"]) {
        Some(method) => method.value,
        None if section.has("client_auth") => return None,
        None if has_secret => "client_secret_basic",
        None if has_key => "private_key_jwt",
        None => {
            // STANDARDS CAUTH-01: a public client is never an accident.
            reader.problem(
                &section.spot_of("client_secret"),
                "missing: write `client_secret: {file: PATH}` or `client_key: {file: PATH}`, or `client_auth: none` for a public client",
            );
            return None;
        }
    };
    let (wanted, unwanted) = match method {
        "none" => (
            None,
            if has_secret {
                Some("client_secret")
            } else {
                has_key.then_some("client_key")
            },
        ),
        "private_key_jwt" => (Some("client_key"), has_secret.then_some("client_secret")),
        _ => (Some("client_secret"), has_key.then_some("client_key")),
    };
    if let Some(unwanted) = unwanted {
        reader.problem(
            &section.spot_of(unwanted),
            format!("not used with `client_auth: {method}`: remove it, or change `client_auth`"),
        );
        return None;
    }
    if let Some(wanted) = wanted.filter(|wanted| !section.has(wanted)) {
        reader.problem(
            &section.spot_of(wanted),
            format!("missing: `client_auth: {method}` needs `{wanted}: {{file: PATH}}`"),
        );
        return None;
    }
    Some(match method {
        "none" => ClientAuth::None,
        "private_key_jwt" => ClientAuth::PrivateKeyJwt(key?),
        "client_secret_post" => ClientAuth::SecretPost(secret?),
        _ => ClientAuth::SecretBasic(secret?),
    })
}

fn secret_of(text: &Zeroizing<String>) -> ClientSecret {
    ClientSecret::new(text.as_str())
}

fn scopes(section: &Section<'_>) -> Option<Vec<String>> {
    let scopes = section.texts("scopes")?;
    let mut seen = HashSet::new();
    for scope in &scopes.value {
        if !scalar::is_scope(&scope.value) {
            section.reader.problem(
                &scope.spot,
                "no scope: write one a list item, without spaces",
            );
        } else if !seen.insert(&scope.value) {
            section
                .reader
                .problem(&scope.spot, "the same scope twice: keep one");
        }
    }
    if !seen.iter().any(|scope| *scope == "openid") {
        section.reader.problem(
            &scopes.spot,
            "`openid` is missing: add it, login needs an ID token",
        );
    }
    Some(scopes.value.into_iter().map(|scope| scope.value).collect())
}

/// Parameters that would break the protocol's own checks when set by hand.
const OURS: &[&str] = &[
    "response_type",
    "client_id",
    "redirect_uri",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "request",
    "request_uri",
    "response_mode",
];

fn authorize_params(section: &Section<'_>) -> Option<BTreeMap<String, String>> {
    let params = section.map("authorize_params")?;
    let mut result = BTreeMap::new();
    for (name, value) in params.value {
        if name.value.is_empty() {
            section
                .reader
                .problem(&name.spot, "a parameter without name: remove it");
        } else if OURS.contains(&name.value.to_ascii_lowercase().as_str()) {
            section
                .reader
                .problem(&name.spot, "daypass sets this parameter itself: remove it");
        }
        if let Some(text) = section.reader.loose_text(value) {
            result.insert(name.value, text.value);
        }
    }
    Some(result)
}

fn algorithms(section: &Section<'_>) -> Option<Vec<Algorithm>> {
    let list = section.list("id_token_algorithms")?;
    if list.value.is_empty() {
        section.reader.problem(
            &list.spot,
            "no algorithm, so that no login could succeed: write at least one",
        );
        return None;
    }
    list.value
        .into_iter()
        .map(|value| {
            let spot = value.spot.clone();
            let text = section.reader.loose_text(value)?;
            // STANDARDS OIDC-05: neither unsigned tokens nor ones signed with a shared secret.
            if text.value.starts_with("HS") || text.value.eq_ignore_ascii_case("none") {
                section.reader.problem(&spot, "neither `none` nor a shared secret can prove who signed in: write an RS, PS, ES or EdDSA algorithm");
                return None;
            }
            let algorithm = ALGORITHMS.contains(&text.value.as_str()).then(|| text.value.parse().ok()).flatten();
            if algorithm.is_none() {
                let choices = super::read::alternatives(ALGORITHMS);
                section.reader.problem(&spot, format!("not one of the choices: write {choices}"));
            }
            algorithm
        })
        .collect::<Vec<_>>()
        .into_iter()
        .collect()
}
