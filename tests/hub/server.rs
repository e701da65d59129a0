//! A server that speaks as much of the hub's protocol as a download needs, and misbehaves on request.
//!
//! Like the hub, it names commit, checksum and size in a redirect to another host, which has the
//! contents and understands ranges.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does.
#[derive(Clone, Default)]
pub struct Behaviour {
    /// Contents of every file.
    pub bytes: Vec<u8>,
    /// Announced instead of the SHA-256.
    pub etag: Option<String>,
    /// Announced instead of the length.
    pub size: Option<u64>,
    /// Raw answer to every request but those for contents.
    pub instead: Option<String>,
    /// The end of the paths that do not exist.
    pub missing: Option<&'static str>,
    /// Bytes after which the connection is cut, one for each answer with contents; then whole.
    pub cuts: Vec<usize>,
    /// Bytes after which the server falls silent.
    pub stall: Option<usize>,
    /// Whether ranges are ignored.
    pub no_ranges: bool,
    /// Pause before contents are sent.
    pub slow: Duration,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub headers: HashMap<String, String>,
}

pub struct Server {
    port: u16,
    behaviour: Arc<Mutex<Behaviour>>,
    log: Arc<Mutex<Vec<Request>>>,
}

pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Server {
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            behaviour: Arc::new(Mutex::new(behaviour)),
            log: Arc::default(),
        };
        let (behaviour, log, port) = (server.behaviour.clone(), server.log.clone(), server.port);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (behaviour, log) = (behaviour.clone(), log.clone());
                std::thread::spawn(move || answer(stream, port, &behaviour, &log));
            }
        });
        server
    }

    pub fn serving(bytes: &[u8]) -> Self {
        Self::start(Behaviour {
            bytes: bytes.to_vec(),
            ..Behaviour::default()
        })
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap());
    }

    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// The ranges of contents that were asked for.
    pub fn ranges(&self) -> Vec<String> {
        let requests = self.requests().into_iter();
        let contents = requests.filter(|request| request.path.starts_with("/contents/"));
        contents.map(|r| r.headers["range"].clone()).collect()
    }
}

fn answer(
    mut stream: TcpStream,
    port: u16,
    behaviour: &Mutex<Behaviour>,
    log: &Mutex<Vec<Request>>,
) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let mut headers = HashMap::new();
    for line in lines.map_while(Result::ok).take_while(|l| !l.is_empty()) {
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
    }
    let request = Request {
        path: first.split(' ').nth(1)?.to_string(),
        headers,
    };
    let is_contents = request.path.starts_with("/contents/");
    log.lock().unwrap().push(request.clone());
    let (now, cut) = {
        let mut behaviour = behaviour.lock().unwrap();
        let cut = is_contents && !behaviour.cuts.is_empty();
        let cut = cut.then(|| behaviour.cuts.remove(0));
        (behaviour.clone(), cut)
    };
    if is_contents {
        return send_contents(&mut stream, &request, &now, cut);
    }
    let etag = now.etag.clone().unwrap_or_else(|| sha256(&now.bytes));
    let size = now.size.unwrap_or(now.bytes.len() as u64);
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{etag}\"\r\n\
         X-Linked-Size: {size}\r\nLocation: http://localhost:{port}/contents/{etag}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let is_missing = now.missing.is_some_and(|end| request.path.ends_with(end));
    let reply = match (is_missing, now.instead) {
        (true, _) => {
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into()
        }
        (false, Some(instead)) => instead,
        (false, None) => redirect,
    };
    stream.write_all(reply.as_bytes()).ok()
}

fn send_contents(
    stream: &mut TcpStream,
    request: &Request,
    now: &Behaviour,
    cut: Option<usize>,
) -> Option<()> {
    let whole = now.bytes.len();
    let range = request.headers.get("range")?.strip_prefix("bytes=")?;
    let start: usize = range.split_once('-')?.0.parse().ok()?;
    let start = if now.no_ranges { 0 } else { start };
    let head = if start >= whole && whole > 0 {
        format!("416 Range Not Satisfiable\r\nContent-Range: bytes */{whole}")
    } else if now.no_ranges {
        "200 OK".to_string()
    } else {
        let end = whole - 1;
        format!("206 Partial Content\r\nContent-Range: bytes {start}-{end}/{whole}")
    };
    let body = now.bytes.get(start..)?;
    let length = body.len();
    std::thread::sleep(now.slow);
    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let sent = cut.or(now.stall).unwrap_or(length).min(length);
    stream.write_all(&body[..sent]).ok()?;
    if now.stall.is_some() {
        std::thread::sleep(Duration::from_secs(30));
    }
    Some(())
}
