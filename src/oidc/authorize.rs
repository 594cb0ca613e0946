//! Builds the address that sends a browser to log in.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use serde_json::Value;
use tokio::time::timeout;
use url::Url;

use super::call::{Form, Request};
use super::discovery::Metadata;
use super::{AuthorizationRequest, CallError, Provider};
use crate::config::model::Par;
use crate::metrics::Endpoint;

impl Provider {
    pub(super) async fn authorize(
        &self,
        request: &AuthorizationRequest<'_>,
    ) -> Result<Url, CallError> {
        // Whoever is sent to a provider that is not there sees an error of their browser, and not what they could do.
        match timeout(LOOK, self.is_there(RECENT)).await {
            Ok(there) => there?,
            // Slow is not away; once away, it is not back before it says so.
            Err(_) => self.caller.presence().missing().map_or(Ok(()), Err)?,
        }
        let metadata = self.metadata().await?;
        let parameters = self.parameters(request);
        let mut url = metadata.authorization_endpoint.clone();
        if let Some(endpoint) = self.par_endpoint(&metadata)? {
            let request_uri = self.push(parameters, endpoint, &metadata).await?;
            // These two alone: everything else was said over a connection of our own (RFC 9126 §4, PAR-02).
            url.query_pairs_mut()
                .append_pair("client_id", &self.config.client_id)
                .append_pair("request_uri", &request_uri);
        } else {
            url.query_pairs_mut().extend_pairs(parameters.iter());
        }
        Ok(url)
    }

    /// OIDC Core §3.1.2.1, RFC 7636 §4.3.
    fn parameters(&self, request: &AuthorizationRequest<'_>) -> Form {
        let mut form = Form::default();
        // What others chose comes first, so that nothing of it can replace what makes the flow safe.
        for (name, value) in &self.config.authorize_params {
            form.set(name, value);
        }
        for (name, value) in request.extra {
            form.set(name, value);
        }
        let challenge = digest::digest(&digest::SHA256, request.verifier.expose().as_bytes());
        form.set("response_type", "code");
        form.set("client_id", &self.config.client_id);
        form.set("redirect_uri", request.redirect_uri);
        form.set("scope", &self.config.scopes.join(" "));
        form.set("state", request.state);
        form.set("nonce", request.nonce.expose());
        form.set("code_challenge", &URL_SAFE_NO_PAD.encode(challenge));
        form.set("code_challenge_method", "S256");
        form
    }

    /// Where to push the request, when it is to be pushed (RFC 9126 §5).
    fn par_endpoint<'a>(&self, metadata: &'a Metadata) -> Result<Option<&'a Url>, CallError> {
        let endpoint = metadata.par_endpoint.as_ref();
        let wrong = match self.config.par {
            Par::Off if !metadata.par_required => return Ok(None),
            Par::Auto if !metadata.par_required => return Ok(endpoint),
            Par::Auto | Par::Required if endpoint.is_some() => return Ok(endpoint),
            Par::Off => "the provider demands pushed authorization requests, but `par` is `off`",
            Par::Auto => {
                "the provider demands pushed authorization requests, but names no endpoint"
            }
            Par::Required => {
                "`par` is `required`, but the provider has no pushed authorization request endpoint"
            }
        };
        Err(CallError::Metadata(wrong.to_owned()))
    }

    async fn push(
        &self,
        mut form: Form,
        endpoint: &Url,
        metadata: &Metadata,
    ) -> Result<String, CallError> {
        // Same client authentication as at the token endpoint (RFC 9126 §2, PAR-03).
        let authorization = self.client.authenticate(&mut form, metadata)?;
        let request = Request {
            endpoint: Endpoint::Par,
            url: endpoint,
            within: self.config.timeout,
            authorization,
            form: Some(form),
        };
        let request_uri = self
            .caller
            .call(request, |reply| {
                reply
                    .json()?
                    .get("request_uri")
                    .and_then(Value::as_str)
                    .filter(|uri| !uri.is_empty())
                    .map(str::to_owned)
                    .ok_or_else(|| "the answer has no `request_uri`".into())
            })
            .await?;
        Ok(request_uri)
    }
}

/// A provider that was heard so lately is there.
const RECENT: Duration = Duration::from_secs(2);
/// Longest wait for a word of one that was there when it was asked last.
const LOOK: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
