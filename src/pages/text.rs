//! Says in plain words what went wrong and what helps, for people and for programs.

use http::StatusCode;

use crate::metrics::Unauthenticated;

/// What an error page or a problem document is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorPage {
    /// No route matches.
    NotFound,
    /// A `Host` that is not ours.
    Misdirected,
    /// The route is closed to everyone.
    DeniedRoute,
    /// Signed in, but a required claim is missing.
    DeniedClaims,
    /// Signed in, but a required scope was not granted.
    DeniedScopes,
    /// A request from another site that rides on the cookie.
    CrossSite,
    /// Not signed in (any more), where no redirect can be sent.
    Unauthenticated(Unauthenticated),
    /// The user or the provider said no.
    LoginRefused,
    /// `state` is too old, used, or of another browser.
    LoginExpired,
    /// The provider's answer did not stand up to validation.
    LoginInvalid,
    /// The login cookie did not come back.
    CookiesBlocked,
    /// Logins that succeed and are not remembered.
    LoginLoop,
    /// A login for a provider that does not exist.
    UnknownProvider,
    /// The provider cannot be asked.
    ProviderUnavailable,
    /// The session store cannot be asked.
    StoreUnavailable,
    /// The session could not be deleted.
    LogoutFailed,
    /// A request that cannot be made unambiguous.
    BadRequest,
    /// One of our endpoints does not know the method.
    MethodNotAllowed,
    /// The body is beyond its limit.
    TooLarge,
    /// The header block is beyond its limit.
    HeadersTooLarge,
    /// The rest of the request did not come in time.
    TooSlow,
    /// Too many logins or refreshes.
    RateLimited,
    /// The upstream cannot be reached, or broke off.
    UpstreamUnavailable,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// A fault of ours.
    Internal,
}

/// The words of one error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    pub(super) status: StatusCode,
    pub(super) reason: &'static str,
    pub(super) icon: Icon,
    pub(super) title: &'static str,
    pub(super) explanation: &'static str,
    pub(super) advice: &'static str,
    pub(super) hints: &'static [&'static str],
    pub(super) forward: Forward,
}

/// The way forward that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forward {
    /// Once more, the same.
    TryAgain,
    /// Sign in.
    SignIn,
    /// To the start page.
    Start,
    /// To the application's own address, when it is known.
    Address,
}

/// A picture for the mood of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Icon {
    Search,
    Lock,
    Shield,
    Clock,
    Outage,
    Alert,
    Loop,
    Done,
    Door,
    Person,
}

impl Icon {
    /// Path data in a box of 24 by 24.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Search => "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.3 15.3 20 20",
            Self::Lock => {
                "M7 11h10a2 2 0 0 1 2 2v5a2 2 0 0 1-2 2H7a2 2 0 0 1-2-2v-5a2 2 0 0 1 2-2zM8 11V8a4 4 0 0 1 8 0v3"
            }
            Self::Shield => {
                "M12 3.5 5 6v5.5c0 4.3 2.9 7.5 7 9 4.1-1.5 7-4.7 7-9V6zM12 9v4M12 16h.01"
            }
            Self::Clock => "M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17zM12 7.5V12l3 2",
            Self::Outage => {
                "M4 4l16 16M17.5 18.5H7a4 4 0 0 1-.9-7.9 6 6 0 0 1 1-2.1M10 6.3a6 6 0 0 1 7.8 4.2 4 4 0 0 1 2.6 5.9"
            }
            Self::Alert => "M12 4 2.8 19.5h18.4zM12 10v4M12 16.8h.01",
            Self::Loop => {
                "M19.5 12a7.5 7.5 0 0 1-13.4 4.6M4.5 12a7.5 7.5 0 0 1 13.4-4.6M18.5 3.5v4h-4M5.5 20.5v-4h4"
            }
            Self::Done => {
                "M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17zM8.5 12.2l2.5 2.5 4.8-5.2"
            }
            Self::Door => {
                "M13.5 4H7a2 2 0 0 0-2 2v12a2 2 0 0 0 2 2h6.5M10.5 12H20M16.5 8.5 20 12l-3.5 3.5"
            }
            Self::Person => "M12 11.5a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4.5 20.5a7.5 7.5 0 0 1 15 0",
        }
    }
}

impl ErrorPage {
    /// Status of the answer.
    pub fn status(self) -> StatusCode {
        self.text().status
    }

    /// Stable word for programs: `reason` of the problem document.
    pub fn reason(self) -> &'static str {
        self.text().reason
    }

    /// Short title.
    pub fn title(self) -> &'static str {
        self.text().title
    }

    /// One sentence that explains it.
    pub fn explanation(self) -> &'static str {
        self.text().explanation
    }

    pub(super) const fn text(self) -> Text {
        match self {
            Self::Unauthenticated(Unauthenticated::ProviderUnavailable) => {
                Self::ProviderUnavailable.text()
            }
            Self::Unauthenticated(Unauthenticated::StoreUnavailable) => {
                Self::StoreUnavailable.text()
            }
            Self::Unauthenticated(reason) => unauthenticated(reason),
            Self::NotFound
            | Self::Misdirected
            | Self::BadRequest
            | Self::MethodNotAllowed
            | Self::TooLarge
            | Self::HeadersTooLarge
            | Self::TooSlow
            | Self::RateLimited => self.request(),
            Self::DeniedRoute | Self::DeniedClaims | Self::DeniedScopes | Self::CrossSite => {
                self.denied()
            }
            Self::LoginRefused
            | Self::LoginExpired
            | Self::LoginInvalid
            | Self::CookiesBlocked
            | Self::LoginLoop
            | Self::UnknownProvider => self.login(),
            Self::ProviderUnavailable
            | Self::StoreUnavailable
            | Self::LogoutFailed
            | Self::UpstreamUnavailable
            | Self::UpstreamTimeout
            | Self::Internal => self.outage(),
        }
    }

    const fn request(self) -> Text {
        match self {
            Self::Misdirected => Text {
                explanation: "This server does not answer for the address you opened.",
                advice: "The link may be out of date. Use the address you were given for the application.",
                forward: Forward::Address,
                ..text(
                    StatusCode::MISDIRECTED_REQUEST,
                    "misdirected",
                    Icon::Search,
                    "Wrong address",
                )
            },
            Self::BadRequest => Text {
                explanation: "The address or the request contains something that is not allowed in it.",
                advice: "Check the address for typing mistakes, or go on from the start page.",
                ..text(
                    StatusCode::BAD_REQUEST,
                    "malformed",
                    Icon::Alert,
                    "This request is not valid",
                )
            },
            Self::MethodNotAllowed => Text {
                explanation: "This address exists, but it cannot be used in this way.",
                advice: "Go on from the start page.",
                ..text(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "method_not_allowed",
                    Icon::Alert,
                    "This does not work here",
                )
            },
            Self::TooLarge => Text {
                explanation: "What you sent is larger than this application accepts.",
                advice: "Go back and send less, or a smaller file.",
                ..text(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "too_large",
                    Icon::Alert,
                    "That is too large",
                )
            },
            Self::HeadersTooLarge => Text {
                explanation: "Your browser sent more cookies or a longer address than this application accepts.",
                advice: "Delete the cookies of this site in your browser’s settings, then sign in again.",
                ..text(
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    "too_large",
                    Icon::Alert,
                    "The request is too large",
                )
            },
            Self::TooSlow => Text {
                explanation: "The rest of what you were sending did not arrive.",
                advice: "Check your connection, then go back and send it again.",
                ..text(
                    StatusCode::REQUEST_TIMEOUT,
                    "too_slow",
                    Icon::Clock,
                    "That took too long",
                )
            },
            Self::RateLimited => Text {
                explanation: "There were many attempts from your network within a short time.",
                advice: "Wait a minute, then try again.",
                forward: Forward::TryAgain,
                ..text(
                    StatusCode::TOO_MANY_REQUESTS,
                    "rate_limited",
                    Icon::Clock,
                    "Too many attempts",
                )
            },
            _ => Text {
                explanation: "There is nothing at this address.",
                advice: "Check it for typing mistakes, or go on from the start page.",
                ..text(
                    StatusCode::NOT_FOUND,
                    "no_route",
                    Icon::Search,
                    "Page not found",
                )
            },
        }
    }

    const fn denied(self) -> Text {
        match self {
            Self::DeniedClaims => Text {
                explanation: "You are signed in, but your account may not open this page.",
                advice: "Ask the people who run this application for access, or sign out and use another account.",
                ..text(
                    StatusCode::FORBIDDEN,
                    "claims",
                    Icon::Shield,
                    "You have no access to this page",
                )
            },
            Self::DeniedScopes => Text {
                explanation: "You are signed in, but your sign-in does not include what this page needs.",
                advice: "Sign out and in again, and agree to what is asked. If that does not help, ask the people who run this application.",
                ..text(
                    StatusCode::FORBIDDEN,
                    "scopes",
                    Icon::Shield,
                    "You have no access to this page",
                )
            },
            Self::CrossSite => Text {
                explanation: "It came from another website and was stopped to protect your account.",
                advice: "If you meant to do this, open the application and do it there.",
                ..text(
                    StatusCode::FORBIDDEN,
                    "cross_site",
                    Icon::Shield,
                    "This request was stopped",
                )
            },
            _ => Text {
                explanation: "Nobody can open this address from here.",
                advice: "If you think it should be open, tell the people who run this application.",
                ..text(
                    StatusCode::FORBIDDEN,
                    "route",
                    Icon::Lock,
                    "This page is closed",
                )
            },
        }
    }

    const fn login(self) -> Text {
        let text = match self {
            Self::LoginRefused => Text {
                explanation: "Sign-in was cancelled, or the sign-in service did not let you in.",
                advice: "Try again. If it keeps happening, ask the people who run this application whether your account may use it.",
                ..text(
                    StatusCode::FORBIDDEN,
                    "login_refused",
                    Icon::Person,
                    "You are not signed in",
                )
            },
            Self::LoginInvalid => Text {
                explanation: "The sign-in service’s answer could not be verified, so it was not accepted.",
                advice: "Try again. If it keeps happening, tell the people who run this application, and quote the request below.",
                ..text(
                    StatusCode::BAD_REQUEST,
                    "login_invalid",
                    Icon::Shield,
                    "Sign-in could not be completed",
                )
            },
            Self::CookiesBlocked => Text {
                explanation: "Your browser did not send back the cookie that signing in needs.",
                advice: "This usually helps:",
                hints: &[
                    "Allow cookies for this site.",
                    "Start and finish signing in within the same browser.",
                    "Open this site by the same address as before.",
                ],
                ..text(
                    StatusCode::BAD_REQUEST,
                    "cookies_blocked",
                    Icon::Alert,
                    "Signing in needs cookies",
                )
            },
            Self::LoginLoop => Text {
                explanation: "You signed in several times within a minute, and each time your browser came back without being recognised. So we stopped.",
                advice: "The likely causes:",
                hints: &[
                    "Your browser blocks or deletes the cookies of this site.",
                    "The site was opened by another address than the one it is set up for.",
                    "A clock is wrong: your device’s or the server’s.",
                ],
                ..text(
                    StatusCode::BAD_REQUEST,
                    "login_loop",
                    Icon::Loop,
                    "Signing in goes round in circles",
                )
            },
            Self::UnknownProvider => Text {
                explanation: "The way to sign in that was asked for does not exist here.",
                advice: "The link may be out of date.",
                ..text(
                    StatusCode::NOT_FOUND,
                    "unknown_provider",
                    Icon::Search,
                    "No such sign-in",
                )
            },
            _ => Text {
                explanation: "It took too long, was finished before, or was started in another browser or window.",
                advice: "Nothing is wrong with your account: just try again.",
                ..text(
                    StatusCode::BAD_REQUEST,
                    "login_expired",
                    Icon::Clock,
                    "Sign-in could not be completed",
                )
            },
        };
        Text {
            forward: Forward::TryAgain,
            ..text
        }
    }

    const fn outage(self) -> Text {
        let text = match self {
            Self::ProviderUnavailable => Text {
                explanation: "The sign-in service cannot be reached at the moment.",
                advice: "This is usually over soon. Wait a moment, then try again.",
                ..text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "provider_unavailable",
                    Icon::Outage,
                    "Sign-in is not available right now",
                )
            },
            Self::StoreUnavailable => Text {
                explanation: "Whether you are signed in cannot be checked at the moment.",
                advice: "You have not been signed out. Wait a moment, then try again.",
                ..text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "store_unavailable",
                    Icon::Outage,
                    "This page is not available right now",
                )
            },
            Self::LogoutFailed => Text {
                explanation: "Your session could not be ended, because a service behind this site does not answer.",
                advice: "Do not leave this computer to others yet. Wait a moment, then try again.",
                ..text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "store_unavailable",
                    Icon::Alert,
                    "You may still be signed in",
                )
            },
            Self::UpstreamUnavailable => Text {
                explanation: "You reached this site, but the application behind it does not answer.",
                advice: "This is usually over soon. Wait a moment, then try again.",
                ..text(
                    StatusCode::BAD_GATEWAY,
                    "upstream_unavailable",
                    Icon::Outage,
                    "The application does not answer",
                )
            },
            Self::UpstreamTimeout => Text {
                explanation: "You reached this site, but the application behind it did not answer in time.",
                advice: "If you were saving something, check whether it was saved before you try again.",
                ..text(
                    StatusCode::GATEWAY_TIMEOUT,
                    "upstream_timeout",
                    Icon::Clock,
                    "The application takes too long",
                )
            },
            _ => Text {
                explanation: "This is our fault, not yours.",
                advice: "Try again. If it keeps happening, tell the people who run this application, and quote the request below.",
                ..text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    Icon::Alert,
                    "Something went wrong",
                )
            },
        };
        Text {
            forward: Forward::TryAgain,
            ..text
        }
    }
}

const fn unauthenticated(reason: Unauthenticated) -> Text {
    let (title, explanation) = match reason {
        Unauthenticated::Expired => (
            "Your session has ended",
            "You were signed in for as long as one session may last.",
        ),
        Unauthenticated::Idle => (
            "Your session has ended",
            "You were away for a while, so your session was closed to protect your account.",
        ),
        Unauthenticated::Revoked => (
            "You have been signed out",
            "Your session was ended, here or somewhere else.",
        ),
        // The outages have texts of their own: see `ErrorPage::text`.
        Unauthenticated::NoSession
        | Unauthenticated::ProviderUnavailable
        | Unauthenticated::StoreUnavailable => (
            "Please sign in",
            "This page is for people who are signed in.",
        ),
    };
    Text {
        explanation,
        advice: "If you were sending a form, it was not received: sign in, then send it again.",
        forward: Forward::SignIn,
        ..text(StatusCode::UNAUTHORIZED, reason.label(), Icon::Lock, title)
    }
}

const fn text(status: StatusCode, reason: &'static str, icon: Icon, title: &'static str) -> Text {
    Text {
        status,
        reason,
        icon,
        title,
        explanation: "",
        advice: "",
        hints: &[],
        forward: Forward::Start,
    }
}
