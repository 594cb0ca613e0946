//! Tells the provider that a token is of no more use (RFC 7009).

use super::call::{Form, Request};
use super::{CallError, Provider, Revocable, Revoked};
use crate::metrics::Endpoint;

impl Provider {
    pub(super) async fn give_back(&self, token: &Revocable<'_>) -> Result<Revoked, CallError> {
        let metadata = self.metadata().await?;
        let Some(url) = metadata.revocation_endpoint.as_ref() else {
            return Ok(Revoked::Unsupported);
        };
        let (text, hint) = match token {
            Revocable::Refresh(token) => (token.expose(), "refresh_token"),
            Revocable::Access(token) => (token.expose(), "access_token"),
        };
        let mut form = Form::default();
        form.set("token", text);
        form.set("token_type_hint", hint);
        let authorization = self.client.authenticate(&mut form, &metadata)?;
        let request = Request {
            endpoint: Endpoint::Revocation,
            url,
            within: self.config.timeout,
            authorization,
            form: Some(form),
        };
        // 200 also for tokens the provider does not know; the body means nothing (§2.2).
        match self.caller.call(request, |_| Ok(())).await {
            Ok(()) => Ok(Revoked::Done),
            Err(failed) => match failed.error {
                // The provider revokes no tokens of this kind: nothing more can be done (§2.2.1, LOGOUT-18).
                CallError::OAuth { code } if code == "unsupported_token_type" => {
                    Ok(Revoked::Unsupported)
                }
                error => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests;
