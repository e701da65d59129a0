//! One request at a time to a hub, which may be down, slow, or not a hub at all.
//!
//! The HTTP client is that of `hf-hub`, for its addresses, TLS, proxies and token. Its own download
//! is not used, because hf-hub 0.5 panics on a redirect without a target, takes file names from
//! unchecked headers, appends the whole file when a server ignores the range of a resumed download,
//! cannot resume a file that is complete but not yet in place, and puts a file into place before
//! anybody has checked it.

use std::collections::HashMap;
use std::io::Read;
use std::time::Duration;

use candle_sam3::models::variant::Release;
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Repo, RepoType};

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
    headers: HashMap<String, String>,
    pub body: Box<dyn Read>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
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
    settings: &'a Settings,
    release: &'a Release,
    with_token: ApiRepo,
    without_token: ApiRepo,
}

impl<'a> Client<'a> {
    pub fn new(settings: &'a Settings, release: &'a Release) -> Result<Self, Failure> {
        let token = settings.token.as_ref().map(|token| token.value.clone());
        let api = |token| -> Result<ApiRepo, Failure> {
            let builder = ApiBuilder::from_cache(hf_hub::Cache::new(settings.cache.clone()))
                .with_endpoint(settings.endpoint.clone())
                .with_user_agent("candle-sam3", env!("CARGO_PKG_VERSION"))
                .with_token(token);
            let api = builder.build();
            let api = api.map_err(|error| Failure::Refused(error.to_string()))?;
            Ok(api.repo(repo(release)))
        };
        Ok(Self {
            settings,
            release,
            with_token: api(token)?,
            without_token: api(None)?,
        })
    }

    /// Asks what the file is. The hub tells before it redirects to where the contents are.
    pub fn metadata(&self) -> Result<Metadata, Failure> {
        let mut url = self.with_token.url(&self.release.file);
        let mut commit = None;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&url, "bytes=0-0", 0)?;
            let own = response.header("x-repo-commit").map(String::from);
            commit = commit.or(own);
            let linked = response.header("x-linked-etag");
            let is_redirect = matches!(response.status, 301 | 302 | 303 | 307 | 308);
            if is_redirect && linked.is_none() {
                let target = response.header("location").unwrap_or_default();
                url = absolute(&url, target)
                    .ok_or_else(|| not_a_hub(&url, "a redirect that leads nowhere".into()))?;
                continue;
            }
            if !is_redirect {
                self.check(&response)?;
            }
            let etag = linked.or(response.header("etag"));
            let (Some(commit), Some(etag)) = (commit, etag) else {
                let missing = "no X-Repo-Commit or no ETag in its answer";
                return Err(not_a_hub(&url, missing.into()));
            };
            let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
            for name in [&commit, etag] {
                if !is_file_name(name) {
                    let name = refusal::printable(name);
                    return Err(not_a_hub(&url, format!("an odd name of a file, {name}")));
                }
            }
            let number = |name| response.header(name).and_then(|size| size.parse().ok());
            let size = number("x-linked-size")
                .or_else(|| response.range().and_then(|(_, whole)| whole))
                .or_else(|| number("content-length").filter(|_| response.status == 200));
            return Ok(Metadata {
                etag: etag.into(),
                commit,
                size,
            });
        }
        Err(not_a_hub(&url, "redirects without end".into()))
    }

    /// Asks for the contents from byte `start` on.
    pub fn contents(&self, start: u64) -> Result<Response, Failure> {
        let url = self.with_token.url(&self.release.file);
        let response = self.send(&url, &format!("bytes={start}-"), MAX_REDIRECTS)?;
        if response.status != 416 {
            self.check(&response)?;
        }
        Ok(response)
    }

    fn check(&self, response: &Response) -> Result<(), Failure> {
        match response.status {
            200 | 206 => Ok(()),
            _ => Err(refusal::explain(self.settings, self.release, response)),
        }
    }

    /// The token goes to the endpoint only.
    fn send(&self, url: &str, range: &str, redirects: u32) -> Result<Response, Failure> {
        let is_ours = origin(url) == origin(&self.settings.endpoint);
        let api = if is_ours {
            &self.with_token
        } else {
            &self.without_token
        };
        let answer = api
            .info_request()
            .uri(url)
            .header("Accept-Encoding", "identity") // a compressed answer has no ranges
            .header("Range", range)
            .config()
            .http_status_as_error(false)
            .max_redirects(redirects)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .build()
            .call();
        let answer = answer.map_err(|error| {
            let error = refusal::printable(&error.to_string());
            Failure::Network(format!("{}: {error}", self.settings.endpoint))
        })?;
        let (parts, body) = answer.into_parts();
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let headers = parts.headers.iter();
        Ok(Response {
            status: parts.status.as_u16(),
            headers: headers
                .map(|(name, value)| (name.as_str().to_string(), text(value.as_bytes())))
                .collect(),
            body: Box::new(body.into_reader()),
        })
    }
}

/// A release's place in the hub.
pub fn repo(release: &Release) -> Repo {
    let revision = release.revision.as_deref().unwrap_or("main");
    Repo::with_revision(release.repository.clone(), RepoType::Model, revision.into())
}

fn not_a_hub(url: &str, problem: String) -> Failure {
    Failure::Refused(format!(
        "{} does not answer like a Hugging Face hub: {problem}; check HF_ENDPOINT and proxies",
        refusal::printable(url)
    ))
}

/// Whether a name from the network may become a file in the cache.
fn is_file_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=128).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(fits)
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> &str {
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
        .then(|| format!("{}{target}", origin(url)))
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
