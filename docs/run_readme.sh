#!/usr/bin/env bash
# Run the commands of a Markdown file's blocks marked "```sh tour", in order, in one shell, from the
# repository's root: what the README promises is what a test has just seen.
#   usage: docs/run_readme.sh README.md
set -euo pipefail
cd "$(dirname "$0")/.."
script=$(awk '/^```sh tour$/{inside=1; next} /^```$/{inside=0} inside' "$1")
[ -n "$script" ] || { echo "error: $1 has no block marked \"sh tour\"" >&2; exit 1; }
bash -euo pipefail -x -c "$script"
echo "readme: $(wc -l <<<"$script") lines of the tour ran"
