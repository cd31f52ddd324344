#!/bin/sh
# Starts the agent once, with throw-away state, until it listens, and ends it in order: that fills the caches which
# it would otherwise fill on every machine after every deployment. Run while the image is built.
set -eu

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/clawdbot.json" <<'JSON'
{"gateway":{"mode":"local"},"plugins":{"slots":{"memory":"none"}},"browser":{"enabled":false},
 "canvasHost":{"enabled":false},"update":{"checkOnStart":false}}
JSON

HOME=$work TMPDIR=$work NO_COLOR=1 CLAWDBOT_NO_RESPAWN=1 CLAWDBOT_DISABLE_BONJOUR=1 \
CLAWDBOT_STATE_DIR=$work CLAWDBOT_GATEWAY_TOKEN=while-the-image-is-built \
  node /opt/agent/node_modules/clawdbot/dist/entry.js gateway --port 18789 --bind loopback --allow-unconfigured \
  > "$work/log" 2>&1 &
agent=$!

tries=0
until grep -q 'listening on ws://' "$work/log"; do
  tries=$((tries + 1))
  if [ "$tries" -gt 600 ] || ! kill -0 "$agent" 2>/dev/null; then
    echo "the agent did not start:" >&2
    cat "$work/log" >&2
    exit 1
  fi
  sleep 0.2
done
kill -TERM "$agent"
wait "$agent"
