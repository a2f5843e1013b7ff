# Every command of the project. `make` alone prints them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CONFIG ?=
TEACHER ?=
CHECKPOINT ?=
CACHE ?=
DOTA_ROOT ?=
WORK_DIR ?=
GPUS ?=
SWEEP ?=
OPS ?=
CUDA ?=
ARGS ?=

PYTHON := .venv/bin/python
READY := .venv/.ready
SETUP = $(if $(shell command -v python3),python3 -m setup,$(error python3 is needed: apt install python3 python3-pip))

# $(call option,--name,value): the option where the value is not empty.
option = $(if $(strip $(2)),$(1) $(2))
run = $(PYTHON) -m pipelines.$(1)
# The same on GPUS= processes, one a device.
train = $(if $(strip $(GPUS)),.venv/bin/torchrun --standalone --nproc-per-node $(GPUS) -m pipelines.$(1),$(call run,$(1)))

.PHONY: help setup smoke demo data teacher train plan cache-teacher verify-cache inspect-cache fetch-cache distill sweep compare evaluate publish report bench test stress lint format

help: ## this list
	@echo "Usage: make <target> [VARIABLE=value ...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: CONFIG= CACHE= DOTA_ROOT= TEACHER= CHECKPOINT= WORK_DIR= GPUS= SWEEP= OPS= CUDA= ARGS='...'"

setup: ## the locked environment in .venv, with mmcv's operators: OPS=all for all of them, CUDA=1 for GPUs
	@$(SETUP) --ops '$(OPS)' --cuda '$(CUDA)'

# Made anew, with the operators that it has, when what it is made of has changed.
$(READY): pyproject.toml uv.lock .python-version $(wildcard setup/*.py) setup/uv.txt
	@$(SETUP) --refresh --ops '$(OPS)' --cuda '$(CUDA)'

smoke: $(READY) ## the whole path in a minute, its figures compared with tests/golden/smoke.json: after every change
	$(call run,smoke) $(call option,--work-dir,$(WORK_DIR)) $(ARGS)

demo: $(READY) ## the whole path on built-in scenes, CPU only, about 9 minutes
	$(call run,demo) $(call option,--work-dir,$(WORK_DIR)) $(ARGS)

data: $(READY) ## DOTA_ROOT= (or built-in scenes) -> patches; for COCO-format configs, a check of what is there
	$(call run,data) --config $(or $(CONFIG),configs/distill/gwd_r18_1x_dota.py) $(call option,--dota-root,$(DOTA_ROOT)) $(ARGS)

teacher: $(READY) ## train the teacher
	$(call train,teacher) --config $(or $(TEACHER),$(CONFIG),configs/teacher/gwd_r34_2x_dota.py) $(call option,--work-dir,$(WORK_DIR)) $(ARGS)

train: $(READY) ## train a plain student, or one with a live teacher: CONFIG=configs/plain/... or configs/live/...
	$(call train,train) --config $(or $(CONFIG),configs/plain/gwd_r18_1x_dota.py) $(call option,--work-dir,$(WORK_DIR)) $(ARGS)

plan: $(READY) ## rows and bytes of a cache, from labels alone; with CHECKPOINT= (a teacher) also size, time, break-even
	$(call run,plan) --config $(or $(CONFIG),configs/distill/gwd_r18_1x_dota.py) $(call option,--teacher,$(TEACHER)) $(call option,--checkpoint,$(CHECKPOINT)) $(ARGS)

cache-teacher: $(READY) ## run the teacher once over every view and store its answers; resumes
	$(call run,cache_teacher) --config $(or $(CONFIG),configs/distill/gwd_r18_1x_dota.py) $(call option,--teacher,$(TEACHER)) $(call option,--checkpoint,$(CHECKPOINT)) $(call option,--cache,$(CACHE)) $(ARGS)

# With CACHE= alone the store is looked at by itself; with CONFIG= also its images, labels and teacher.
of_cache = $(if $(CACHE)$(CONFIG),$(call option,--config,$(CONFIG)) $(call option,--cache,$(CACHE)),--config configs/distill/gwd_r18_1x_dota.py)

verify-cache: $(READY) ## CACHE= every byte of a cache; with CONFIG= its files, and a sample against the teacher
	$(call run,verify_cache) $(of_cache) $(call option,--teacher,$(TEACHER)) $(call option,--checkpoint,$(CHECKPOINT)) $(ARGS)

inspect-cache: $(READY) ## CACHE= sizes, rows, values, errors; with CONFIG= pictures, CHECKPOINT= a student beside them
	$(call run,inspect_cache) $(of_cache) $(call option,--checkpoint,$(CHECKPOINT)) $(call option,--out,$(WORK_DIR)) $(ARGS)

fetch-cache: $(READY) ## copy CACHE=s3://... into a folder and verify it: ARGS='--to caches/name.zarr'; resumes
	$(call run,fetch_cache) --cache $(or $(CACHE),$(error CACHE= is needed)) $(ARGS)

distill: $(READY) ## train the student from the cache
	$(call train,distill) --config $(or $(CONFIG),configs/distill/gwd_r18_1x_dota.py) $(call option,--cache,$(CACHE)) $(call option,--work-dir,$(WORK_DIR)) $(ARGS)

sweep: $(READY) ## SWEEP=configs/sweep/... several students from one cache, one table; resumes
	$(call run,sweep) --sweep $(or $(SWEEP),configs/sweep/demo.py) $(call option,--cache,$(CACHE)) $(call option,--work-dir,$(WORK_DIR)) $(ARGS)

compare: $(READY) ## plain, live and cached students with the same seeds: CONFIG= (the cached one), CHECKPOINT= (the teacher); resumes
	$(call run,compare) $(call option,--config,$(CONFIG)) $(call option,--teacher,$(TEACHER)) $(call option,--checkpoint,$(CHECKPOINT)) $(call option,--cache,$(CACHE)) $(call option,--work-dir,$(WORK_DIR)) $(ARGS)

evaluate: $(READY) ## AP of CHECKPOINT= on the validation images
	$(call run,evaluate) --config $(or $(CONFIG),configs/distill/gwd_r18_1x_dota.py) --checkpoint $(or $(CHECKPOINT),$(error CHECKPOINT= is needed)) $(call option,--out,$(WORK_DIR)) $(ARGS)

publish: $(READY) ## strip CHECKPOINT= to weights and meta: ARGS='--out name.pth'
	$(call run,publish) --checkpoint $(or $(CHECKPOINT),$(error CHECKPOINT= is needed)) $(ARGS)

report: $(READY) ## one HTML file about the runs in WORK_DIR= (default: all of work_dirs)
	$(call run,report) $(call option,--work-dir,$(WORK_DIR)) $(ARGS)

bench: $(READY) ## time a training step, plain, cached and live side by side; with CONFIG= on its patches and cache
	$(PYTHON) -m benchmarks.step $(call option,--config,$(CONFIG)) $(call option,--cache,$(CACHE)) $(ARGS)

# One process a core, a file of tests in one of them: most files share a data set or a teacher. In the order of
# tests/conftest.py, which begins with the slow ones.
test: $(READY) ## all tests
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n $(shell nproc) --dist loadfile --no-loadscope-reorder $(ARGS)

stress: $(READY) ## the long fault runs: 500 flipped bits, 50 captures killed and resumed; about 10 minutes
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest tests/stress/faults.py $(ARGS)

lint: $(READY) ## ruff, mypy, import contracts, spelling
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/codespell

format: $(READY) ## apply ruff's fixes and formatting
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
