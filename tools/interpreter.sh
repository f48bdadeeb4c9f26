# Which Python the launchers run; sourced, not run. Gives $python.
#
# $PYTHON, if set; else an environment that is active (conda's base is none: most shells are born in
# it); else .venv of the repository, if `make` has made it; else the first on the path.
choose_python() { # REPOSITORY
  if [ -n "${PYTHON:-}" ]; then
    python=$PYTHON
  elif [ -n "${VIRTUAL_ENV:-}" ] || [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then
    python=python
  elif [ -x "$1/.venv/bin/python" ]; then
    python=$1/.venv/bin/python
  else
    python=python
  fi
}
