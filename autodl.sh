#!/usr/bin/env bash
# 在 AutoDL 上一条命令准备好课程：在课程文件夹里运行 bash autodl.sh，可以重复运行，中断后会接着做。
#   bash autodl.sh --dry-run     只显示要做什么
#   MODEL=Qwen/Qwen3-4B          下载并使用这个模型；none：不下载，用自带的小模型；默认选显存放得下的最大的
#   SET=gpu|cu12|cpu             依赖组合；无卡模式下看不到驱动和显存，SET 和 MODEL 都必须写明：
#     SET=gpu MODEL=Qwen/Qwen3-8B bash autodl.sh
#   INDEX=网址                   只用于这次安装的软件源
# One command that prepares the course on AutoDL: run bash autodl.sh in its folder; it is safe to run again.
#   --dry-run shows what it would do. MODEL: the model to download and use (none: the bundled one; default: the largest
#   that fits the GPU). SET: the dependency set. In no-GPU mode neither driver nor memory can be seen, so name both:
#     SET=gpu MODEL=Qwen/Qwen3-8B bash autodl.sh
#   INDEX: a package index for this run only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export AUTODL_DATA_DISK=${AUTODL_DATA_DISK:-/root/autodl-tmp}
export INDEX=${INDEX-https://mirrors.aliyun.com/pypi/simple/}
CONDA=${CONDA:-/root/miniconda3}
dry=
case "$#:${1:-}" in
  0:) ;;
  1:--dry-run) dry=1 ;;
  *)
    echo "用法：bash autodl.sh [--dry-run]，别的参数没有；MODEL、SET、INDEX 写在命令前面，见这个文件的开头。" >&2
    echo "Usage: bash autodl.sh [--dry-run], nothing else; MODEL, SET and INDEX go before it, see the head of this file." >&2
    exit 2
    ;;
esac

say() { printf '\n== %s\n' "$*"; }
run() { printf '+ %s\n' "$*"; if [ -z "$dry" ]; then "$@"; fi; }
newest_python() { for v in 13 12 11; do "python3.$v" -c 'import ensurepip, venv' 2>/dev/null && echo "python3.$v" && return; done; return 0; }

say "1/5 体检 Pre-flight"
if [ ! -d "$AUTODL_DATA_DISK" ]; then
  echo "这里没有 $AUTODL_DATA_DISK，不像 AutoDL 的实例：别的机器请用 make env。" >&2
  echo "There is no $AUTODL_DATA_DISK, so this is no AutoDL instance: use make env on other machines." >&2
  exit 1
fi
if [ -n "${http_proxy:-}${https_proxy:-}${HTTP_PROXY:-}${HTTPS_PROXY:-}" ]; then
  unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY
  echo "已对这个脚本关闭学术加速（它只通向 GitHub 等网站）。 network_turbo is off for this script: it serves GitHub and a few other sites only."
fi
df -h "$AUTODL_DATA_DISK" | tail -n 1
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null || echo "没有看到 GPU。 No GPU is visible."
export PATH="$CONDA/bin:$PATH"
if [ -z "$(newest_python)" ]; then # 较老的镜像 · an older image
  export PATH="$AUTODL_DATA_DISK/qwen3-notebooks/python/bin:$PATH"
  [ -n "$(newest_python)" ] || run conda create --quiet --yes --prefix "$AUTODL_DATA_DISK/qwen3-notebooks/python" python=3.12
fi

say "2/5 环境，放在数据盘 Environment, on the data disk"
run python3 -m tools.environment.make_env
asker=$(newest_python) # 演练也要问：依赖组合定得下来吗 · a dry run asks too whether the set can be told
if [ -n "$dry" ] && [ -n "$asker" ]; then "$asker" -m tools.environment.make_env --dry-run; fi

say "3/5 内核、控件、你自己的课程 Kernel, widgets, your own lessons"
run python3 -m tools.environment.make_env --kernel
PYTHON=${VENV:-.venv}/bin/python
[ ! -x "$PYTHON" ] || asker=$PYTHON

say "4/5 模型 Model"
if [ -z "${MODEL:-}" ] && [ -f course.toml ]; then
  MODEL=none
  echo "保留 course.toml 里选好的模型。 The choice in course.toml stays."
elif [ -z "$asker" ]; then # 只在演练里，还没有 Python · in a dry run only, before there is a Python
  MODEL=${MODEL:-"<显存放得下的最大的 the largest that fits>"}
else
  MODEL=${MODEL:-$("$asker" -m tools.environment.autodl model)}
fi
if [ "$MODEL" = none ]; then
  echo "不下载模型；没有另外选择时，课程用自带的小模型。 Nothing to download; unless chosen otherwise, the lessons use the bundled model."
else
  run "$PYTHON" -m helpers.download "$MODEL"
  run "$PYTHON" -m helpers.models use "$MODEL"
fi

say "5/5 自检 Self-test"
passed=1
run "$PYTHON" -m tools.environment.autodl selftest || passed=
run "$PYTHON" -m helpers.machine || passed=
echo
if [ -z "$passed" ]; then
  echo "自检没有全部通过：请看上面的说明。无卡模式下这是正常的，装好的都留着，带卡开机后再运行一次 bash autodl.sh。"
  echo "The self-test did not pass as a whole, see above. In no-GPU mode that is normal: what is installed stays, run bash autodl.sh again with the GPU."
  exit 1
fi
echo "在 JupyterLab 里打开 my/zh/00_first_answers.ipynb，右上角把内核换成 Qwen3 in Notebooks；JupyterLab 已经开着时先刷新网页。"
echo "In JupyterLab, open my/en/00_first_answers.ipynb and choose the kernel Qwen3 in Notebooks at the top right; reload the page first if JupyterLab was open."
