//! Asks the provider for more about a user, and makes sure that it is about that user (OIDC Core §5.3).

use http::HeaderValue;
use serde_json::Value;
use zeroize::Zeroizing;

use super::call::Request;
use super::id_token::audience;
use super::{CallError, Claims, Provider};
use crate::metrics::Endpoint;
use crate::secret::AccessToken;

enum Answer {
    Plain(Claims),
    Signed(String),
}

impl Provider {
    pub(super) async fn ask_userinfo(
        &self,
        token: &AccessToken,
        subject: &str,
    ) -> Result<Claims, CallError> {
        let metadata = self.metadata().await?;
        let url = metadata
            .userinfo_endpoint
            .as_ref()
            .ok_or_else(|| wrong("the provider has no UserInfo endpoint"))?;
        let bearer = Zeroizing::new(format!("Bearer {}", token.expose()));
        let mut bearer = HeaderValue::from_str(&bearer)
            .map_err(|_| wrong("the access token holds characters that cannot be sent"))?;
        bearer.set_sensitive(true);
        let request = Request {
            endpoint: Endpoint::UserInfo,
            url,
            within: self.config.timeout,
            authorization: Some(bearer),
            form: None,
        };
        // JSON or a signed JWT, by type; nothing else (OIDC-13).
        let answer = self.caller.call(request, |reply| {
            if reply.media_type() == "application/jwt" {
                return Ok(Answer::Signed(reply.text()?.trim().to_owned()));
            }
            reply.json().map(Answer::Plain)
        });
        let mut claims = match answer.await? {
            Answer::Plain(claims) => claims,
            Answer::Signed(jwt) => {
                let (claims, _) = self.signed_claims(&jwt, &metadata).await?;
                self.check_addressed(&claims)?;
                claims
            }
        };
        claims.retain(|_, value| !value.is_null());
        // Without this, an answer about somebody else would be taken for one about the user (OIDC-12, §5.3.2).
        if claims.get("sub").and_then(Value::as_str) != Some(subject) {
            return Err(wrong("the UserInfo answer is about another subject"));
        }
        Ok(claims)
    }

    /// A signed answer should name issuer and audience (§5.3.2); where it does, they are these two.
    fn check_addressed(&self, claims: &Claims) -> Result<(), CallError> {
        let issued = claims
            .get("iss")
            .is_none_or(|iss| iss.as_str() == Some(&self.config.issuer));
        let addressed = !claims.contains_key("aud")
            || audience(claims).is_some_and(|all| all.contains(&self.config.client_id.as_str()));
        if issued && addressed {
            Ok(())
        } else {
            Err(wrong("the signed UserInfo answer is not for us"))
        }
    }
}

fn wrong(text: &str) -> CallError {
    CallError::Metadata(text.to_owned())
}

#[cfg(test)]
mod tests;
