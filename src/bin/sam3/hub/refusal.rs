//! What to tell a user whom the hub refuses.

use candle_sam3::models::variant::Release;

use super::request::{Failure, Response};
use super::settings::Settings;

/// The longest text of a server that is repeated.
const LONGEST: usize = 300;

/// A refusal, with what would help.
pub fn explain(settings: &Settings, release: &Release, response: &Response) -> Failure {
    let status = response.status;
    let said = response.header("x-error-message");
    let said = said.map(|said| settings.printable(said));
    let said = said.map_or(String::new(), |said| format!(": {said}"));
    let code = response.header("x-error-code").unwrap_or_default();
    let Release {
        repository, file, ..
    } = release;
    match status {
        401 | 403 if code == "GatedRepo" || release.gated => {
            Failure::Refused(gated(settings, release, response, &said))
        }
        401 | 403 => {
            let token = match &settings.token {
                Some(token) if response.had_token => {
                    format!("the token from {} does not open it", token.source)
                }
                Some(token) => not_sent(settings, &token.source, response),
                None => format!("no token was sent; {}", where_to_put_a_token(settings)),
            };
            let local = format!("a local file works too: {}", settings.instead);
            Failure::Refused(format!(
                "{repository} refuses access (HTTP {status}{said}); {token}; {local}"
            ))
        }
        404 => {
            let revision = release.revision.as_deref().unwrap_or("main");
            Failure::Missing(format!(
                "{} has no {file} in {repository} at {revision} (HTTP 404{said}); if it moved, \
                 download it by hand and pass {}",
                settings.shown(),
                settings.instead
            ))
        }
        408 | 429 | 500..=599 => Failure::Busy(format!(
            "{} cannot serve {repository} now (HTTP {status}{said}); try again later",
            settings.shown()
        )),
        _ => Failure::Refused(format!(
            "{} answers HTTP {status}{said} for {file} of {repository}",
            settings.shown()
        )),
    }
}

fn gated(settings: &Settings, release: &Release, response: &Response, said: &str) -> String {
    let status = response.status;
    let Release {
        name,
        repository,
        license_page: page,
        ..
    } = release;
    let token = match &settings.token {
        Some(token) if !response.had_token => not_sent(settings, &token.source, response),
        Some(token) => format!(
            "the token from {} was sent, but its account has no access yet, or the token may not \
             read gated repositories",
            token.source
        ),
        None => where_to_put_a_token(settings),
    };
    format!(
        "{name} is gated: the owners of {repository} ask everybody to accept their license first \
         (HTTP {status}{said})\n  \
         1. accept it at {page}\n  \
         2. {token}\n  \
         or pass a file that you have: {}",
        settings.instead
    )
}

/// A mirror has led elsewhere, where the token does not go.
fn not_sent(settings: &Settings, source: &str, response: &Response) -> String {
    format!(
        "the token from {source} was not sent: it goes to {} only, which led to {}; set \
         HF_ENDPOINT={1} if you trust that address with it",
        settings.shown(),
        response.origin
    )
}

fn where_to_put_a_token(settings: &Settings) -> String {
    format!(
        "make a token at https://huggingface.co/settings/tokens and set HF_TOKEN to it, or write \
         it to {}",
        settings.token_file.display()
    )
}

/// Text from the network without what could steer a terminal, and not too long.
pub fn printable(text: &str) -> String {
    let text = crate::printable::printable(text).replace('\n', "");
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn text_from_the_network_cannot_steer_the_terminal() {
        assert_eq!(printable("no\u{1b}[31m access\n"), "no[31m access");
        assert_eq!(printable(&"a".repeat(1000)).len(), 300);
    }
}
