#!/usr/bin/env bash
# What polling before sleeping costs where it cannot help: calls that are far apart, and more programs
# than processors. Needs `cargo build --release`; prints a line a run.
#
# usage: polling.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
program=target/release/postroad
seconds=${1:-5}
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT

# serve PRESET PORT: a node of one thread.
serve() {
  printf '[server]\npreset = "%s"\nworkers = 1\n' "$1" >"$folder/$1.toml"
  "$program" serve --config "$folder/$1.toml" --listen "tcp://127.0.0.1:$2" >/dev/null 2>&1 &
}

# load PRESET PORT OPTION...: what one load says of itself.
load() {
  local preset=$1 port=$2
  shift 2
  "$program" bench "tcp://127.0.0.1:$port" --preset "$preset" --duration "${seconds}s" "$@" --output json \
    2>/dev/null | python3 -c '
import json, sys
run = json.load(sys.stdin)
def cpu(end):
    end = run["ends"].get(end)
    return "%.1f us" % (end["cpu_per_call_ns"] / 1000) if end else "-"
p50 = run["latency_ns"]["p50"] / 1000
client, server = cpu("client"), cpu("server")
print(f"{sys.argv[1]:<12} {sys.argv[2]:<12} p50 {p50:7.1f} us  client {client}  server {server}")
' "$preset" "$*"
}

for rate in 100 1000 5000; do
  for preset in default low-latency; do
    serve "$preset" 7481
    node=$!
    sleep 0.5
    load "$preset" 7481 --rate "$rate"
    kill "$node"
    wait "$node" || true
  done
done
echo "four loads of one caller and their four nodes at once:"
for preset in default low-latency; do
  nodes=()
  for port in 7481 7482 7483 7484; do
    serve "$preset" "$port"
    nodes+=($!)
  done
  sleep 1
  loads=()
  for port in 7481 7482 7483 7484; do
    load "$preset" "$port" --callers 1 &
    loads+=($!)
  done
  wait "${loads[@]}"
  kill "${nodes[@]}"
  wait "${nodes[@]}" || true
done
