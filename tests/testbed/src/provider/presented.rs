//! Notes who showed which refresh token when, and what became of it: what invariants about presentations are judged by.

use std::time::Instant;

use serde_json::Value;

use super::endpoints::{Incoming, Reply, credentials};
use super::faults::Fault;
use super::keys::claims;
use super::state::{Auth, Presentation, State, Verdict};

impl State {
    /// Notes the arrival of a refresh token; gives its place in the journal.
    pub(super) fn shown(&mut self, request: &Incoming) -> Option<usize> {
        let token = self.refresh.get(&request.param("refresh_token")?)?;
        if request.endpoint != super::Endpoint::Refresh {
            return None;
        }
        let (number, user) = (token.number, self.grants[token.grant].user.clone());
        let sender =
            credentials(request).and_then(|(_, id, proof)| match &self.clients.get(&id)?.auth {
                Auth::AnyBasic(secrets) => secrets.iter().position(|secret| *secret == proof),
                _ => None,
            });
        self.presentations.push(Presentation {
            user,
            token: number,
            sender: sender.unwrap_or(0),
            arrived: Instant::now(),
            verdict: None,
            decided: None,
            ended: None,
            cut: false,
            issued: None,
        });
        Some(self.presentations.len() - 1)
    }

    /// Answers, and notes the decision.
    pub(super) fn reply_to(
        &mut self,
        request: &Incoming,
        faults: &[Fault],
        shown: Option<usize>,
    ) -> Reply {
        let reused = self.reused;
        let reply = self.reply(request, faults);
        let verdict = match reply.status {
            _ if self.reused > reused => Verdict::Reused,
            200 => Verdict::Accepted,
            _ => Verdict::Refused,
        };
        if let Some(shown) = shown {
            let entry = &mut self.presentations[shown];
            entry.verdict = Some(verdict);
            entry.decided = Some(Instant::now());
            entry.issued = issued(&reply.body);
        }
        reply
    }

    /// Notes that nothing more comes of it.
    pub(super) fn ended(&mut self, shown: usize, cut: bool) {
        let entry = &mut self.presentations[shown];
        entry.verdict.get_or_insert(Verdict::Unprocessed);
        entry.ended = Some(Instant::now());
        entry.cut = cut;
    }
}

fn issued(body: &str) -> Option<String> {
    let answer: Value = serde_json::from_str(body).ok()?;
    let claims = claims(answer["access_token"].as_str()?)?;
    Some(claims["jti"].as_str()?.to_owned())
}
