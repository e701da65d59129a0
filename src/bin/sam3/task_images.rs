//! Pictures of Label Studio's tasks, fetched from the one Label Studio that the flags name.

use std::sync::Arc;
use std::time::Duration;

use candle_sam3::server::TaskImages;
use ureq::Agent;

/// A picture must be here after this long: Label Studio itself waits for 100 seconds.
const DEADLINE: Duration = Duration::from_secs(30);
/// Redirects that are followed, within the same origin.
const MAX_REDIRECTS: usize = 3;

/// Fetches with the access token `key`, at most `limit` bytes.
pub fn task_images(origin: &str, key: &str, limit: u64) -> TaskImages {
    let agent: Agent = Agent::config_builder()
        .max_redirects(0) // they are checked here
        .http_status_as_error(false)
        .timeout_global(Some(DEADLINE))
        .build()
        .into();
    // A token that is a JWT is of the newer kind.
    let scheme = if key.starts_with("eyJ") {
        "Bearer"
    } else {
        "Token"
    };
    let credentials = format!("{scheme} {key}");
    let own = origin.to_string();
    let fetch = move |address: &str| get(&agent, &own, &credentials, address, limit);
    TaskImages::new(origin, Arc::new(fetch))
}

/// The bytes at an address, or why there are none. Messages hold no address: they may hold keys.
fn get(
    agent: &Agent,
    origin: &str,
    credentials: &str,
    address: &str,
    limit: u64,
) -> Result<Vec<u8>, String> {
    let mut address = address.to_string();
    for _ in 0..=MAX_REDIRECTS {
        let request = agent.get(&address).header("Authorization", credentials);
        let mut response = request.call().map_err(|error| error.to_string())?;
        let status = response.status();
        if status.is_success() {
            let body = response.body_mut().with_config().limit(limit);
            return body.read_to_vec().map_err(|error| error.to_string());
        }
        if !status.is_redirection() {
            return Err(format!("status {status}"));
        }
        let target = response
            .headers()
            .get("location")
            .and_then(|value| value.to_str().ok());
        let target = target.unwrap_or_default();
        address = match is_within(origin, target) {
            true => target.to_string(),
            false if target.starts_with('/') && !target.starts_with("//") => {
                format!("{origin}{target}")
            }
            false => return Err("it redirects to another origin".into()),
        };
    }
    Err("it redirects without an end".into())
}

/// Whether an address is of this origin.
fn is_within(origin: &str, address: &str) -> bool {
    let rest = address.strip_prefix(origin);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers one connection after the other with what is given; the heads that it read.
    fn serve(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let answer = move || {
            let mut heads = vec![];
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 4096];
                let read = stream.read(&mut head).unwrap();
                heads.push(String::from_utf8_lossy(&head[..read]).into_owned());
                stream.write_all(answer.as_bytes()).unwrap();
            }
            heads
        };
        (origin, std::thread::spawn(answer))
    }

    fn ask(origin: &str, limit: u64) -> Result<Vec<u8>, String> {
        let agent: Agent = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .build()
            .into();
        get(
            &agent,
            origin,
            "Token secret",
            &format!("{origin}/a.jpg"),
            limit,
        )
    }

    #[test]
    fn a_picture_is_fetched_with_the_key() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
        let (origin, heads) = serve(vec![answer.into()]);
        assert_eq!(ask(&origin, 10).unwrap(), b"abc");
        assert!(
            heads.join().unwrap()[0]
                .to_lowercase()
                .contains("authorization: token secret")
        );
        let (origin, _) = serve(vec![answer.into()]);
        assert!(ask(&origin, 2).is_err());
    }

    #[test]
    fn redirects_stay_within_the_origin() {
        let moved = |target: &str| {
            let head = format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\n");
            head + "Content-Length: 0\r\nConnection: close\r\n\r\n"
        };
        let found =
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx".to_string();
        let (origin, _) = serve(vec![moved("/b.jpg"), found]);
        assert_eq!(ask(&origin, 10).unwrap(), b"x");
        for target in [
            "http://169.254.169.254/",
            "//evil.example/",
            "file:///etc/passwd",
            "",
        ] {
            let (origin, _) = serve(vec![moved(target)]);
            assert!(
                ask(&origin, 10).unwrap_err().contains("another origin"),
                "{target}"
            );
        }
        assert!(!is_within("http://studio", "http://studio.evil.example/"));
    }
}
