# Every command of the project. `make` alone prints them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The variables of each target. Another one on the command line, a misspelt name say, would have no effect: refused.
takes_setup := OPS CUDA
takes_smoke := WORK_DIR ARGS
takes_demo := WORK_DIR ARGS
takes_data := CONFIG DATA_ROOT DOTA_ROOT ARGS
takes_teacher := TEACHER DATA_ROOT WORK_DIR RESUME GPUS ARGS
takes_train := CONFIG DATA_ROOT WORK_DIR RESUME GPUS ARGS
takes_plan := CONFIG DATA_ROOT TEACHER CHECKPOINT ARGS
takes_cache-teacher := CONFIG DATA_ROOT TEACHER CHECKPOINT CACHE ARGS
takes_verify-cache := CONFIG DATA_ROOT TEACHER CHECKPOINT CACHE ARGS
takes_inspect-cache := CONFIG DATA_ROOT CACHE CHECKPOINT WORK_DIR ARGS
takes_fetch-cache := CACHE ARGS
takes_caches := CACHE ARGS
takes_config := CONFIG DATA_ROOT ARGS
takes_recode-cache := CONFIG DATA_ROOT CACHE ARGS
takes_distill := CONFIG DATA_ROOT CACHE WORK_DIR RESUME GPUS ARGS
takes_sweep := SWEEP CACHE WORK_DIR ARGS
takes_compare := CONFIG DATA_ROOT TEACHER CHECKPOINT CACHE WORK_DIR ARGS
takes_evaluate := CONFIG DATA_ROOT CHECKPOINT WORK_DIR ARGS
takes_publish := CHECKPOINT ARGS
takes_report := WORK_DIR ARGS
takes_check-gpu := ARGS
takes_bench := CONFIG CACHE ARGS
takes_test := ARGS
takes_stress := ARGS
goals := $(or $(MAKECMDGOALS),$(.DEFAULT_GOAL))
taken := $(sort $(foreach goal,$(goals),$(takes_$(goal))))
given := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
# OPS= and CUDA= make the environment, whatever the target; the others are the environment's.
others := OPS CUDA% OMP_% TORCH_% AWS_% UV_% TRACEBACK MAX_JOBS CXX
unknown := $(addsuffix =,$(filter-out $(taken) $(others),$(given)))
# How the others use several GPUs.
gpus_plan := . A teacher on each of two GPUs: ARGS='--workers 2'; on the second alone: ARGS='--device cuda:1'
gpus_cache-teacher := $(gpus_plan)
gpus_sweep := . Two students at a time, each on a GPU of its own: ARGS='--jobs 2'
gpus_compare := $(gpus_sweep)
cure := $(if $(filter GPUS=,$(unknown)),$(foreach goal,$(goals),$(gpus_$(goal))))
$(if $(unknown),$(error make $(goals) has no $(unknown). It takes $(or $(addsuffix =,$(taken)),no variables)$(cure)))

PYTHON := .venv/bin/python
READY := .venv/.ready
SETUP = $(if $(shell command -v python3),python3 -m setup,$(error python3 is needed: apt install python3 python3-pip))
DEFAULT := configs/distill/gwd_r18_1x_dota.py

# $(call option,--name,value): the option where the value is not empty; ~ is a home folder, spaces do not end a value.
quoted = '$(subst ','\'',$(patsubst ~/%,$(HOME)/%,$(strip $(1))))'
option = $(if $(strip $(2)),$(1) $(call quoted,$(2)))
# $(call default,VARIABLE,path): the path that a target takes where the variable is not given, said on standard error.
default = $(if $(2),$(shell echo '$(1)= is not given: $(2)' >&2)$(2))
# $(call config,default): CONFIG= or the default; the data root is an option of the config.
config = $(call option,--config,$(or $(CONFIG),$(call default,CONFIG,$(1)))) $(data_root)
data_root = $(if $(strip $(DATA_ROOT)),--cfg-options $(call quoted,data_root=$(patsubst ~/%,$(HOME)/%,$(DATA_ROOT))))
teacher = $(call option,--teacher,$(TEACHER)) $(call option,--checkpoint,$(CHECKPOINT))
run = $(PYTHON) -m pipelines.$(1)
# The same on GPUS= processes, one a device.
train = $(if $(strip $(GPUS)),.venv/bin/torchrun --standalone --nproc-per-node $(GPUS) -m pipelines.$(1),$(call run,$(1)))
# $(call training,default,config,variable): one that goes on in WORK_DIR= has its config there.
resumed = $(filter-out 0,$(RESUME))
training = $(call option,--config,$(or $(2),$(if $(and $(resumed),$(WORK_DIR)),,$(call default,$(3),$(1))))) $(data_root) $(call option,--work-dir,$(WORK_DIR)) $(if $(resumed),--resume)

.PHONY: help setup smoke demo data teacher train plan cache-teacher verify-cache inspect-cache fetch-cache recode-cache caches config distill sweep compare evaluate publish report check-gpu bench test stress lint format

help: ## this list
	@echo "Usage: make <target> [VARIABLE=value ...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: CONFIG= TEACHER= CHECKPOINT= CACHE= DATA_ROOT= DOTA_ROOT= WORK_DIR= RESUME=1 GPUS= SWEEP= OPS= CUDA= ARGS='...'"

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
	$(call run,data) $(call config,$(DEFAULT)) $(call option,--dota-root,$(DOTA_ROOT)) $(ARGS)

teacher: $(READY) ## train the teacher: TEACHER=configs/teacher/...
	$(call train,teacher) $(call training,configs/teacher/gwd_r34_2x_dota.py,$(TEACHER),TEACHER) $(ARGS)

train: $(READY) ## train a plain student, or one with a live teacher: CONFIG=configs/plain/... or configs/live/...
	$(call train,train) $(call training,configs/plain/gwd_r18_1x_dota.py,$(CONFIG),CONFIG) $(ARGS)

plan: $(READY) ## rows and bytes of a cache, from labels alone; with CHECKPOINT= (a teacher) also size, time, break-even
	$(call run,plan) $(call config,$(DEFAULT)) $(teacher) $(ARGS)

cache-teacher: $(READY) ## run the teacher once over every view and store its answers; resumes
	$(call run,cache_teacher) $(call config,$(DEFAULT)) $(teacher) $(call option,--cache,$(CACHE)) $(ARGS)

# With CACHE= alone the store is looked at by itself; with CONFIG= also its images, labels and teacher.
verify-cache: $(READY) ## CACHE= every byte of a cache; with CONFIG= its files, and a sample against the teacher
	$(call run,verify_cache) $(call config,$(if $(CACHE),,$(DEFAULT))) $(call option,--cache,$(CACHE)) $(teacher) $(ARGS)

inspect-cache: $(READY) ## CACHE= sizes, rows, values, errors; with CONFIG= pictures, CHECKPOINT= a student beside them
	$(call run,inspect_cache) $(call config,$(if $(CACHE)$(CHECKPOINT),,$(DEFAULT))) $(call option,--cache,$(CACHE)) $(call option,--checkpoint,$(CHECKPOINT)) $(call option,--out,$(WORK_DIR)) $(ARGS)

fetch-cache: $(READY) ## copy CACHE=s3://... into a folder and verify it: ARGS='--to caches/name.zarr'; resumes
	$(call run,fetch_cache) --cache $(call quoted,$(or $(CACHE),$(error CACHE= is needed))) $(ARGS)

recode-cache: $(READY) ## a cache of another codec from CACHE=, without the teacher: ARGS='--to b.zarr --codec small'
	$(call run,recode_cache) $(call config,$(DEFAULT)) $(call option,--cache,$(CACHE)) $(ARGS)

caches: $(READY) ## list the caches in CACHE= (a folder, default: caches): teacher, classes, size, fingerprint, completeness
	$(call run,caches) $(call option,--folder,$(CACHE)) $(ARGS)

config: $(READY) ## print CONFIG= as commands read it, and check it without running anything
	$(call run,config) $(call config,$(DEFAULT)) $(ARGS)

distill: $(READY) ## train the student from the cache
	$(call train,distill) $(call training,$(DEFAULT),$(CONFIG),CONFIG) $(call option,--cache,$(CACHE)) $(ARGS)

sweep: $(READY) ## SWEEP=configs/sweep/... several students from one cache, one table; resumes
	$(call run,sweep) --sweep $(call quoted,$(or $(SWEEP),configs/sweep/demo.py)) $(call option,--cache,$(CACHE)) $(call option,--work-dir,$(WORK_DIR)) $(ARGS)

compare: $(READY) ## plain, live and cached students with the same seeds: CONFIG= (the cached one), CHECKPOINT= (the teacher); resumes
	$(call run,compare) $(call config) $(teacher) $(call option,--cache,$(CACHE)) $(call option,--work-dir,$(WORK_DIR)) $(ARGS)

evaluate: $(READY) ## AP of CHECKPOINT= on the validation images; its config is found beside it
	$(call run,evaluate) --checkpoint $(call quoted,$(or $(CHECKPOINT),$(error CHECKPOINT= is needed))) $(call config) $(call option,--out,$(WORK_DIR)) $(ARGS)

publish: $(READY) ## strip CHECKPOINT= to weights and meta, beside it: ARGS='--out name.pth'
	$(call run,publish) --checkpoint $(call quoted,$(or $(CHECKPOINT),$(error CHECKPOINT= is needed))) $(ARGS)

report: $(READY) ## one HTML file about the runs in WORK_DIR= (default: all of work_dirs)
	$(call run,report) $(call option,--work-dir,$(WORK_DIR)) $(ARGS)

check-gpu: $(READY) ## what a GPU does here: operators, cached = live, steps and captures timed; under 10 minutes
	$(call run,check_gpu) $(ARGS)

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
