//! Accounts for a request at its end: metrics, the access log, and the audit log where it was denied.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::metrics::{Denied, method_label};
use crate::rp::audit::subject_hash;
use crate::telemetry;

use super::context::Context;
use super::refusal::Refusal;

/// Accounts for it, once. Without `status` no answer was begun.
pub(super) fn account(ctx: &mut Context, method: &Method, status: Option<StatusCode>) {
    if std::mem::replace(&mut ctx.accounted, true) {
        return;
    }
    let ctx = &*ctx;
    let series = ctx.series();
    let took = ctx.started.elapsed();
    let own = ctx
        .sent
        .or(ctx.began)
        .map_or(took, |over| over.duration_since(ctx.started))
        .saturating_sub(ctx.waited.total());
    let status = status
        .or(ctx.answered)
        .unwrap_or(StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST));
    series.answered(method, status, took, own);
    if let Some(refusal) = &ctx.refusal {
        if let Some(reason) = refusal.unauthenticated() {
            series.metrics().unauthenticated(series.route(), reason);
        }
        if let Some(reason) = refusal.denied() {
            series.metrics().denied(series.route(), reason);
            if !matches!(
                reason,
                Denied::NoRoute | Denied::Malformed | Denied::TooLarge
            ) {
                tracing::info!(target: telemetry::AUDIT, event = "denied", reason = reason.label(), route = &**series.route(), request.id = ctx.request_id.as_str(), subject.hash = whose(ctx), "access denied");
            }
        }
    }
    if ctx.live.config.logging.access_log {
        let ended = ctx.ended.map(crate::metrics::StreamEnd::label);
        tracing::info!(
            target: telemetry::ACCESS,
            decision = ctx.decision,
            request.id = ctx.request_id.as_str(),
            http.method = method_label(method),
            http.status = status.as_u16(),
            url.path = ctx.path.as_deref(),
            route = &**series.route(),
            access = series.access(),
            reason = ctx.refusal.as_ref().map(Refusal::reason).or(ended),
            client.address = %ctx.client.ip,
            subject.hash = whose(ctx),
            duration_ms = millis(took),
            own_ms = millis(own),
            upstream_ms = ctx.upstream_took.map(millis),
            "request"
        );
    }
}

fn whose(ctx: &Context) -> Option<String> {
    let session = ctx.session.as_ref();
    session
        .map(|session| subject_hash(&session.issuer, &session.subject))
        .or_else(|| ctx.signed_in.clone())
}

fn millis(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}
