//! Pure rules of HTTP and browsers: paths, cookies, headers, redirects. Knows no domain and no server.
