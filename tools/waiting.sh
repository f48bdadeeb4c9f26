# Waiting for a run through the signals that are passed on to it; sourced, not run. Gives $code.
#
# A signal ends bash's `wait` early, so it is asked again until the run is gone.
wait_for() { # PID
  code=0
  while :; do
    wait "$1" && code=0 || code=$?
    kill -0 "$1" 2>/dev/null || break
  done
  # A signal ended that wait, but the run was gone before the loop could look: ask for its own code.
  # 127: this shell remembers none.
  if [ "$code" -gt 128 ]; then
    local own
    wait "$1" 2>/dev/null && own=0 || own=$?
    [ "$own" -eq 127 ] || code=$own
  fi
}
