#!/usr/bin/env bash
# Runs the gate as the action's inputs have it, and hands its verdict and its exit code on.
set -euo pipefail

tool=$(realpath "$TOOL")
arguments=(--inconclusive "$INCONCLUSIVE" --out "$OUT")

# An input that was left empty is no argument.
given() {
  if [ -n "$2" ]; then arguments+=("$1" "$2"); fi
}

given --baseline "$BASELINE_CSV"
given --candidate "$CANDIDATE_CSV"
given --a "$BASELINE"
given --b "$CANDIDATE"
given --a-rev "$BASELINE_REV"
given --b-rev "$CANDIDATE_REV"
given --a-data-path "$BASELINE_DATA_PATH"
given --b-data-path "$CANDIDATE_DATA_PATH"
given --cell "$CELLS"
read -r -d '' -a further <<< "$ARGUMENTS" || true

as_root=()
if [ -z "$BASELINE_CSV$CANDIDATE_CSV" ]; then
  if [ ${#further[@]} -eq 0 ]; then further=(--quick); fi
  firecracker=${FORKD_FIRECRACKER:-$(command -v firecracker || echo "$tool/target/tools/firecracker")}
  arguments+=(--firecracker "$firecracker")
  # Root builds revisions with a CARGO_HOME of its own, or it would leave files in this user's.
  as_root=(env "PATH=$PATH" "CARGO_HOME=${RUNNER_TEMP:-/tmp}/forkd-gate-cargo"
    "RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}"
    "GITHUB_ACTIONS=${GITHUB_ACTIONS:-}" "GITHUB_STEP_SUMMARY=${GITHUB_STEP_SUMMARY:-}"
    GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory "GIT_CONFIG_VALUE_0=*")
  if [ "$(id -u)" -ne 0 ]; then as_root=(sudo "${as_root[@]}"); fi
fi

code=0
"${as_root[@]}" "$tool/target/release/forkd-bench" gate "${arguments[@]}" "${further[@]}" || code=$?
if [ "${as_root[0]:-}" = sudo ] && [ -d "$OUT" ]; then
  sudo chown -R "$(id -u):$(id -g)" "$OUT"
fi
if [ -f "$OUT/gate.json" ]; then
  # The first "class" is that of all cells together.
  class=$(sed -n 's/^  "class": "\([A-Z]*\)",$/\1/p' "$OUT/gate.json")
  echo "verdict=$class" >> "${GITHUB_OUTPUT:-/dev/null}"
fi
exit "$code"
