//! Issues, rotates and revokes tokens; this is where reuse of a refresh token is detected.

use std::time::Instant;

use serde_json::{Value, json};

use super::faults::Fault;
use super::keys::{self, SigningKey, encode, encode_json, random, sha256};
use super::merge;
use super::state::{AccessTokenForm, Grant, Refresh, Rotation, State};

/// An OAuth error code (RFC 6749 §5.2).
pub(crate) type Refusal = &'static str;

impl State {
    /// Redeems an authorization code; presented twice, it takes the grant with it (RFC 6749 §4.1.2).
    pub(crate) fn redeem(
        &mut self,
        client_id: &str,
        param: impl Fn(&str) -> Option<String>,
        faults: &[Fault],
    ) -> Result<Value, Refusal> {
        let presented = param("code").ok_or("invalid_request")?;
        if let Some(verifier) = param("code_verifier") {
            self.remember("code verifier", &verifier);
        }
        let code = self.codes.get_mut(&presented).ok_or("invalid_grant")?;
        let grant = code.grant;
        if code.used {
            self.grants[grant].revoked = true;
            return Err("invalid_grant");
        }
        code.used = true;
        let pkce = code.challenge.as_ref().is_none_or(|challenge| {
            param("code_verifier").is_some_and(|verifier| {
                (43..=128).contains(&verifier.len())
                    && encode(&sha256(verifier.as_bytes())) == *challenge
            })
        });
        let redirect = param("redirect_uri").as_deref() == Some(code.redirect_uri.as_str());
        if !pkce || !redirect || self.grants[grant].client_id != client_id {
            return Err("invalid_grant");
        }
        let refresh = self.settings.refresh_tokens && !faults.contains(&Fault::NoRefreshToken);
        let refresh = refresh.then(|| self.new_refresh_token(grant));
        Ok(self.answer(grant, refresh, true, faults))
    }

    /// Presents a refresh token.
    pub(crate) fn renew(
        &mut self,
        client_id: &str,
        param: impl Fn(&str) -> Option<String>,
        faults: &[Fault],
    ) -> Result<Value, Refusal> {
        let presented = param("refresh_token").ok_or("invalid_request")?;
        let rotation = self.settings.rotation;
        let token = self.refresh.get_mut(&presented).ok_or("invalid_grant")?;
        let grant = token.grant;
        if let Some(used) = token.used {
            self.reused += 1;
            let forgiven = matches!(rotation, Rotation::Grace(grace) if used.elapsed() <= grace);
            if !forgiven {
                self.grants[grant].revoked = true;
                return Err("invalid_grant");
            }
        }
        if self.grants[grant].revoked || self.grants[grant].client_id != client_id {
            return Err("invalid_grant");
        }
        if let Some(scope) = param("scope") {
            let granted = &self.grants[grant].scope;
            if !scope
                .split(' ')
                .all(|wanted| granted.split(' ').any(|has| has == wanted))
            {
                return Err("invalid_scope");
            }
        }
        let keep = rotation == Rotation::Off || faults.contains(&Fault::NoRefreshToken);
        let next = if keep {
            None
        } else {
            token.used.get_or_insert_with(Instant::now);
            Some(self.new_refresh_token(grant))
        };
        let id_token = self.settings.id_token_on_refresh;
        Ok(self.answer(grant, next, id_token, faults))
    }

    /// Revokes whatever `token` is (RFC 7009: unknown tokens are no error).
    pub(crate) fn revoke(&mut self, token: &str) {
        if let Some(refresh) = self.refresh.get(token) {
            self.grants[refresh.grant].revoked = true;
        }
        self.access.remove(token);
    }

    /// The grant behind an access token that is still good.
    pub(crate) fn grant_of(&self, access_token: &str) -> Option<&Grant> {
        let (grant, expires) = self.access.get(access_token)?;
        let grant = &self.grants[*grant];
        (*expires > Instant::now() && !grant.revoked).then_some(grant)
    }

    fn new_refresh_token(&mut self, grant: usize) -> String {
        let token = self.secret("refresh token", 32);
        let number = u64::try_from(self.refresh.len()).expect("a count of tokens fits");
        self.refresh.insert(
            token.clone(),
            Refresh {
                grant,
                number,
                used: None,
                presented: 0,
            },
        );
        token
    }

    fn answer(
        &mut self,
        grant: usize,
        refresh: Option<String>,
        id_token: bool,
        faults: &[Fault],
    ) -> Value {
        let access = self.access_token(grant);
        let mut answer = json!({
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": self.settings.access_ttl.as_secs(),
            "scope": self.grants[grant].scope,
        });
        if let Some(refresh) = refresh {
            answer["refresh_token"] = refresh.into();
        }
        let openid = self.grants[grant]
            .scope
            .split(' ')
            .any(|scope| scope == "openid");
        if openid && id_token && !faults.contains(&Fault::MissingIdToken) {
            answer["id_token"] = self.id_token(grant, &access, faults).into();
        }
        if faults.contains(&Fault::NoExpiresIn) {
            merge(&mut answer, &json!({"expires_in": null}));
        }
        for fault in faults {
            if let Fault::Answer(change) = fault {
                merge(&mut answer, change);
            }
        }
        answer
    }

    fn access_token(&mut self, grant: usize) -> String {
        let ttl = self.settings.access_ttl;
        let token = match self.settings.access_token {
            AccessTokenForm::Opaque => random(32),
            AccessTokenForm::Jwt => {
                let now = keys::unix_now() + self.settings.clock_ahead;
                let about = &self.grants[grant];
                let mut claims = json!({
                    "iss": self.issuer, "sub": self.user(&about.user)["sub"], "aud": "echo",
                    "client_id": about.client_id, "scope": about.scope, "jti": random(12),
                    "iat": now, "exp": now + keys::seconds(ttl),
                });
                merge(&mut claims, &self.settings.access_claims);
                self.signer().sign("at+jwt", &claims)
            }
        };
        self.remember("access token", &token);
        self.access
            .insert(token.clone(), (grant, Instant::now() + ttl));
        token
    }

    fn id_token(&mut self, grant: usize, access_token: &str, faults: &[Fault]) -> String {
        let about = &self.grants[grant];
        let user = self.user(&about.user);
        let now = keys::unix_now() + self.settings.clock_ahead;
        let mut claims = json!({"iss": self.issuer, "sub": user["sub"], "aud": about.client_id});
        if self.settings.claims_in_id_token {
            merge(&mut claims, &user);
        }
        let hash = sha256(access_token.as_bytes());
        merge(
            &mut claims,
            &json!({
                "iat": now, "exp": now + keys::seconds(self.settings.id_ttl), "auth_time": about.auth_time,
                "sid": about.sid, "nonce": about.nonce, "acr": about.acr,
                // OpenID Connect Core §3.1.3.6: the left half of the hash.
                "at_hash": encode(&hash[..16]),
            }),
        );
        for fault in faults {
            let change = match fault {
                Fault::WrongNonce => json!({"nonce": random(16)}),
                Fault::WrongAudience => json!({"aud": "somebody-else"}),
                Fault::WrongIssuer => json!({"iss": "https://evil.example.com"}),
                Fault::ForeignSubject => json!({"sub": "somebody-else"}),
                Fault::ExpiredIdToken => json!({"iat": now - 7200, "exp": now - 3600}),
                Fault::WrongAtHash => json!({"at_hash": encode(&sha256(b"another token")[..16])}),
                Fault::Claims(change) => change.clone(),
                _ => continue,
            };
            merge(&mut claims, &change);
        }
        let token = self.signed("JWT", &claims, faults);
        self.remember("ID token", &token);
        token
    }

    /// Signs with the current key, unless a fault says otherwise.
    pub(crate) fn signed(&self, typ: &str, claims: &Value, faults: &[Fault]) -> String {
        let mut token = None;
        for fault in faults {
            token = Some(match fault {
                Fault::AlgNone => {
                    let header = json!({"alg": "none", "typ": typ});
                    format!("{}.{}.", encode_json(&header), encode_json(claims))
                }
                Fault::BadSignature => {
                    let good = self.signer().sign(typ, claims);
                    let (input, _) = good.rsplit_once('.').expect("a token has three parts");
                    format!("{input}.{}", encode(&[7; 64]))
                }
                Fault::UnknownKey => SigningKey::generate(self.settings.signing).sign(typ, claims),
                Fault::HmacWithPublicKey => self.signer().sign_confused(claims),
                Fault::Header(change) => self.signer().sign_with_header(change, claims),
                _ => continue,
            });
        }
        token.unwrap_or_else(|| self.signer().sign(typ, claims))
    }
}
