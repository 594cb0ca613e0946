//! Names the values that labels can have: closed sets, so that nothing from outside makes a series.

/// Makes a closed label: an enum whose variants have fixed texts.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }
        impl $name {
            /// Every value, for initialising series at zero.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The label's text.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

label! {
    /// Why a request had no usable session; also the `reason` of the 401 (PRODUCT contract §3).
    Unauthenticated {
        /// No cookie, or one that opens nothing.
        NoSession = "no_session",
        /// The session's lifetime is over.
        Expired = "expired",
        /// Unused for too long.
        Idle = "idle",
        /// Logged out, here or elsewhere.
        Revoked = "revoked",
        /// The provider cannot be asked for a token now (503).
        ProviderUnavailable = "provider_unavailable",
        /// The store cannot be asked for the session now (503).
        StoreUnavailable = "store_unavailable",
    }
}

label! {
    /// Why a request was refused.
    Denied {
        /// `access: deny`.
        Route = "route",
        /// A required claim is missing.
        Claims = "claims",
        /// A required scope was not granted.
        Scopes = "scopes",
        /// A cross-site request riding on the cookie.
        CrossSite = "cross_site",
        /// No route matches.
        NoRoute = "no_route",
        /// A `Host` that is not ours.
        Misdirected = "misdirected",
        /// A path or message that cannot be made unambiguous.
        Malformed = "malformed",
        /// A header block or body beyond its limit.
        TooLarge = "too_large",
        /// Too many logins or refreshes.
        RateLimited = "rate_limited",
    }
}

label! {
    /// How a login ended.
    LoginResult {
        /// A session was made.
        Success = "success",
        /// The provider or the user said no.
        Refused = "refused",
        /// `state` or its cookie did not fit.
        BadState = "bad_state",
        /// `state` was bound to another login cookie: the login started anew.
        Restarted = "restarted",
        /// The answer did not stand up to validation.
        Invalid = "invalid",
        /// The provider could not be asked.
        ProviderUnavailable = "provider_unavailable",
        /// The session could not be stored.
        StoreUnavailable = "store_unavailable",
        /// A loop was broken.
        Loop = "loop",
        /// The provider had logged the user out meanwhile.
        LoggedOut = "logged_out",
    }
}

label! {
    /// How a session was logged out.
    LogoutKind {
        /// `logout`, which goes on to the provider.
        RpInitiated = "rp_initiated",
        /// `logout/local`.
        Local = "local",
        /// The provider said so, from server to server.
        BackChannel = "back_channel",
        /// The provider said so, in a frame of the browser's.
        FrontChannel = "front_channel",
        /// `daypass sessions revoke`.
        Operator = "operator",
    }
}

label! {
    /// Why a session ended.
    SessionEnd {
        /// Logged out.
        Logout = "logout",
        /// Ended by an operator.
        Revoked = "revoked",
        /// The provider rejected the refresh token.
        RefreshRejected = "refresh_rejected",
        /// Its lifetime is over.
        Expired = "expired",
        /// Unused for too long.
        Idle = "idle",
        /// Replaced by a new login.
        Replaced = "replaced",
        /// A refreshed ID token named someone else.
        IdentityChanged = "identity_changed",
    }
}

label! {
    /// Why an open answer was ended: the session it rode on was over.
    StreamEnd {
        /// Logged out or revoked, here or elsewhere.
        Revoked = "revoked",
        /// The session's lifetime is over.
        Expired = "expired",
        /// The session was unused for too long.
        Idle = "idle",
        /// The store did not tell for too long whether the session lives.
        StoreUnavailable = "store_unavailable",
    }
}

label! {
    /// How a token refresh ended.
    RefreshResult {
        /// A new token was stored.
        Success = "success",
        /// `invalid_grant`, confirmed.
        Rejected = "rejected",
        /// A sibling had rotated the token meanwhile.
        Superseded = "superseded",
        /// The session was logged out meanwhile.
        LoggedOut = "logged_out",
        /// Time-out, connection failure, 5xx.
        Unavailable = "unavailable",
        /// 429.
        RateLimited = "rate_limited",
        /// `invalid_client` and its like: our configuration is wrong.
        Misconfigured = "misconfigured",
        /// An answer that cannot be used.
        Invalid = "invalid",
    }
}

label! {
    /// Which endpoint of a provider was called.
    Endpoint {
        /// Metadata.
        Discovery = "discovery",
        /// Keys.
        Jwks = "jwks",
        /// Code exchange and refresh.
        Token = "token",
        /// Pushed authorization request.
        Par = "par",
        /// UserInfo.
        UserInfo = "userinfo",
        /// Revocation.
        Revocation = "revocation",
    }
}

label! {
    /// Token calls that are paused together.
    Lane {
        /// Exchanges of codes.
        Login = "login",
        /// Refreshes.
        Refresh = "refresh",
    }
}

label! {
    /// How a call to a provider ended.
    CallResult {
        /// An answer of the expected form.
        Ok = "ok",
        /// 4xx other than 429.
        ClientError = "client_error",
        /// 5xx.
        ServerError = "server_error",
        /// 429.
        RateLimited = "rate_limited",
        /// No answer in time.
        Timeout = "timeout",
        /// No connection, or it broke.
        Connection = "connection",
        /// An answer that cannot be read.
        Invalid = "invalid",
    }
}

label! {
    /// What the session cache did for a request.
    CacheResult {
        /// Served without asking Redis.
        Hit = "hit",
        /// Nothing there: Redis was asked.
        Miss = "miss",
        /// There, but not known to be true any more: Redis was asked.
        Unproven = "unproven",
        /// Redis did not answer: served what was true not long ago.
        Stale = "stale",
    }
}

label! {
    /// An operation of the session store.
    StoreOp {
        /// Read a session.
        Load = "load",
        /// Write a new session.
        Create = "create",
        /// Extend the idle time.
        Touch = "touch",
        /// Replace the tokens.
        Commit = "commit",
        /// Delete a session.
        Delete = "delete",
        /// Take or renew a lease.
        Lease = "lease",
        /// Is it there?
        Ping = "ping",
        /// Add to, read or trim an index of sessions.
        Index = "index",
        /// Remember, or look up, what a logout token said.
        Told = "told",
        /// Ask whether an ended session's tokens are to be revoked.
        Orphan = "orphan",
        /// Go through all sessions.
        Scan = "scan",
    }
}

label! {
    /// How a store operation ended.
    StoreResult {
        /// Done.
        Ok = "ok",
        /// Nothing there.
        Miss = "miss",
        /// No answer in time.
        Timeout = "timeout",
        /// The store said no, or the connection broke.
        Error = "error",
        /// A record that cannot be opened.
        Corrupt = "corrupt",
    }
}

label! {
    /// Why an upstream gave no answer.
    UpstreamError {
        /// Name resolution failed.
        Resolve = "resolve",
        /// No connection.
        Connect = "connect",
        /// TLS failed.
        Tls = "tls",
        /// No answer in time.
        Timeout = "timeout",
        /// It broke off, or spoke no HTTP.
        Protocol = "protocol",
    }
}

label! {
    /// How a reload ended.
    ReloadResult {
        /// The new configuration serves.
        Success = "success",
        /// The old one serves on.
        Rejected = "rejected",
    }
}
