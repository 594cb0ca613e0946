//! Builds a form body that is wiped after use, and that knows whether it was sent.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use zeroize::Zeroizing;

use crate::oidc::{Acted, Clearance};

/// Parameters of a request to the provider; most of them are secrets.
#[derive(Default)]
pub(in crate::oidc) struct Form {
    parameters: Vec<(String, Zeroizing<String>)>,
    clearance: Clearance,
}

impl Form {
    /// Sets a parameter; a parameter is there once (RFC 6749 §3.2).
    pub(in crate::oidc) fn set(&mut self, name: &str, value: &str) {
        let value = Zeroizing::new(value.to_owned());
        let mut parameters = self.parameters.iter_mut();
        match parameters.find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.parameters.push((name.to_owned(), value)),
        }
    }

    /// Leaves only with this clearance.
    pub(in crate::oidc) fn only_with(&mut self, clearance: Clearance) {
        self.clearance = clearance;
    }

    /// Name and value of each parameter, in the order they were first set.
    pub(in crate::oidc) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// `application/x-www-form-urlencoded`, in memory that is wiped when the last reader drops it.
    pub(super) fn encode(&self) -> Bytes {
        // Room for the worst case, so that growing leaves no copies behind.
        let room = self.iter().map(|(n, v)| 3 * (n.len() + v.len()) + 2).sum();
        let text = String::with_capacity(room);
        let mut form = form_urlencoded::Serializer::new(text);
        form.extend_pairs(self.iter());
        Bytes::from_owner(Zeroizing::new(form.finish().into_bytes()))
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|(name, _)| name))
            .finish()
    }
}

/// Whether the provider may have seen, and acted on, a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent(Arc<Marks>);

#[derive(Debug, Default)]
struct Marks {
    sent: AtomicBool,
    in_vain: AtomicBool,
}

impl Sent {
    /// What the provider may have done by now.
    pub(super) fn acted(&self) -> Acted {
        if self.0.in_vain.load(Ordering::Acquire) {
            Acted::No
        } else if self.0.sent.load(Ordering::Acquire) {
            Acted::Perhaps
        } else {
            Acted::Unasked
        }
    }

    /// The provider said that it did not act.
    pub(super) fn in_vain(&self) {
        self.0.in_vain.store(true, Ordering::Release);
    }

    /// Bytes of the body may be on the wire.
    fn mark(&self) {
        self.0.sent.store(true, Ordering::Release);
    }
}

/// A body that marks `sent` the moment the connection takes it.
///
/// hyper asks for the body only when it has a working connection. Before that the provider cannot have acted, however
/// the attempt ended; after that it may have. No reading of error kinds is as exact (REFRESH-22, REFRESH-23). Such a
/// body cannot be cloned either, so that no layer below can quietly send it twice.
///
/// The same moment is the last at which it can be held back: without `clearance` the connection is closed instead.
pub(super) struct TrackedBody {
    data: Option<Bytes>,
    sent: Sent,
    clearance: Clearance,
}

/// The request may not be sent any more.
#[derive(Debug, thiserror::Error)]
#[error("held back")]
pub(super) struct Withheld;

impl TrackedBody {
    pub(super) fn new(form: &Form, sent: Sent) -> Self {
        Self {
            data: Some(form.encode()),
            sent,
            clearance: form.clearance.clone(),
        }
    }
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = Withheld;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Withheld>>> {
        if self.data.is_some() && !self.clearance.given() {
            self.data = None;
            return Poll::Ready(Some(Err(Withheld)));
        }
        self.sent.mark();
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_without_clearance_is_held_back_unsent() {
        for given in [true, false] {
            let mut form = Form::default();
            form.set("refresh_token", "season-ticket");
            form.only_with(Clearance::when(move || given));
            let sent = Sent::default();
            let mut body = TrackedBody::new(&form, sent.clone());
            let mut context = Context::from_waker(std::task::Waker::noop());
            let frame = Pin::new(&mut body).poll_frame(&mut context);
            let Poll::Ready(Some(frame)) = frame else {
                panic!("it is there at once");
            };
            assert_eq!(frame.is_ok(), given);
            let acted = if given {
                Acted::Perhaps
            } else {
                Acted::Unasked
            };
            assert_eq!(sent.acted(), acted);
            assert!(body.is_end_stream());
        }
    }

    #[test]
    fn a_form_holds_each_parameter_once_and_shows_no_value() {
        let mut form = Form::default();
        form.set("grant_type", "refresh_token");
        form.set("client_id", "a");
        form.set("client_id", "b c+&=ü");
        assert_eq!(
            form.encode(),
            "grant_type=refresh_token&client_id=b+c%2B%26%3D%C3%BC"
        );
        assert_eq!(format!("{form:?}"), r#"["grant_type", "client_id"]"#);
    }
}
