#!/bin/sh
# Starts the sidecar, and by it the agent, with throw-away state until the agent is ready, and ends both in order: that
# fills the caches which each machine would otherwise fill after every deployment. Run while the image is built.
set -eu

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/data"
# Keys that open nothing. No links are made for a user who does not exist.
AUTOMNA_USER_ID=user_nobody AUTOMNA_GENERATION=0 \
AUTOMNA_MACHINE_KEY=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
AUTOMNA_DATA_DIR=$work/data AUTOMNA_REQUIRE_MOUNT=off AUTOMNA_LEGACY_HOME= \
AUTOMNA_LISTEN=127.0.0.1:0 AUTOMNA_ADMIN_LISTEN=127.0.0.1:0 \
  /usr/local/bin/sidecar > "$work/log" 2>&1 &
sidecar=$!

is_ready() {
  address=$(sed -n 's/.*"admin":"\([^"]*\)".*/\1/p' "$work/log")
  [ -n "$address" ] && curl --silent --fail --noproxy '*' --max-time 5 --output /dev/null "http://$address/ready"
}

tries=0
until is_ready; do
  tries=$((tries + 1))
  if [ "$tries" -gt 600 ] || ! kill -0 "$sidecar" 2>/dev/null; then
    echo "the agent did not start:" >&2
    cat "$work/log" >&2
    exit 1
  fi
  sleep 0.2
done
kill -TERM "$sidecar"
wait "$sidecar"
