//! `sam3 serve`: the page and the HTTP API.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use candle_sam3::Model;
use candle_sam3::server::guard::Guard;
use candle_sam3::server::{Config, Server, TaskImages};
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal;

use crate::model;
use crate::model::ModelArgs;
use crate::names::DEMO;
use crate::{progress, task_images};

/// Bytes in a mebibyte.
const MIB: u64 = 1 << 20;

#[derive(Parser)]
pub struct ServeArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// Address to listen on; any but the machine's own needs a token
    #[arg(
        long,
        default_value = "127.0.0.1",
        value_name = "IP",
        help_heading = "Server"
    )]
    host: IpAddr,

    /// Port to listen on; 0 for any free one
    #[arg(
        long,
        default_value_t = 8000,
        value_name = "N",
        help_heading = "Server"
    )]
    port: u16,

    /// Open the page in the browser
    #[arg(long, help_heading = "Server")]
    open: bool,

    /// Ask every request for this token
    #[arg(
        long,
        env = "SAM3_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        help_heading = "Server"
    )]
    token: Option<String>,

    /// A name, besides localhost and IP addresses, that the server is reached by; repeatable
    #[arg(long = "allowed-host", value_name = "NAME", help_heading = "Server")]
    allowed_hosts: Vec<String>,

    /// An origin whose pages may use the API, as in https://example.org; repeatable
    #[arg(long, value_name = "ORIGIN", value_parser = origin, help_heading = "Server")]
    cors: Vec<String>,

    /// A Label Studio whose tasks' pictures may be fetched, as in http://localhost:8080
    #[arg(long, value_name = "ORIGIN", value_parser = origin, requires = "label_studio_key", help_heading = "Server")]
    label_studio_url: Option<String>,

    /// Access token of that Label Studio
    #[arg(
        long,
        env = "LABEL_STUDIO_API_KEY",
        hide_env_values = true,
        value_name = "KEY",
        help_heading = "Server"
    )]
    label_studio_key: Option<String>,

    /// Memory for pictures and their embeddings
    #[arg(long, default_value_t = 2048, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1_048_576), help_heading = "Limits")]
    cache: u64,

    /// Largest upload
    #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1024), help_heading = "Limits")]
    max_upload: u64,

    /// Most pixels of a picture, in millions
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=178), help_heading = "Limits")]
    max_pixels: u64,

    /// Requests of each priority that may wait; more are answered 429
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096), help_heading = "Limits")]
    queue: u16,
}

/// An origin as browsers write it.
fn origin(text: &str) -> Result<String, String> {
    let rest = text
        .strip_prefix("https://")
        .or(text.strip_prefix("http://"));
    match rest {
        Some(host) if !host.is_empty() && !host.contains(['/', '*', ' ', '?', '#']) => {
            Ok(text.to_ascii_lowercase())
        }
        _ => Err("give scheme, host and port alone, as in https://example.org".into()),
    }
}

pub fn run(args: ServeArgs) -> Result<()> {
    let token = token(&args)?;
    let mut guard = Guard::default()
        .with_hosts(args.allowed_hosts.clone())
        .with_origins(args.cors.clone());
    if let Some(token) = &token {
        guard = guard.with_token(token);
    }
    let config = Config {
        guard,
        cache_bytes: args.cache * MIB,
        max_upload: (args.max_upload * MIB) as usize,
        max_pixels: args.max_pixels * 1_000_000,
        queue: args.queue.into(),
        task_images: task_images(&args),
        is_demo: args.model.model.as_os_str() == DEMO,
        ..Config::default()
    };
    // A port that is taken is found before a model is loaded.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2) // they move bytes; the engine has a thread of its own
        .enable_all()
        .build()?;
    let address = SocketAddr::new(args.host, args.port);
    let listener = runtime
        .block_on(TcpListener::bind(address))
        .with_context(|| format!("cannot listen on {address}; another --port may be free"))?;
    let address = listener.local_addr()?;
    let model = model::load_whole(&args.model)?;
    announce(&args, &model, address, token.as_deref());
    if args.open {
        open_browser(&page(address, token.as_deref()));
    }
    let server = Server::start(model, config)?;
    runtime.block_on(server.serve(listener, stopped()));
    Ok(())
}

fn task_images(args: &ServeArgs) -> Option<TaskImages> {
    let origin = args.label_studio_url.as_ref()?;
    let key = args.label_studio_key.as_ref()?;
    Some(task_images::task_images(origin, key, args.max_upload * MIB))
}

/// The token that was given, or a new one where the machine can be reached from others.
fn token(args: &ServeArgs) -> Result<Option<String>> {
    match &args.token {
        Some(token) if token.len() < 8 || !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            bail!("a token has 8 or more letters, digits and signs, without spaces")
        }
        Some(token) => Ok(Some(token.clone())),
        None if args.host.is_loopback() => Ok(None),
        None => {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes).context("no random numbers for a token; give a --token")?;
            Ok(Some(
                bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            ))
        }
    }
}

/// The page's address. The token is in the fragment, which browsers keep to themselves.
fn page(address: SocketAddr, token: Option<&str>) -> String {
    let host = match address.ip() {
        ip if ip.is_unspecified() => "127.0.0.1".to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
        IpAddr::V4(ip) => ip.to_string(),
    };
    let fragment = token.map_or(String::new(), |token| format!("#token={token}"));
    format!("http://{host}:{}/{fragment}", address.port())
}

fn announce(args: &ServeArgs, model: &Model, address: SocketAddr, token: Option<&str>) {
    progress::say(&format!("{} at {}", model.name(), page(address, token)));
    if model.as_interactive().is_err() {
        progress::say(
            "this model has no part for points and boxes; it answers words and exemplars",
        );
    }
    if args.model.model.as_os_str() == DEMO {
        progress::say(
            "the built-in demo model knows colored shapes only; name a real model with -m (`sam3 models` \
             lists them)",
        );
    }
    if !args.host.is_loopback() {
        progress::say(&format!(
            "warning: other machines can reach this server at any of this machine's addresses, port {}; they \
             need the token, and the connection is not encrypted",
            address.port()
        ));
    }
}

/// A browser that does not start is no reason to stop: the address is on the screen.
fn open_browser(page: &str) {
    let (program, arguments): (&str, &[&str]) = match std::env::consts::OS {
        "macos" => ("open", &[]),
        "windows" => ("cmd", &["/C", "start", ""]),
        _ => ("xdg-open", &[]),
    };
    let started = Command::new(program)
        .args(arguments)
        .arg(page)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    if let Err(error) = started {
        progress::complain(&format!(
            "warning: cannot open a browser with {program}: {error}"
        ));
    }
}

/// Ends at the first signal to stop; a second one ends the process at once.
async fn stopped() {
    first_signal().await;
    progress::say("finishing what runs; press Ctrl-C again to stop at once");
    tokio::spawn(async {
        first_signal().await;
        std::process::exit(130);
    });
}

#[cfg(unix)]
async fn first_signal() {
    use signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
async fn first_signal() {
    if signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_scheme_and_host() {
        assert_eq!(
            origin("https://Example.org:8443").unwrap(),
            "https://example.org:8443"
        );
        for wrong in [
            "*",
            "https://",
            "example.org",
            "https://example.org/",
            "https://*.org",
        ] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_page_is_where_the_server_is() {
        let address = "[::1]:80".parse().unwrap();
        assert_eq!(page(address, None), "http://[::1]:80/");
        let address = "0.0.0.0:8000".parse().unwrap();
        assert_eq!(
            page(address, Some("secret")),
            "http://127.0.0.1:8000/#token=secret"
        );
    }

    #[test]
    fn a_server_for_others_has_a_token() {
        let args = |list: &[&str]| ServeArgs::try_parse_from([&["serve"], list].concat()).unwrap();
        assert_eq!(token(&args(&[])).unwrap(), None);
        assert_eq!(
            token(&args(&["--host", "0.0.0.0"])).unwrap().unwrap().len(),
            32
        );
        assert!(token(&args(&["--token", "short"])).is_err());
        assert!(token(&args(&["--token", "long enough"])).is_err());
        assert_eq!(
            token(&args(&["--token", "long-enough"])).unwrap().unwrap(),
            "long-enough"
        );
    }
}
