//! Finds the provider's key that fits a signed token.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::CACHE_CONTROL;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use url::Url;

use super::cached::Fetched;
use super::call::Request;
use super::jws::{self, Jws};
use super::{Acted, CallError, Claims, IdTokenError, Provider};
use crate::metrics::Endpoint;

/// The provider's usable public keys.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// What the key may verify: one algorithm when it says so, else those its type allows (JWT-01).
    algorithms: Vec<Algorithm>,
    public: DecodingKey,
}

impl Provider {
    /// Checks the signature of `token` with the provider's keys.
    ///
    /// When no key fits, the key set may be older than the key: it is fetched again, once, and not more often than once in
    /// [`REFETCH_INTERVAL`] whatever comes in (JWT-10).
    pub(super) async fn check_signature(
        &self,
        uri: &Url,
        token: &Jws<'_>,
    ) -> Result<(), IdTokenError> {
        let keys = self.key_set(uri).await?;
        match keys.check(token) {
            Signature::Good => return Ok(()),
            Signature::Bad => return Err(IdTokenError::Refused("its signature is wrong")),
            Signature::NoKey => {}
        }
        let Some(keys) = self.keys.refetch(|| self.read_keys(uri)).await? else {
            // No verdict: anybody can use up the fetch with a made-up key id, just when the provider has a new key.
            return Err(IdTokenError::Keys(CallError::Unavailable {
                reason: "no key at hand fits, and they were fetched again a moment ago",
                acted: Acted::Unasked,
            }));
        };
        match keys.check(token) {
            Signature::Good => Ok(()),
            Signature::Bad => Err(IdTokenError::Refused("its signature is wrong")),
            Signature::NoKey => Err(IdTokenError::Refused("no key of the provider fits it")),
        }
    }

    /// The key set, fetched when it is not at hand.
    pub(super) async fn key_set(&self, uri: &Url) -> Result<Arc<KeySet>, CallError> {
        self.keys.get(|| self.read_keys(uri)).await
    }

    fn read_keys(
        &self,
        uri: &Url,
    ) -> impl Future<Output = Result<Fetched<KeySet>, CallError>> + Send + 'static + use<> {
        let caller = Arc::clone(&self.caller);
        let within = self.config.timeout;
        let uri = uri.clone();
        async move {
            let request = Request {
                endpoint: Endpoint::Jwks,
                url: &uri,
                within,
                authorization: None,
                form: None,
            };
            let fetched = caller
                .call(request, |reply| {
                    Ok(Fetched {
                        value: KeySet::parse(&reply.json()?)?,
                        ttl: ttl(reply.headers()),
                    })
                })
                .await?;
            Ok(fetched)
        }
    }
}

/// What a key set says of a signature.
#[derive(Debug, PartialEq, Eq)]
enum Signature {
    Good,
    /// The key the token names did not make it.
    Bad,
    /// No key has that id; or the token names none and no key made it.
    NoKey,
}

impl KeySet {
    /// Keeps the keys that can be used, and passes over the others without fuss: providers publish encryption keys,
    /// curves we do not know, and worse.
    fn parse(document: &Claims) -> Result<Self, &'static str> {
        let keys = document
            .get("keys")
            .and_then(Value::as_array)
            .ok_or("the key set has no `keys`")?;
        let usable = keys.iter().filter_map(Value::as_object).filter_map(key);
        Ok(Self(usable.take(MAX_KEYS).collect()))
    }

    /// Keys with the same id are told apart by algorithm and type (JWT-09); a token without id is tried against all that
    /// fit.
    fn check(&self, token: &Jws<'_>) -> Signature {
        let mut named = false;
        for key in &self.0 {
            let fits = key.algorithms.contains(&token.algorithm)
                && (token.kid.is_none() || key.id == token.kid);
            if !fits {
                continue;
            }
            if token.signed_by(&key.public) {
                return Signature::Good;
            }
            named = token.kid.is_some();
        }
        if named {
            Signature::Bad
        } else {
            Signature::NoKey
        }
    }
}

fn key(jwk: &Claims) -> Option<Key> {
    // Secrets have no place in a public key set; who publishes a private key has lost it (JWT-08).
    if PRIVATE_MEMBERS.iter().any(|name| jwk.contains_key(*name)) {
        return None;
    }
    // JWT-07: meant for signatures, as far as it says what it is meant for (RFC 7517 §4.2, §4.3).
    if jwk.get("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let verifies = |operations: &Value| {
        operations
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one == "verify"))
    };
    if jwk.get("key_ops").is_some_and(|ops| !verifies(ops)) {
        return None;
    }
    let (by_type, public) = match jwk.get("kty")?.as_str()? {
        "RSA" => (RSA_ALGORITHMS, rsa(jwk)?),
        "EC" => ec(jwk)?,
        "OKP" if jwk.get("crv")? == "Ed25519" => {
            let x = bytes(jwk, "x").filter(|x| x.len() == 32)?;
            (&[Algorithm::EdDSA][..], DecodingKey::from_ed_der(&x))
        }
        _ => return None,
    };
    let algorithms = match jwk.get("alg") {
        None => by_type.to_vec(),
        Some(name) => {
            let named = jws::algorithm(name.as_str()?)?;
            if !by_type.contains(&named) {
                return None;
            }
            vec![named]
        }
    };
    let id = match jwk.get("kid") {
        None => None,
        Some(id) => Some(id.as_str()?.to_owned()),
    };
    Some(Key {
        id,
        algorithms,
        public,
    })
}

/// At least 2048 bits (JWT-07); above 8192 ring would refuse it at each use.
fn rsa(jwk: &Claims) -> Option<DecodingKey> {
    let modulus = bytes(jwk, "n")?;
    let exponent = bytes(jwk, "e")?;
    // Some encoders put the sign byte of ASN.1 in front (RFC 7518 §6.3.1.1 warns of it).
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(&modulus);
    let top = modulus.first().filter(|top| **top != 0)?;
    let bits = modulus.len() * 8 - top.leading_zeros() as usize;
    (2048..=8192)
        .contains(&bits)
        .then(|| DecodingKey::from_rsa_raw_components(modulus, &exponent))
}

/// The point in uncompressed form; ring checks at each use that it is on the curve.
fn ec(jwk: &Claims) -> Option<(&'static [Algorithm], DecodingKey)> {
    let (algorithms, size): (&[Algorithm], _) = match jwk.get("crv")?.as_str()? {
        "P-256" => (&[Algorithm::ES256], 32),
        "P-384" => (&[Algorithm::ES384], 48),
        _ => return None,
    };
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != size || y.len() != size {
        return None;
    }
    let point = [&[4], &x[..], &y[..]].concat();
    Some((algorithms, DecodingKey::from_ec_der(&point)))
}

fn bytes(jwk: &Claims, name: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(jwk.get(name)?.as_str()?).ok()
}

/// How long the provider lets us keep the set, within bounds (JWT-11).
fn ttl(headers: &HeaderMap) -> Duration {
    let max_age = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|directive| {
            let (name, seconds) = directive.trim().split_once('=')?;
            name.eq_ignore_ascii_case("max-age")
                .then(|| seconds.trim_matches('"').parse().ok())?
        });
    max_age
        .map_or(DEFAULT_TTL, Duration::from_secs)
        .clamp(SHORTEST_TTL, LONGEST_TTL)
}

const RSA_ALGORITHMS: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
/// More keys than any provider has; a bound for the work a token without `kid` can cause.
const MAX_KEYS: usize = 64;
const DEFAULT_TTL: Duration = Duration::from_secs(60 * 60);
const SHORTEST_TTL: Duration = Duration::from_secs(60);
/// Also the age at which a set that cannot be replaced is no longer believed (JWT-12).
pub(super) const LONGEST_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Least time between fetches that unknown key ids cause (JWT-10).
pub(super) const REFETCH_INTERVAL: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
