//! Builds the address that ends the user's session at the provider (RP-Initiated Logout §2).

use url::Url;

use super::{CallError, Provider};
use crate::secret::IdToken;

impl Provider {
    pub(super) async fn end_session(
        &self,
        id_token_hint: Option<&IdToken>,
        post_logout_redirect_uri: &str,
        state: &str,
    ) -> Result<Option<Url>, CallError> {
        let metadata = self.metadata().await?;
        let Some(mut url) = metadata.end_session_endpoint.clone() else {
            return Ok(None);
        };
        let mut query = url.query_pairs_mut();
        // An expired ID token will do: it only says which session is meant (§2).
        if let Some(token) = id_token_hint {
            query.append_pair("id_token_hint", token.expose());
        }
        query
            .append_pair("client_id", &self.config.client_id)
            .append_pair("post_logout_redirect_uri", post_logout_redirect_uri)
            .append_pair("state", state);
        drop(query);
        Ok(Some(url))
    }
}
