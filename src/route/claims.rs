//! Decides whether a signed-in user has what a route requires.

use serde_json::Value;

use crate::claims::{Claim, Claims};
use crate::config::model::{ClaimPath, Require};

/// What is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A scope was not granted.
    #[error("scope {0:?} was not granted")]
    Scope(String),
    /// A claim is absent or has no value that is allowed; named by its path, for the value may be personal.
    #[error("claim {0:?} does not match")]
    Claim(String),
}

/// Checks scopes, then claims. Values are compared whole: a text is one value, a list matches by any of its elements, and
/// nothing is ever searched for within a text (OIDC-20).
///
/// # Errors
/// The first thing that is [missing](Denied).
pub fn claims_match(require: &Require, claims: &Claims, scopes: &[String]) -> Result<(), Denied> {
    for scope in &require.scopes {
        if !scopes.contains(scope) {
            return Err(Denied::Scope(scope.clone()));
        }
    }
    for (path, allowed) in &require.claims {
        let fits = lookup(path, claims).is_some_and(|claim| match claim {
            Claim::List(elements) => elements.iter().any(|element| is_one_of(element, allowed)),
            claim => is_one_of(claim, allowed),
        });
        if !fits {
            return Err(Denied::Claim(path.text.to_string()));
        }
    }
    Ok(())
}

/// Finds a claim by its dotted path; the longest key wins where keys hold dots themselves. `null` is absent (OIDC-18).
pub fn lookup<'c>(path: &ClaimPath, claims: &'c Claims) -> Option<&'c Claim> {
    find(&path.text, claims).filter(|claim| !claim.is_null())
}

fn find<'c>(path: &str, claims: &'c Claims) -> Option<&'c Claim> {
    if let Some(claim) = claims.get(path) {
        return Some(claim);
    }
    path.rmatch_indices('.').find_map(|(dot, _)| {
        let inner = claims.get(&path[..dot])?.as_object()?;
        find(&path[dot + 1..], inner)
    })
}

fn is_one_of(claim: &Claim, allowed: &[Value]) -> bool {
    !claim.is_null() && allowed.iter().any(|allowed| is_same(claim, allowed))
}

/// Equality of JSON values, where `1` and `1.0` are one number.
fn is_same(claim: &Claim, allowed: &Value) -> bool {
    match (claim, allowed) {
        (Claim::Null, Value::Null) => true,
        (Claim::Bool(a), Value::Bool(b)) => a == b,
        (Claim::Number(a), Value::Number(b)) => {
            a == b || ((a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64())
        }
        (Claim::Text(a), Value::String(b)) => **a == **b,
        // Whole, in every part.
        (Claim::List(_) | Claim::Object(_), Value::Array(_) | Value::Object(_)) => {
            claim.to_value() == *allowed
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
