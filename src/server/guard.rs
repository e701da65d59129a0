//! Who may ask: hosts, origins and the token.
//!
//! A server on a person's own machine is reachable from every page that the person's browser shows.
//! * *DNS rebinding*: a page at `evil.example` whose name suddenly points to 127.0.0.1 is of the same
//!   origin as the server. Only the `Host` header tells, so it must be a name of this server. The
//!   port is not compared: a page cannot choose it freely, and a tunnel may change it.
//! * *Cross-site requests*: a page can post without being allowed to read the answer. Browsers say
//!   where a request comes from (`Sec-Fetch-Site`, `Origin`); other programs send neither.
//! * *WebSockets* are under no same-origin rule, so the handshake is checked like a post.

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::body::text_of;
use super::error::ApiError;

/// See the [module](self).
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allowed_hosts: Vec<String>,
    allowed_origins: Vec<String>,
    token: Option<[u8; 32]>,
}

impl Guard {
    /// Also answers to these host names, besides IP addresses and `localhost`.
    #[must_use]
    pub fn with_hosts(mut self, names: Vec<String>) -> Self {
        self.allowed_hosts = names;
        self
    }

    /// Also lets pages of these origins ask, as in `https://example.org`.
    #[must_use]
    pub fn with_origins(mut self, origins: Vec<String>) -> Self {
        self.allowed_origins = origins;
        self
    }

    /// Asks every request for `token`. Only its hash is kept, and hashes are compared in constant
    /// time.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(hash(token));
        self
    }

    /// The request's origin, if its pages may read answers.
    pub(super) fn reader<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let mut allowed = self.allowed_origins.iter();
        allowed
            .any(|allowed| allowed.as_bytes() == origin.as_bytes())
            .then_some(origin)
    }

    /// Checks where a request comes from and goes to.
    ///
    /// # Errors
    /// 400 without a host, 403 for a foreign host or origin.
    pub fn check_source(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<(), ApiError> {
        let host = self.check_host(uri, headers)?;
        let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        if changes || headers.contains_key(header::UPGRADE) {
            self.check_origin(&host, headers)?;
        }
        Ok(())
    }

    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<String, ApiError> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(ApiError::bad_request(
                "a request needs one Host header",
                "name the server in it",
            ));
        };
        let host = host.to_str().unwrap_or_default();
        let named = uri.authority().map(|authority| authority.as_str());
        for name in [Some(host), named].into_iter().flatten() {
            let is_known = host_name(name).is_some_and(|name| self.is_allowed(name));
            if !is_known {
                return Err(ApiError::new(
                    StatusCode::FORBIDDEN,
                    "foreign_host",
                    "this server does not answer to that host name",
                    "use an IP address or localhost, or start the server with --allowed-host",
                ));
            }
        }
        Ok(host.to_ascii_lowercase())
    }

    fn is_allowed(&self, name: &str) -> bool {
        let bare = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        let is_address = match bare {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => name.parse::<std::net::Ipv4Addr>().is_ok(),
        };
        let name = name.to_ascii_lowercase();
        is_address
            || name == "localhost"
            || name.ends_with(".localhost")
            || self
                .allowed_hosts
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(&name))
    }

    fn check_origin(&self, host: &str, headers: &HeaderMap) -> Result<(), ApiError> {
        let origin = headers
            .get(header::ORIGIN)
            .map(|value| value.to_str().unwrap_or("null"));
        if self.reader(headers).is_some() {
            return Ok(());
        }
        let site = headers
            .get("sec-fetch-site")
            .map(|value| value.to_str().unwrap_or_default());
        let is_ours = |origin: &str| {
            let origin = origin.to_ascii_lowercase();
            let rest = origin
                .strip_prefix("http://")
                .or(origin.strip_prefix("https://"));
            rest == Some(host)
        };
        // A foreign origin is refused whatever the other header says.
        match origin.is_none_or(is_ours) && matches!(site, None | Some("same-origin" | "none")) {
            true => Ok(()),
            false => Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "foreign_origin",
                "pages of other origins may not ask this server",
                "open the server's own page, or start it with --cors ORIGIN",
            )),
        }
    }

    /// Checks the token wherever the known clients put it: `Authorization: Bearer` or `Basic`
    /// (as user or password), `Token` (X-AnyLabeling), `api_key` in the query (Roboflow).
    ///
    /// # Errors
    /// 401 without a token and with a wrong one.
    pub fn check_token(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let mut tokens = tokens(uri, headers).into_iter();
        if self.token.is_none() || tokens.any(|token| self.is_token(&token)) {
            return Ok(());
        }
        let advice = "send it as `Authorization: Bearer TOKEN`";
        Err(ApiError::unauthorized(advice))
    }

    /// Whether `token` is the one.
    pub fn is_token(&self, token: &str) -> bool {
        match &self.token {
            Some(expected) => hash(token).ct_eq(expected).into(),
            None => true,
        }
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The name in `name:port`, if that is what it is.
fn host_name(host: &str) -> Option<&str> {
    let authority: axum::http::uri::Authority = host.parse().ok()?;
    let (name, rest) = host.split_at(authority.host().len());
    // What follows an address in brackets is not looked at by the parser.
    let is_port = match rest.strip_prefix(':') {
        Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()),
        None => rest.is_empty(),
    };
    (!host.contains('@') && !name.is_empty() && is_port).then_some(name)
}

fn tokens(uri: &Uri, headers: &HeaderMap) -> Vec<String> {
    let mut tokens = vec![];
    let authorization = text_of(headers, header::AUTHORIZATION);
    if let Some((scheme, credentials)) = authorization.and_then(|value| value.split_once(' ')) {
        let credentials = credentials.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            tokens.push(credentials.to_string());
        } else if scheme.eq_ignore_ascii_case("basic")
            && let Ok(decoded) = STANDARD.decode(credentials)
            && let Ok(decoded) = String::from_utf8(decoded)
            && let Some((user, password)) = decoded.split_once(':')
        {
            tokens.extend([user.to_string(), password.to_string()]);
        }
    }
    tokens.extend(text_of(headers, "token").map(str::to_string));
    let pairs = uri.query().unwrap_or_default().split('&');
    let keys = pairs.filter_map(|pair| pair.strip_prefix("api_key="));
    tokens.extend(keys.map(str::to_string));
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|&(name, value)| {
            let name = axum::http::HeaderName::from_static(name);
            (name, value.parse().unwrap())
        });
        pairs.collect()
    }

    fn check(guard: &Guard, method: Method, pairs: &[(&'static str, &str)]) -> u16 {
        let uri = Uri::from_static("/api/v1/segment");
        match guard.check_source(&method, &uri, &headers(pairs)) {
            Ok(()) => 200,
            Err(error) => error.status.as_u16(),
        }
    }

    #[test]
    fn only_names_of_this_server_are_hosts() {
        let guard = Guard::default().with_hosts(vec!["box.local".into()]);
        for host in [
            "127.0.0.1:8000",
            "localhost",
            "LOCALHOST:1",
            "a.localhost:8000",
            "[::1]:8000",
            "192.168.1.5:8000",
            "box.local:80",
            "Box.Local",
        ] {
            assert_eq!(check(&guard, Method::GET, &[("host", host)]), 200, "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "localhost.evil",
            "localhost@evil.example",
            "evil.example@localhost",
            "[::1].evil",
            "::1",
            "a b",
        ] {
            assert_eq!(check(&guard, Method::GET, &[("host", host)]), 403, "{host}");
        }
        assert_eq!(check(&guard, Method::GET, &[]), 400);
        let mut two = headers(&[("host", "localhost")]);
        two.append("host", "evil.example".parse().unwrap());
        let uri = Uri::from_static("/");
        assert!(guard.check_source(&Method::GET, &uri, &two).is_err());
        let absolute = Uri::from_static("http://evil.example/");
        let one = headers(&[("host", "localhost")]);
        assert!(guard.check_source(&Method::GET, &absolute, &one).is_err());
    }

    #[test]
    fn pages_of_other_origins_may_not_post_or_open_a_socket() {
        let guard = Guard::default().with_origins(vec!["https://editor.example".into()]);
        let host = ("host", "localhost:8000");
        for (pairs, want) in [
            (vec![host], 200),
            (vec![host, ("origin", "http://localhost:8000")], 200),
            (
                vec![
                    host,
                    ("origin", "http://localhost:8000"),
                    ("sec-fetch-site", "same-origin"),
                ],
                200,
            ),
            (vec![host, ("sec-fetch-site", "none")], 200),
            (
                vec![
                    host,
                    ("origin", "https://editor.example"),
                    ("sec-fetch-site", "cross-site"),
                ],
                200,
            ),
            (vec![host, ("origin", "http://localhost:9000")], 403),
            (vec![host, ("origin", "http://evil.example")], 403),
            (vec![host, ("origin", "null")], 403),
            (vec![host, ("sec-fetch-site", "cross-site")], 403),
            (vec![host, ("sec-fetch-site", "same-site")], 403),
            (
                vec![
                    host,
                    ("origin", "http://evil.example"),
                    ("sec-fetch-site", "same-origin"),
                ],
                403,
            ),
        ] {
            assert_eq!(check(&guard, Method::POST, &pairs), want, "{pairs:?}");
            let upgrade = [pairs.clone(), vec![("upgrade", "websocket")]].concat();
            assert_eq!(check(&guard, Method::GET, &upgrade), want, "{upgrade:?}");
            assert_eq!(check(&guard, Method::GET, &pairs), 200);
        }
    }

    #[test]
    fn the_token_is_found_wherever_clients_put_it() {
        let guard = Guard::default().with_token("secret");
        let basic = format!("Basic {}", STANDARD.encode("any:secret"));
        let ask = |uri: &str, pairs: &[(&'static str, &str)]| {
            guard
                .check_token(&uri.parse().unwrap(), &headers(pairs))
                .is_ok()
        };
        assert!(ask("/", &[("authorization", "Bearer secret")]));
        assert!(ask("/", &[("authorization", "bearer secret")]));
        assert!(ask("/", &[("authorization", &basic)]));
        assert!(ask("/", &[("token", "secret")]));
        assert!(ask("/sam3/embed_image?source=x&api_key=secret", &[]));
        for wrong in [
            "Bearer secrets",
            "Bearer ",
            "Bearer",
            "secret",
            "Basic secret",
        ] {
            assert!(!ask("/", &[("authorization", wrong)]), "{wrong}");
        }
        assert!(!ask("/?api_key=secre", &[("token", "")]));
        assert!(
            Guard::default()
                .check_token(&Uri::from_static("/"), &headers(&[]))
                .is_ok()
        );
    }
}
