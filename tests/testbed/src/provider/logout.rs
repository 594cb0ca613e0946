//! Makes logout tokens, good and bad, and sends them as a provider's server does (Back-Channel Logout 1.0).

use serde_json::{Value, json};

use super::{CLIENT_ID, Fault, Provider, keys, merge, random};
use crate::Failure;
use crate::client::{Client, Response};

impl Provider {
    /// `sid` of the latest login.
    pub fn latest_sid(&self) -> String {
        let state = self.shared.lock();
        let latest = state.grants.last().expect("somebody has signed in");
        latest.sid.clone()
    }

    /// A logout token for [`CLIENT_ID`] with these claims merged in: `sub`, `sid` or both are up to the caller; `null` removes
    /// a claim. `faults` are those of ID tokens that change header, claims or signature.
    pub fn logout_token(&self, claims: &Value, faults: &[Fault]) -> String {
        let mut state = self.shared.lock();
        let now = keys::unix_now() + state.settings.clock_ahead;
        let mut all = json!({
            "iss": state.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 120, "jti": random(12),
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        });
        merge(&mut all, claims);
        for fault in faults {
            if let Fault::Claims(change) = fault {
                merge(&mut all, change);
            }
        }
        let token = state.signed("logout+jwt", &all, faults);
        state.remember("logout token", &token);
        token
    }

    /// Sends a logout token to a relying party, through `via` if there are several.
    pub async fn send_logout_token(
        &self,
        to: &str,
        via: std::net::SocketAddr,
        token: &str,
    ) -> Result<Response, Failure> {
        let call = Client::new().post(to).via(via);
        call.form([("logout_token", token)]).send().await
    }
}
