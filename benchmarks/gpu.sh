#!/usr/bin/env bash
# Takes python -m benchmarks.gpu to a machine that has torch and transformers, and neither diffusers nor a network.
#
#   benchmarks/gpu.sh wheels FOLDER        downloads what is missing there, 8 MB
#   benchmarks/gpu.sh run FOLDER [FLAGS]   measures there, with that folder
#
# PYTHON is the interpreter to download for, or to measure with. The wheels go before what is installed there.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
WHEELS=(
    diffusers==0.42.1 peft==0.21.2 accelerate==1.15.0
    importlib_metadata lazy-importer zipp requests urllib3 charset-normalizer psutil
)
case "${1:-}" in
wheels)
    mkdir -p "${2:?name a folder for the wheels}"
    "$PYTHON" -m pip download --no-deps --only-binary=:all: --dest "$2" "${WHEELS[@]}"
    ;;
run)
    folder=${2:?name the folder of the wheels}
    shift 2
    exec "$PYTHON" -m benchmarks.gpu --wheels "$folder" "$@"
    ;;
*)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
