#!/usr/bin/env bash
# The page of `sam3 serve` in a real browser, see tests/page. Needs node and Chromium; what is missing
# is installed where that is possible (Debian's chromium as root, playwright-core from npm).
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v node >/dev/null; then
    echo "not checked: the page (node is missing)"
    exit 0
fi
CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
if [[ -z $CHROMIUM ]] && command -v apt-get >/dev/null && [[ $(id -u) == 0 ]]; then
    apt-get update -qq && apt-get install -y -qq chromium >/dev/null
    CHROMIUM=$(command -v chromium)
fi
if [[ -z $CHROMIUM ]]; then
    echo "not checked: the page (Chromium is missing; CHROMIUM= names one)"
    exit 0
fi

target=${CARGO_TARGET_DIR:-target}
PLAYWRIGHT=$target/page
if [[ ! -d $PLAYWRIGHT/node_modules/playwright-core ]]; then
    mkdir -p "$PLAYWRIGHT"
    npm install --silent --no-fund --no-audit --prefix "$PLAYWRIGHT" playwright-core@1 >/dev/null
fi
cargo build --quiet --bin sam3 --features server
PLAYWRIGHT=$(cd "$PLAYWRIGHT" && pwd) SAM3=$(cd "$target" && pwd)/debug/sam3 CHROMIUM=$CHROMIUM \
    node --test --test-concurrency=1 tests/page/*.test.mjs
