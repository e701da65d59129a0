#!/usr/bin/env bash
# The page of `sam3 serve` in a real browser, see tests/page. Needs node and Chromium; what is missing
# is installed where that is possible (Debian's packages as root, playwright-core from npm), and where
# it is not, the page is not checked.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "not checked: the page ($1)"
    exit 0
}
install() {
    command -v apt-get >/dev/null && [[ $(id -u) == 0 ]] || return 0
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"; } >/dev/null 2>&1 || true
}
browser() {
    command -v chromium || command -v chromium-browser || command -v google-chrome || true
}

command -v npm >/dev/null || install nodejs npm
command -v npm >/dev/null || skip "node and npm are missing"
CHROMIUM=${CHROMIUM:-$(browser)}
if [[ -z $CHROMIUM ]]; then
    install chromium
    CHROMIUM=$(browser)
fi
[[ -n $CHROMIUM ]] || skip "Chromium is missing; CHROMIUM= names one"

target=${CARGO_TARGET_DIR:-target}
PLAYWRIGHT=$target/page
if [[ ! -d $PLAYWRIGHT/node_modules/playwright-core ]]; then
    mkdir -p "$PLAYWRIGHT"
    npm install --silent --no-fund --no-audit --prefix "$PLAYWRIGHT" playwright-core@1 >/dev/null ||
        skip "npm cannot install playwright-core"
fi
if [[ -z ${SAM3:-} ]]; then # names a binary to use instead
    cargo build --quiet --bin sam3
    SAM3=$(cd "$target" && pwd)/debug/sam3
fi
export CHROMIUM SAM3 PLAYWRIGHT=$(cd "$PLAYWRIGHT" && pwd)
node --test --test-concurrency=1 tests/page/*.test.mjs
