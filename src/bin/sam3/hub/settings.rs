//! The environment variables of the Hugging Face Hub, read as its Python client reads them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::refusal;

const ENDPOINT: &str = "https://huggingface.co";

/// Stands for a secret in messages.
const HIDDEN: &str = "***";

/// Where models are kept, where they come from, and as whom.
pub struct Settings {
    /// The folder of `models--owner--name`.
    pub cache: PathBuf,
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    pub token: Option<Token>,
    /// Where a token is looked for if no variable holds one.
    pub token_file: PathBuf,
    /// Whether the network must not be touched.
    pub offline: bool,
    /// What a user can pass in place of a name, for messages.
    pub instead: &'static str,
}

pub struct Token {
    pub value: String,
    /// The variable or file that it is from.
    pub source: String,
}

impl Settings {
    pub fn from_env() -> Result<Self> {
        Self::read(|name| std::env::var_os(name), std::env::home_dir())
    }

    /// The address of the hub without a user and password, for messages.
    pub fn shown(&self) -> String {
        without_user(&self.endpoint)
    }

    /// Text from elsewhere as it may be shown: without secrets, and without what could steer a
    /// terminal.
    pub fn printable(&self, text: &str) -> String {
        refusal::printable(&self.without_secrets(text))
    }

    /// Text without the token and the password of the endpoint.
    pub fn without_secrets(&self, text: &str) -> String {
        let mut text = text.to_string();
        if let Some(token) = &self.token {
            text = text.replace(&token.value, HIDDEN);
        }
        if let Some(user) = user_of(&self.endpoint) {
            text = text.replace(&format!("{user}@"), "");
            if let Some((_, password)) = user.split_once(':').filter(|(_, p)| !p.is_empty()) {
                text = text.replace(password, HIDDEN);
            }
        }
        text
    }

    fn read(var: impl Fn(&str) -> Option<OsString>, user: Option<PathBuf>) -> Result<Self> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let folder = |name: &str| {
            let path = PathBuf::from(var(name)?);
            let below = path.strip_prefix("~").ok().zip(user.as_deref());
            Some(below.map_or(path.clone(), |(below, user)| user.join(below)))
        };
        let home = folder("HF_HOME")
            .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(user.as_deref()?.join(".cache/huggingface")))
            .context("no home folder to keep models in; set HF_HOME to a folder")?;
        let cache = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
        let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let text = |name: &str| var(name).map(|value| value.to_string_lossy().into_owned());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let endpoint = endpoint.trim_end_matches('/');
        let is_url = ["https://", "http://"].iter().any(|scheme| {
            let rest = endpoint.strip_prefix(scheme);
            rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['?', '#', ' ']))
        });
        if !is_url {
            let endpoint = without_user(endpoint);
            bail!("HF_ENDPOINT is {endpoint}; give an address like {ENDPOINT}");
        }
        Ok(Self {
            cache: cache.unwrap_or_else(|| home.join("hub")),
            endpoint: endpoint.into(),
            token: token(text, &token_file)?,
            token_file,
            offline: text("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
            instead: "-m FILE",
        })
    }
}

/// `user:password` of an address.
fn user_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    Some(authority.rsplit_once('@')?.0)
}

fn without_user(url: &str) -> String {
    match user_of(url) {
        Some(user) => url.replacen(&format!("{user}@"), "", 1),
        None => url.to_string(),
    }
}

fn is_true(value: &str) -> bool {
    let yes = ["1", "on", "yes", "true"];
    yes.iter().any(|yes| yes.eq_ignore_ascii_case(value))
}

fn token(text: impl Fn(&str) -> Option<String>, file: &Path) -> Result<Option<Token>> {
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(value) = text(name) {
            return clean(&value, name.into());
        }
    }
    match std::fs::read_to_string(file) {
        Ok(value) => clean(&value, file.display().to_string()),
        Err(_) => Ok(None),
    }
}

fn clean(value: &str, source: String) -> Result<Option<Token>> {
    let value = value.trim();
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("{source} holds no token: it has spaces or characters that no token has");
    }
    let token = (!value.is_empty()).then(|| Token {
        value: value.into(),
        source,
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Settings> {
        let var = |name: &str| {
            let found = vars.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Settings::read(var, Some("/home/ada".into()))
    }

    #[test]
    fn the_cache_is_where_the_first_variable_says() {
        let cache = |vars: &[(&str, &str)]| read(vars).unwrap().cache;
        assert_eq!(cache(&[]), Path::new("/home/ada/.cache/huggingface/hub"));
        let mut vars = vec![("XDG_CACHE_HOME", "/x")];
        assert_eq!(cache(&vars), Path::new("/x/huggingface/hub"));
        vars.push(("HF_HOME", "~/hf"));
        assert_eq!(cache(&vars), Path::new("/home/ada/hf/hub"));
        vars.push(("HUGGINGFACE_HUB_CACHE", "/old"));
        assert_eq!(cache(&vars), Path::new("/old"));
        vars.push(("HF_HUB_CACHE", "/new"));
        assert_eq!(cache(&vars), Path::new("/new"));
        vars.push(("HF_HUB_CACHE", ""));
        assert_eq!(cache(&vars[1..]), Path::new("/new"));
    }

    #[test]
    fn a_token_comes_from_a_variable_or_else_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(folder.path().join("other"), "hf_other").unwrap();
        let token = |vars: &[(&str, &str)]| {
            let vars = [vars, &[("HF_HOME", home)]].concat();
            let token = read(&vars).unwrap().token.unwrap();
            (token.value, token.source)
        };
        assert_eq!(token(&[]).0, "hf_file");
        let other = folder.path().join("other");
        let other = other.to_str().unwrap();
        assert_eq!(
            token(&[("HF_TOKEN_PATH", other)]),
            ("hf_other".into(), other.into())
        );
        let both = [("HF_TOKEN", " hf_var "), ("HF_TOKEN_PATH", other)];
        assert_eq!(token(&both), ("hf_var".into(), "HF_TOKEN".into()));
        assert!(read(&[]).unwrap().token.is_none());
        let error = read(&[("HF_TOKEN", "two words")]).err().unwrap();
        assert!(error.to_string().contains("HF_TOKEN"), "{error}");
    }

    #[test]
    fn an_endpoint_must_be_an_address() {
        assert_eq!(read(&[]).unwrap().endpoint, ENDPOINT);
        let mirror = read(&[("HF_ENDPOINT", "http://mirror:80/")]).unwrap();
        assert_eq!(mirror.endpoint, "http://mirror:80");
        for wrong in [
            "mirror",
            "ftp://mirror",
            "http://",
            "http://a b",
            "http://a#",
        ] {
            let error = read(&[("HF_ENDPOINT", wrong)]).err().unwrap();
            assert!(error.to_string().contains("HF_ENDPOINT"), "{wrong}");
        }
    }

    #[test]
    fn secrets_are_in_no_message() {
        let vars = [
            ("HF_ENDPOINT", "https://ada:s3cret@mirror.example"),
            ("HF_TOKEN", "hf_abc"),
        ];
        let settings = read(&vars).unwrap();
        assert_eq!(settings.shown(), "https://mirror.example");
        let text = "bad token Bearer hf_abc at https://ada:s3cret@mirror.example/x: s3cret";
        let want = "bad token Bearer *** at https://mirror.example/x: ***";
        assert_eq!(settings.without_secrets(text), want);
        let error = read(&[("HF_ENDPOINT", "https://ada:s3cret@a b")])
            .err()
            .unwrap();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    #[test]
    fn offline_is_what_python_takes_for_true() {
        let offline = |value| read(&[("HF_HUB_OFFLINE", value)]).unwrap().offline;
        assert!(offline("1") && offline("True") && offline("yes"));
        assert!(!offline("0") && !offline("") && !offline("false"));
    }
}
