#!/usr/bin/env bash
# Installs the gateways beside which the product is measured: Portkey (npm) and LiteLLM (PyPI; large).
# Needs npm, python3 with venv, and a network. Goes to $BENCH_ANCHORS (bench/run/anchors); delete that folder to remove them.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
anchors="${BENCH_ANCHORS:-$here/run/anchors}"

for program in npm python3; do
  command -v "$program" >/dev/null || { echo "$program is not installed." >&2; exit 2; }
done

portkey="$anchors/portkey"
mkdir -p "$portkey"
cd "$portkey"
[ -f package.json ] || npm init --yes >/dev/null
# With a newer @hono/node-server this version answers every streaming call with 500 (Portkey-AI/gateway, issue 1389).
npm install --no-audit --no-fund @portkey-ai/gateway@1.15.2 @hono/node-server@1.14.1
rm -rf node_modules/@portkey-ai/gateway/node_modules/@hono/node-server

# The list is complete and frozen: what pip would resolve today is not what was measured.
python3 -m venv "$anchors/litellm"
"$anchors/litellm/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$here/conf/litellm-requirements.txt"

echo "Installed into $anchors."
