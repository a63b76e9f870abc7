#!/usr/bin/env bash
# Rehearses a launch on two machines on this one, without GPUs, in a few minutes:
#
#     examples/accelerate/two_nodes.sh [FOLDER]
#
# Two launchers meet at an address of their own. Each has its own output folder, as two machines that share no disk. They train two
# steps, and are launched again for two more; then one process makes all four in one go, and the adapters are compared.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-out/two_nodes}
[ ! -e "$folder" ] || { echo "error: $folder exists; remove it, or pass another folder" >&2; exit 2; }
export GLOO_SOCKET_IFNAME=lo OMP_NUM_THREADS=1
address=127.0.0.2
port=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
mkdir -p "$folder"

run() { # run STEPS BATCH OUTPUT LAUNCHER...: the same training, launched one way or another
  local steps=$1 batch=$2 output=$3
  shift 3
  "$@" train_lcm_lora.py --config examples/shapes/lcm_lora.yaml --train_data_dir "$folder/shapes" --output_dir "$folder/$output" \
    --lora_rank 4 --lr_scheduler constant --lr_warmup_steps 0 --train_batch_size "$batch" --max_train_steps "$steps" \
    --checkpointing_steps 2 --validation_steps 100 --validation_num_steps 1 --logging_steps 1 2>"$folder/$output.log"
}

machine() { # machine RANK STEPS
  run "$2" 4 "machine_$1" accelerate launch --config_file examples/accelerate/two_machines.yaml --num_processes 2 \
    --machine_rank "$1" --main_process_ip "$address" --main_process_port "$port"
}

python -m examples.shapes.render --output_dir "$folder/shapes" --num_images 32
for steps in 2 4; do
  echo "two machines, to step $steps"
  machine 1 "$steps" &
  machine 0 "$steps" || { tail "$folder"/machine_?.log; exit 1; }
  wait $! || { tail "$folder/machine_1.log"; exit 1; }
  grep -h -e 'on 2 machines' -e 'resuming' "$folder/machine_0.log"
done
echo "one process, to step 4"
run 4 8 one accelerate launch --config_file examples/accelerate/one_gpu.yaml || { tail "$folder/one.log"; exit 1; }
echo "machine 1 has written: $(find "$folder/machine_1" -type f 2>/dev/null | wc -l) files"
python -m examples.accelerate.compare "$folder/machine_0" "$folder/one"
