# Sourced: what verl, vLLM and torch need to know on a machine without a GPU.
_exports=$("$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/python" -m jigsaw.verl_plugin.cpu.environment) || return
source /dev/stdin <<<"$_exports"
unset _exports
