//! Answers each endpoint's requests as a well-behaved provider would; faults come in as arguments.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use serde_json::{Value, json};
use url::Url;

use super::faults::{Endpoint, Fault};
use super::keys::{self, random};
use super::state::{Auth, Code, Grant, Login, Par, State};
use super::{merge, pages};

/// A request, read as a whole.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    pub(crate) endpoint: Endpoint,
    pub(crate) method: String,
    pub(crate) headers: HeaderMap,
    pub(crate) params: Vec<(String, String)>,
}

impl Incoming {
    pub(crate) fn param(&self, name: &str) -> Option<String> {
        let found = self.params.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.clone())
            .filter(|value| !value.is_empty())
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// An answer before it goes on the wire.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(status: u16, value: &Value) -> Self {
        Self::new(status, "application/json", value.to_string())
    }

    pub(crate) fn html(status: u16, body: String) -> Self {
        Self::new(status, "text/html; charset=utf-8", body)
    }

    pub(crate) fn redirect(location: &str) -> Self {
        Self::new(303, "text/plain", String::new()).with("location", location)
    }

    pub(crate) fn oauth_error(code: &str) -> Self {
        if code == "invalid_client" {
            let reply = Self::json(401, &json!({"error": code}));
            return reply.with("www-authenticate", "Basic realm=\"testbed\"");
        }
        Self::json(
            400,
            &json!({"error": code, "error_description": "refused by the scripted provider"}),
        )
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn new(status: u16, content_type: &str, body: String) -> Self {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let headers = vec![
            header("content-type", content_type),
            header("cache-control", "no-store"),
        ];
        Self {
            status,
            headers,
            body,
        }
    }
}

impl State {
    pub(crate) fn reply(&mut self, request: &Incoming, faults: &[Fault]) -> Reply {
        match request.endpoint {
            Endpoint::Discovery => Reply::json(200, &self.metadata(faults)),
            Endpoint::Jwks => Reply::json(200, &json!({"keys": self.jwks()})),
            Endpoint::Authorize => self.authorize(request, faults),
            Endpoint::Token | Endpoint::Refresh => self.token(request, faults),
            Endpoint::UserInfo => self.user_info(request, faults),
            Endpoint::Revoke => match self.authenticate(request) {
                Ok(_) => {
                    self.revoke(&request.param("token").unwrap_or_default());
                    Reply::json(200, &json!({}))
                }
                Err(code) => Reply::oauth_error(code),
            },
            Endpoint::EndSession => self.end_session(request),
            Endpoint::Par => self.push(request),
            Endpoint::Unknown => Reply::json(404, &json!({"error": "not_found"})),
        }
    }

    fn metadata(&self, faults: &[Fault]) -> Value {
        let at = |path: &str| format!("{}{path}", self.issuer);
        let mut metadata = json!({
            "issuer": self.issuer,
            "authorization_endpoint": at("/authorize"),
            "token_endpoint": at("/token"),
            "userinfo_endpoint": at("/userinfo"),
            "jwks_uri": at("/jwks"),
            "revocation_endpoint": at("/revoke"),
            "end_session_endpoint": at("/end-session"),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256", "RS256"],
            "token_endpoint_auth_methods_supported":
                ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"],
            "token_endpoint_auth_signing_alg_values_supported": ["ES256", "RS256"],
            "code_challenge_methods_supported": ["S256"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "authorization_response_iss_parameter_supported": self.settings.iss_parameter,
        });
        if self.settings.par != Par::Off {
            metadata["pushed_authorization_request_endpoint"] = at("/par").into();
            metadata["require_pushed_authorization_requests"] =
                (self.settings.par == Par::Required).into();
        }
        merge(&mut metadata, &self.settings.metadata);
        for fault in faults {
            match fault {
                Fault::WrongIssuer => metadata["issuer"] = "https://evil.example.com".into(),
                Fault::Answer(change) => merge(&mut metadata, change),
                _ => {}
            }
        }
        metadata
    }

    fn authorize(&mut self, request: &Incoming, faults: &[Fault]) -> Reply {
        let refuse = |why: &str| Reply::html(400, pages::refused(why));
        let mut request = request.clone();
        if let Some(uri) = request.param("request_uri") {
            // RFC 9126 §4: one use, and only what was pushed counts. A posted form brings the choice made.
            let username = request
                .params
                .iter()
                .find(|(name, _)| name == "username")
                .cloned();
            let Some(pushed) = self.pushed.remove(&uri) else {
                return refuse("unknown request_uri");
            };
            request.params = pushed.into_iter().chain(username).collect();
        } else if self.settings.par == Par::Required {
            return refuse("authorization requests must be pushed");
        }
        let client = request
            .param("client_id")
            .and_then(|id| self.clients.get(&id).cloned());
        let Some(client) = client else {
            return refuse("unknown client");
        };
        let redirect_uri = request.param("redirect_uri").unwrap_or_default();
        let allowed =
            client.redirect_uris.is_empty() || client.redirect_uris.contains(&redirect_uri);
        let Some(mut back) = Url::parse(&redirect_uri).ok().filter(|_| allowed) else {
            return refuse("this redirect_uri is not registered");
        };
        self.answer_parameters(&mut back, &request, faults);
        let fail = |mut back: Url, code: &str| {
            back.query_pairs_mut().append_pair("error", code);
            Reply::redirect(back.as_str())
        };
        if let Some(Fault::OAuthError(code)) = faults
            .iter()
            .find(|fault| matches!(fault, Fault::OAuthError(_)))
        {
            return fail(back, code);
        }
        let scope = request.param("scope").unwrap_or_default();
        let challenge = request.param("code_challenge");
        let s256 = request.param("code_challenge_method").as_deref() == Some("S256");
        if request.param("response_type").as_deref() != Some("code")
            || (challenge.is_some() && !s256)
            || (challenge.is_none() && self.settings.require_pkce)
        {
            return fail(back, "invalid_request");
        }
        if !scope.split(' ').any(|scope| scope == "openid") {
            return fail(back, "invalid_scope");
        }
        let prompt = request.param("prompt").unwrap_or_default();
        let (user, chosen) = match (self.settings.login, request.param("username")) {
            (Login::Form, Some(user)) => (user, true),
            (Login::Form, None) => match signed_in(&request).filter(|_| !asks_again(&prompt)) {
                Some(user) => (user, false),
                None if prompt == "none" => return fail(back, "login_required"),
                None => return Reply::html(200, self.sign_in_page(&request)),
            },
            (Login::Auto, _) => (self.settings.user.clone(), false),
            (Login::Hint, _) => match request.param("login_hint") {
                Some(user) => (user, false),
                None => return fail(back, "login_required"),
            },
        };
        let code = self.secret("code", 24);
        let grant = Grant {
            client_id: client.client_id,
            user: user.clone(),
            scope,
            nonce: request.param("nonce"),
            auth_time: keys::unix_now() + self.settings.clock_ahead,
            sid: random(12),
            acr: request
                .param("acr_values")
                .and_then(|all| Some(all.split(' ').next()?.to_owned())),
            revoked: false,
        };
        self.grants.push(grant);
        let grant = self.grants.len() - 1;
        self.codes.insert(
            code.clone(),
            Code {
                grant,
                redirect_uri,
                challenge,
                used: false,
            },
        );
        back.query_pairs_mut().append_pair("code", &code);
        let reply = Reply::redirect(back.as_str());
        if chosen {
            return reply.with(
                "set-cookie",
                &format!(
                    "{SSO}={}; Path=/authorize; HttpOnly; SameSite=Lax",
                    encoded(&user)
                ),
            );
        }
        reply
    }

    fn answer_parameters(&self, back: &mut Url, request: &Incoming, faults: &[Fault]) {
        let wrong_state = faults.contains(&Fault::WrongState);
        let mut pairs = back.query_pairs_mut();
        if let Some(state) = request.param("state") {
            pairs.append_pair(
                "state",
                if wrong_state {
                    "someone-elses-state"
                } else {
                    &state
                },
            );
        }
        if faults.contains(&Fault::WrongIssuer) {
            pairs.append_pair("iss", "https://evil.example.com");
        } else if self.settings.iss_parameter {
            pairs.append_pair("iss", &self.issuer);
        }
    }

    fn sign_in_page(&mut self, request: &Incoming) -> String {
        let users = self.settings.users.iter();
        let users: Vec<_> = users
            .map(|(user, claims)| {
                (
                    user.clone(),
                    claims["name"].as_str().unwrap_or(user).to_owned(),
                )
            })
            .collect();
        let client = request.param("client_id").unwrap_or_default();
        if self.settings.par == Par::Off {
            return pages::sign_in(&client, &users, &request.params);
        }
        // What was pushed must not be changed on its way through the browser: it is pushed again.
        let uri = self.keep_pushed(request.params.clone());
        let parameters = [
            ("client_id".to_owned(), client.clone()),
            ("request_uri".to_owned(), uri),
        ];
        pages::sign_in(&client, &users, &parameters)
    }

    fn token(&mut self, request: &Incoming, faults: &[Fault]) -> Reply {
        let client = match self.authenticate(request) {
            Ok(client) => client,
            Err(code) => return Reply::oauth_error(code),
        };
        let param = |name: &str| request.param(name);
        let answer = match param("grant_type").as_deref() {
            Some("authorization_code") => self.redeem(&client, param, faults),
            Some("refresh_token") => self.renew(&client, param, faults),
            _ => Err("unsupported_grant_type"),
        };
        match answer {
            Ok(answer) => Reply::json(200, &answer),
            Err(code) => Reply::oauth_error(code),
        }
    }

    fn user_info(&self, request: &Incoming, faults: &[Fault]) -> Reply {
        let token = request
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        let Some(grant) = token.and_then(|token| self.grant_of(token)) else {
            let reply = Reply::json(401, &json!({"error": "invalid_token"}));
            return reply.with("www-authenticate", "Bearer error=\"invalid_token\"");
        };
        let mut claims = self.user(&grant.user);
        for fault in faults {
            match fault {
                Fault::ForeignSubject => claims["sub"] = "somebody-else".into(),
                Fault::Answer(change) => merge(&mut claims, change),
                _ => {}
            }
        }
        Reply::json(200, &claims)
    }

    /// RP-initiated logout §2: the hint must be ours, the way back registered; `state` travels along.
    fn end_session(&mut self, request: &Incoming) -> Reply {
        let refuse = |why: &str| Reply::html(400, pages::refused(why));
        let hint = match request.param("id_token_hint") {
            // An expired hint is still a hint.
            Some(hint) => match keys::verify(&hint, &self.jwks()) {
                Some(claims) => Some(claims),
                None => return refuse("the id_token_hint was not issued here"),
            },
            None => None,
        };
        let hinted = hint
            .as_ref()
            .and_then(|claims| claims["aud"].as_str())
            .map(ToOwned::to_owned);
        let client = hinted.or_else(|| request.param("client_id"));
        let client = client.and_then(|id| self.clients.get(&id).cloned());
        let clear = format!("{SSO}=; Path=/authorize; Max-Age=0");
        if let Some(sid) = hint.as_ref().and_then(|claims| claims["sid"].as_str()) {
            for grant in self.grants.iter_mut().filter(|grant| grant.sid == sid) {
                grant.revoked = true;
            }
        }
        let Some(uri) = request.param("post_logout_redirect_uri") else {
            return Reply::html(200, pages::signed_out()).with("set-cookie", &clear);
        };
        let Some(client) = client else {
            return refuse("a way back needs an id_token_hint or client_id");
        };
        let known = client.post_logout_redirect_uris;
        let Some(mut back) = Url::parse(&uri)
            .ok()
            .filter(|_| known.is_empty() || known.contains(&uri))
        else {
            return refuse("this post_logout_redirect_uri is not registered");
        };
        if let Some(state) = request.param("state") {
            back.query_pairs_mut().append_pair("state", &state);
        }
        Reply::redirect(back.as_str()).with("set-cookie", &clear)
    }

    fn push(&mut self, request: &Incoming) -> Reply {
        if self.settings.par == Par::Off {
            return Reply::json(404, &json!({"error": "not_found"}));
        }
        let client = match self.authenticate(request) {
            Ok(client) => client,
            Err(code) => return Reply::oauth_error(code),
        };
        // RFC 9126 §2.1: the parameters of an authorization request, `client_id` among them, and no `request_uri`.
        if request.param("client_id") != Some(client.clone())
            || request.param("request_uri").is_some()
        {
            return Reply::oauth_error("invalid_request");
        }
        let credentials = [
            "client_id",
            "client_secret",
            "client_assertion",
            "client_assertion_type",
        ];
        let mut pushed = request.params.clone();
        pushed.retain(|(name, _)| !credentials.contains(&name.as_str()));
        pushed.push(("client_id".to_owned(), client));
        let uri = self.keep_pushed(pushed);
        Reply::json(201, &json!({"request_uri": uri, "expires_in": 60}))
    }

    fn keep_pushed(&mut self, params: Vec<(String, String)>) -> String {
        let uri = format!("urn:ietf:params:oauth:request_uri:{}", random(16));
        self.pushed.insert(uri.clone(), params);
        uri
    }

    /// The client that made this request, if it proved it in the way it is registered for.
    fn authenticate(&mut self, request: &Incoming) -> Result<String, &'static str> {
        let (method, id, proof) = credentials(request).ok_or("invalid_client")?;
        let client = self.clients.get(&id).ok_or("invalid_client")?;
        let good = match (&client.auth, method) {
            (Auth::Basic(secret), "basic") | (Auth::Post(secret), "post") => *secret == proof,
            (Auth::AnyBasic(secrets), "basic") => secrets.contains(&proof),
            (Auth::None, "none") => true,
            (Auth::PrivateKey(jwk), "private_key_jwt") => {
                let jwk = jwk.clone();
                self.assertion_holds(&id, &proof, &jwk)
            }
            _ => false,
        };
        if good { Ok(id) } else { Err("invalid_client") }
    }

    /// RFC 7523 §3: issuer and subject are the client, we are the audience, it has not expired and is new.
    fn assertion_holds(&mut self, id: &str, assertion: &str, jwk: &Value) -> bool {
        let Some(claims) = keys::verify(assertion, std::slice::from_ref(jwk)) else {
            return false;
        };
        self.remember("client assertion", assertion);
        let ours = |aud: &Value| {
            aud.as_str()
                .is_some_and(|aud| aud == self.issuer || aud == format!("{}/token", self.issuer))
        };
        let audience = ours(&claims["aud"])
            || claims["aud"]
                .as_array()
                .is_some_and(|all| all.iter().any(ours));
        let fresh = claims["exp"]
            .as_i64()
            .is_some_and(|exp| exp > keys::unix_now());
        let new = claims["jti"]
            .as_str()
            .is_some_and(|jti| self.assertions.insert(jti.to_owned()));
        claims["iss"] == id && claims["sub"] == id && audience && fresh && new
    }
}

const SSO: &str = "demo_provider_user";

/// Method, client and proof in the words of the registry; `None` when there is nothing to go by.
pub(crate) fn credentials(request: &Incoming) -> Option<(&'static str, String, String)> {
    if let Some(basic) = request
        .header("authorization")
        .and_then(|value| value.strip_prefix("Basic "))
    {
        let decoded = String::from_utf8(STANDARD.decode(basic).ok()?).ok()?;
        // Both halves are form-urlencoded first (RFC 6749 §2.3.1).
        let (id, secret) = decoded.split_once(':')?;
        let plain = |text: &str| {
            form_urlencoded::parse(format!("v={text}").as_bytes())
                .next()
                .map(|(_, value)| value.into_owned())
        };
        return Some(("basic", plain(id)?, plain(secret)?));
    }
    if let Some(assertion) = request.param("client_assertion") {
        let claims = keys::claims(&assertion)?;
        return Some((
            "private_key_jwt",
            claims["sub"].as_str()?.to_owned(),
            assertion,
        ));
    }
    let id = request.param("client_id")?;
    match request.param("client_secret") {
        Some(secret) => Some(("post", id, secret)),
        None => Some(("none", id, String::new())),
    }
}

fn asks_again(prompt: &str) -> bool {
    prompt
        .split(' ')
        .any(|word| matches!(word, "login" | "select_account"))
}

fn signed_in(request: &Incoming) -> Option<String> {
    let cookies = request.header("cookie")?;
    let value = cookies
        .split("; ")
        .find_map(|cookie| cookie.strip_prefix(SSO)?.strip_prefix('='))?;
    let text = form_urlencoded::parse(format!("v={value}").as_bytes())
        .next()?
        .1
        .into_owned();
    (!text.is_empty()).then_some(text)
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
