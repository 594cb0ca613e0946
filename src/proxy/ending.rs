//! Ends an exchange over HTTP/1.1 whose session is over, in the politest way its state allows.
//!
//! Nothing was answered yet: a refusal. A WebSocket between two frames: a close frame. Anything else: the end of the
//! connection in the middle of the answer, which no client takes for its whole. (In HTTP/2 it is the end of the stream:
//! there is no session of pingora's left to write with, see `guard`.)

use std::time::Duration;

use pingora::proxy::{FailToProxy, Session};
use pingora::{Error, ErrorType};

use crate::metrics::{StreamEnd, Unauthenticated};
use crate::streams::websocket;

use super::context::Context;
use super::refusal::Refusal;
use super::respond;

/// How long a client may take to say goodbye after its WebSocket was closed (RFC 6455 §7.1.1), so that a reset does not
/// overtake the close frame.
const GOODBYE: Duration = Duration::from_secs(1);

/// Ends it.
pub(super) async fn end(
    session: &mut Session,
    ctx: &mut Context,
    error: &Error,
    why: StreamEnd,
) -> FailToProxy {
    ctx.ended = Some(why);
    let mut code = 0;
    if session.response_written().is_none() {
        let refusal = refusal(why);
        code = refusal.status().as_u16();
        let head = session.req_header().as_owned_parts();
        let answer = respond::refuse(ctx, &head, &refusal).closing(true);
        let _ = answer.write(session, ctx.request_id.to_value()).await;
    } else if session.was_upgraded() && between_frames(ctx, error) {
        let downstream = session.as_downstream_mut();
        let frame = websocket::close(why);
        if downstream.write_response_body(frame, false).await.is_ok() {
            if let Some(seat) = &ctx.seat {
                seat.let_speak();
            }
            let received = ctx.frames.as_mut().map(|(_, received)| received);
            let goodbye = async {
                let received = received?;
                while !received.is_closed() {
                    received.passed(&downstream.read_request_body().await.ok()??);
                }
                Some(())
            };
            let _ = tokio::time::timeout(GOODBYE, goodbye).await;
        }
    }
    FailToProxy {
        error_code: code,
        can_reuse_downstream: false,
    }
}

/// Whether all that was sent has left, up to the end of a frame.
fn between_frames(ctx: &Context, error: &Error) -> bool {
    let broke_off = matches!(
        error.etype(),
        ErrorType::WriteError | ErrorType::WriteTimedout
    );
    !broke_off
        && ctx
            .frames
            .as_ref()
            .is_some_and(|(sent, _)| sent.takes_close())
}

/// What a request is told whose session ended while it waited.
pub(super) fn refusal(why: StreamEnd) -> Refusal {
    match why {
        StreamEnd::Revoked => Refusal::Unauthenticated(Unauthenticated::Revoked),
        StreamEnd::Expired => Refusal::Unauthenticated(Unauthenticated::Expired),
        StreamEnd::Idle => Refusal::Unauthenticated(Unauthenticated::Idle),
        StreamEnd::StoreUnavailable => Refusal::StoreUnavailable,
    }
}
