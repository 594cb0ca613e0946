//! Shared ground of the tests: a scripted provider and the keys it signs with.

mod flow;
pub(super) mod keys;
pub(super) mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::{Claims, Provider};
use crate::clock::{ManualClock, Timestamp};
use crate::config::model::{self, ClientAuth, Par};
use crate::metrics::Metrics;
use crate::secret::ClientSecret;
use server::{Reply, Server};

/// The time all tests live in.
pub(super) const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

/// A configuration that points to `issuer`.
pub(super) fn config(issuer: &str) -> model::Provider {
    model::Provider {
        name: "provider".into(),
        issuer: issuer.to_owned(),
        client_id: "shop".to_owned(),
        client_auth: ClientAuth::SecretBasic(ClientSecret::new("s:e+c%r")),
        scopes: vec!["openid".to_owned(), "profile".to_owned()],
        authorize_params: BTreeMap::new(),
        par: Par::Auto,
        ca_pem: None,
        userinfo: false,
        id_token_algorithms: vec![
            Algorithm::RS256,
            Algorithm::PS256,
            Algorithm::ES256,
            Algorithm::EdDSA,
        ],
        timeout: Duration::from_secs(5),
        refresh_patience: Duration::from_secs(10),
        default_token_lifetime: Duration::from_secs(300),
        insecure_http: false,
    }
}

/// A scripted provider and our side of it.
pub(super) struct Scene {
    pub(super) server: Server,
    pub(super) provider: Provider,
    pub(super) clock: Arc<ManualClock>,
    pub(super) metrics: Arc<Metrics>,
}

impl Scene {
    /// With metadata at the usual place, and a key set that holds the ES256 key.
    pub(super) async fn new() -> Self {
        Self::with(|_| {}, |_| {}).await
    }

    /// As [`Scene::new`], with changes to our configuration and to the metadata.
    pub(super) async fn with(
        configure: impl FnOnce(&mut model::Provider),
        describe: impl FnOnce(&mut Claims),
    ) -> Self {
        let server = Server::start().await;
        let mut metadata = metadata(&server.url());
        describe(&mut metadata);
        server.always(
            "/.well-known/openid-configuration",
            Reply::json(&Value::Object(metadata)),
        );
        server.always(
            "/jwks",
            Reply::json(&json!({"keys": [keys::es256().public()]})),
        );
        let mut config = config(&server.url());
        configure(&mut config);
        let clock = ManualClock::at(NOW);
        let metrics = Arc::new(Metrics::new().expect("metrics can be registered"));
        let provider = Provider::new(
            Arc::new(config),
            Arc::clone(&clock) as _,
            Arc::clone(&metrics),
        )
        .expect("the provider's configuration is good");
        Self {
            server,
            provider,
            clock,
            metrics,
        }
    }

    /// As [`Scene::new`], with so little patience that a test can wait it out.
    pub(super) async fn impatient() -> Self {
        let short = |config: &mut model::Provider| {
            config.timeout = Duration::from_millis(300);
            config.refresh_patience = Duration::from_millis(1500);
        };
        Self::with(short, |_| {}).await
    }

    /// Value of `provider_requests_total`.
    pub(super) fn called(&self, endpoint: &str, result: &str) -> u64 {
        let text = String::from_utf8(self.metrics.encode().expect("metrics can be encoded"))
            .expect("metrics are text");
        let series = format!(
            r#"daypass_provider_requests_total{{endpoint="{endpoint}",provider="provider",result="{result}"}} "#
        );
        text.lines()
            .find_map(|line| line.strip_prefix(&series)?.parse().ok())
            .unwrap_or(0)
    }
}

/// Metadata with every endpoint but the one for pushed requests.
pub(super) fn metadata(issuer: &str) -> Claims {
    let value = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize?tenant=1"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/jwks"),
        "userinfo_endpoint": format!("{issuer}/userinfo"),
        "revocation_endpoint": format!("{issuer}/revoke"),
        "end_session_endpoint": format!("{issuer}/logout"),
        "some_extension": {"a": [1, null]},
    });
    object(value)
}

/// The map inside a JSON object.
pub(super) fn object(value: Value) -> Claims {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}
