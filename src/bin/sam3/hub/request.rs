//! One request at a time to a hub, which may be down, slow, or not a hub at all.
//!
//! Redirects are followed here and not by the client, because the token goes to the origin of the
//! endpoint only: scheme, host and port.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::time::Duration;

use candle_sam3::models::variant::Release;

use super::cache::MAIN;
use super::refusal;
use super::settings::Settings;

/// Redirects that are followed.
const MAX_REDIRECTS: u32 = 5;
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Why a request came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// Nobody answered, or the connection broke.
    Network(String),
    /// The server cannot do it now; later it may.
    Busy(String),
    /// There is no such file.
    Missing(String),
    /// It makes no sense to ask again.
    Refused(String),
}

/// What the hub says about a file.
#[derive(Debug, PartialEq)]
pub struct Metadata {
    /// Commit that the revision means.
    pub commit: String,
    /// Name of the contents: their SHA-256 if the file is in large-file storage.
    pub etag: String,
    pub size: Option<u64>,
}

impl Metadata {
    pub fn sha256(&self) -> Option<&str> {
        let is_hex = self.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        (self.etag.len() == 64 && is_hex).then_some(self.etag.as_str())
    }
}

/// A response, its body not yet read.
pub struct Response {
    pub status: u16,
    /// Who answered: scheme, host and port.
    pub origin: String,
    /// Whether the request carried the token.
    pub had_token: bool,
    headers: HashMap<String, String>,
    pub body: Box<dyn Read>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn is_redirect(&self) -> bool {
        matches!(self.status, 301 | 302 | 303 | 307 | 308)
    }

    /// The first byte and the size of the whole, from `Content-Range: bytes 5-9/10`.
    pub fn range(&self) -> Option<(u64, Option<u64>)> {
        let range = self.header("content-range")?.strip_prefix("bytes ")?;
        let (range, whole) = range.split_once('/')?;
        let (start, _) = range.split_once('-')?;
        Some((start.trim().parse().ok()?, whole.trim().parse().ok()))
    }
}

/// Talks to the hub about one release.
pub struct Client<'a> {
    pub settings: &'a Settings,
    release: &'a Release,
    agent: ureq::Agent,
}

impl<'a> Client<'a> {
    pub fn new(settings: &'a Settings, release: &'a Release) -> Self {
        let config = ureq::Agent::config_builder()
            .user_agent(concat!("candle-sam3/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        Self {
            settings,
            release,
            agent: config.build().into(),
        }
    }

    /// The address of the file, which the hub redirects to the contents.
    fn url(&self) -> String {
        let Release {
            repository, file, ..
        } = self.release;
        let revision = self.release.revision.as_deref().unwrap_or(MAIN);
        let endpoint = &self.settings.endpoint;
        format!("{endpoint}/{repository}/resolve/{revision}/{file}")
    }

    /// Asks what the file is. The hub tells before it redirects to where the contents are.
    pub fn metadata(&self) -> Result<Metadata, Failure> {
        let mut commit = None;
        let (url, response) = self.follow("bytes=0-0", |response| {
            let own = response.header("x-repo-commit").map(String::from);
            commit = commit.take().or(own);
            response.header("x-linked-etag").is_some()
        })?;
        if !response.is_redirect() {
            self.check(&response)?;
        }
        let etag = response.header("x-linked-etag");
        let etag = etag.or(response.header("etag"));
        let (Some(commit), Some(etag)) = (commit, etag) else {
            return Err(self.not_a_hub(&url, "no X-Repo-Commit or no ETag in its answer"));
        };
        let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        for name in [&commit, etag] {
            if !is_file_name(name) {
                let name = self.settings.printable(name);
                return Err(self.not_a_hub(&url, &format!("an odd name of a file, {name}")));
            }
        }
        let number = |name| response.header(name).and_then(|size| size.parse().ok());
        let size = number("x-linked-size")
            .or_else(|| response.range().and_then(|(_, whole)| whole))
            .or_else(|| number("content-length").filter(|_| response.status == 200));
        Ok(Metadata {
            etag: etag.into(),
            commit,
            size,
        })
    }

    /// Asks for the contents from byte `start` on.
    pub fn contents(&self, start: u64) -> Result<Response, Failure> {
        let (_, response) = self.follow(&format!("bytes={start}-"), |_| false)?;
        if response.status != 416 {
            self.check(&response)?;
        }
        Ok(response)
    }

    /// Asks for a part of the file and goes where redirects lead, but for one that says enough.
    fn follow(
        &self,
        range: &str,
        mut says_enough: impl FnMut(&Response) -> bool,
    ) -> Result<(String, Response), Failure> {
        let mut url = self.url();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&url, range)?;
            if says_enough(&response) || !response.is_redirect() {
                return Ok((url, response));
            }
            let target = response.header("location").unwrap_or_default();
            url = absolute(&url, target)
                .ok_or_else(|| self.not_a_hub(&url, "a redirect that leads nowhere"))?;
        }
        Err(self.not_a_hub(&url, "redirects without end"))
    }

    fn check(&self, response: &Response) -> Result<(), Failure> {
        match response.status {
            200 | 206 => Ok(()),
            _ => Err(refusal::explain(self.settings, self.release, response)),
        }
    }

    /// The token goes to the endpoint's own origin only.
    fn send(&self, url: &str, range: &str) -> Result<Response, Failure> {
        let origin = Origin::of(url).ok_or_else(|| self.not_a_hub(url, "no address"))?;
        let mut request = self
            .agent
            .get(url)
            .header("Accept-Encoding", "identity") // a compressed answer has no ranges
            .header("Range", range);
        let is_ours = Origin::of(&self.settings.endpoint).as_ref() == Some(&origin);
        let token = self.settings.token.as_ref().filter(|_| is_ours);
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {}", token.value));
        }
        let answer = request.call().map_err(|error| {
            let error = self.settings.printable(&error.to_string());
            Failure::Network(format!("{}: {error}", self.settings.shown()))
        })?;
        let (parts, body) = answer.into_parts();
        let headers = parts.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.to_string(), value.into_owned())
        });
        Ok(Response {
            status: parts.status.as_u16(),
            origin: origin.to_string(),
            had_token: token.is_some(),
            headers: headers.collect(),
            body: Box::new(body.into_reader()),
        })
    }

    fn not_a_hub(&self, url: &str, problem: &str) -> Failure {
        Failure::Refused(format!(
            "{} does not answer like a Hugging Face hub: {problem}; check HF_ENDPOINT and proxies",
            self.settings.printable(url)
        ))
    }
}

/// Whether a name from the network may become a file in the cache.
fn is_file_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=128).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(fits)
}

/// Scheme, host and port of an address.
#[derive(Debug, PartialEq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// `None` for what is no http or https address.
    pub fn of(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let usual = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#', '\\']).next()?;
        let place = authority.rsplit('@').next()?; // behind a user and password
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => (place, ""),
        };
        let port = match port {
            "" => usual,
            port => port.parse().ok()?,
        };
        (!host.is_empty()).then(|| Self {
            scheme,
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port } = self;
        match (scheme.as_str(), port) {
            ("http", 80) | ("https", 443) => write!(f, "{scheme}://{host}"),
            _ => write!(f, "{scheme}://{host}:{port}"),
        }
    }
}

/// What stands before the path of an address.
fn before_the_path(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']);
    &url[..end.map_or(url.len(), |end| host + end)]
}

/// Where a redirect from `url` leads.
fn absolute(url: &str, target: &str) -> Option<String> {
    if target.starts_with("http://") || target.starts_with("https://") {
        return Some(target.into());
    }
    if target.starts_with("//") {
        let (scheme, _) = url.split_once("//")?;
        return Some(format!("{scheme}{target}"));
    }
    target
        .starts_with('/')
        .then(|| format!("{}{target}", before_the_path(url)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_whole_addresses() {
        let from = "http://hub:80/a/b?c=/d";
        let to = |target| absolute(from, target);
        assert_eq!(to("/x/y").unwrap(), "http://hub:80/x/y");
        assert_eq!(to("https://cdn/x").unwrap(), "https://cdn/x");
        assert_eq!(to("//cdn/x").unwrap(), "http://cdn/x");
        for nowhere in ["", "x", "ftp://cdn", "javascript:x"] {
            assert_eq!(to(nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn another_port_scheme_or_host_is_another_origin() {
        let hub = Origin::of("https://hub.example").unwrap();
        for same in [
            "https://hub.example/a/b",
            "https://HUB.example:443/",
            "https://ada:secret@hub.example?x",
        ] {
            assert_eq!(Origin::of(same).unwrap(), hub, "{same}");
        }
        for other in [
            "http://hub.example",
            "https://hub.example:444",
            "https://hub.example.org",
            "https://hub.example@evil.example/",
            "https://evil.example/hub.example",
        ] {
            assert_ne!(Origin::of(other).unwrap(), hub, "{other}");
        }
        for none in ["", "hub.example", "ftp://hub", "http://", "http://h:port"] {
            assert_eq!(Origin::of(none), None, "{none}");
        }
        assert_eq!(
            Origin::of("http://[::1]:80/x").unwrap().to_string(),
            "http://[::1]"
        );
        assert_eq!(
            Origin::of("http://h:8080").unwrap().to_string(),
            "http://h:8080"
        );
    }

    #[test]
    fn names_from_the_network_cannot_leave_the_cache() {
        assert!(is_file_name("9999e2341c") && is_file_name("W-1_2.3"));
        for odd in [
            "",
            "..",
            ".hidden",
            "../x",
            "a/b",
            "a\\b",
            "a b",
            "a\0",
            &"a".repeat(200),
        ] {
            assert!(!is_file_name(odd), "{odd}");
        }
    }

    #[test]
    fn a_sha256_is_told_from_other_etags() {
        let of = |etag: &str| Metadata {
            commit: "c".into(),
            etag: etag.into(),
            size: None,
        };
        assert!(of(&"a".repeat(64)).sha256().is_some());
        assert!(of(&"a".repeat(40)).sha256().is_none());
        assert!(of(&"g".repeat(64)).sha256().is_none());
    }
}
