# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
#
# `make help` lists what there is. Everything that is installed goes to .venv; what is done once is
# remembered by a stamp there, and repeated only when what it was made from has changed.

PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q
STAMP := $(VENV)/.stamp

KERNEL_FILES := setup.py pyproject.toml $(shell find csrc -type f)
DEMO_DATA := data/mini_coco
DEMO_SEG_DATA := data/mini_cityscapes
DEMO_DIR := work_dirs/demo

.PHONY: help setup test test-all soak asan test-slurm test-stack wheels cuda-emulated cuda-report demo demo-pose demo-seg demo-convert clean-demo lint format docs bench gpu clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP)-mmact $(STAMP)-pose $(STAMP)-dev ## create .venv with the pinned stack and build the kernels

$(STAMP)-torch: requirements/torch.txt
	@command -v $(PYTHON) >/dev/null || { echo 'No $(PYTHON) here: install Python 3.11, or name another with make PYTHON=...'; exit 1; }
	@echo '[setup 1/5] creating $(VENV) and installing PyTorch (2 to 5 minutes, some GB)'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PIP) install 'pip>=25'
	@$(PIP) install -r $<
	@touch $@

# opencv-python needs libGL, which a machine without a screen may lack; the headless build of the same
# version replaces it.
$(STAMP)-openmmlab: requirements/openmmlab.txt $(STAMP)-torch
	@echo '[setup 2/5] installing OpenMMLab; mmcv compiles its ops (about 10 minutes on 2 cores, once)'
	@$(PIP) install --no-build-isolation -r $<
	@opencv=$$($(PY) -c 'from importlib.metadata import version; print(version("opencv-python"))') && \
		$(PIP) uninstall -y opencv-python opencv-python-headless && \
		$(PIP) install --no-deps opencv-python-headless==$$opencv
	@touch $@

$(STAMP)-pose: requirements/pose.txt $(STAMP)-openmmlab
	@echo '[setup 3/5] installing MMPose; xtcocotools is compiled (about a minute)'
	@$(PIP) install --no-build-isolation --no-deps -r $<
	@touch $@

$(STAMP)-dev: requirements/dev.txt $(STAMP)-openmmlab
	@echo '[setup 4/5] installing what the tests need (seconds)'
	@$(PIP) install -r $<
	@touch $@

# The CUDA kernels are compiled and linked (sm_80 and sm_90) wherever nvcc is, GPU or not, so that they
# cannot rot. MMACT_CUDA=0 leaves them out.
$(STAMP)-mmact: $(KERNEL_FILES) $(STAMP)-openmmlab
	@echo '[setup 5/5] building mmact (about 3 minutes on 2 cores; 10 where nvcc builds the CUDA kernels too)'
	@MMACT_KERNELS=1 $(PIP) install --no-build-isolation --no-deps -e .
	@touch $@

test: setup lint ## run the test suite (about 10 minutes on 2 cores after set-up)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadgroup -m 'not slow'

test-all: setup lint ## the same with its slow cases: every config at full size, every page, real launchers
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadgroup

test-stack: ## STACK=original, oldest or newest: test another torch and OpenMMLab, in .venv-STACK
	@tools/test_stack.sh $(STACK)

wheels: setup ## build dist/*.whl: a pure one, and one with CPU kernels for .venv's Python and torch
	@tools/make_wheels.sh $(abspath $(PY))

$(DEMO_DATA): | setup
	@$(PY) tools/dataset_converters/make_mini.py coco $@ --num-train 400 --num-val 50 --size 256 320

$(DEMO_SEG_DATA): | setup
	@$(PY) tools/dataset_converters/make_mini.py cityscapes $@ --num-train 200 --num-val 40 --size 256 512

demo: setup $(DEMO_DATA) ## train a PWLU Mask R-CNN on miniature COCO and draw what it learned
	@tools/demo.sh $(PY) configs/demo/mask-rcnn_pwlu_mini-coco.py $(DEMO_DIR) demo

demo-pose: ACT = dyreluc
demo-pose: setup $(DEMO_DATA) ## learn key points with Dynamic ReLU (or ACT=relu) and draw the skeletons
	@tools/demo.sh $(PY) configs/demo/td-hm_mobilenetv2-x05_$(ACT)_mini-coco.py $(DEMO_DIR)-pose-$(ACT) demo-pose

demo-seg: ACT = ditac
demo-seg: setup $(DEMO_SEG_DATA) ## segment drawn streets with DiTAC (or ACT=gelu, ACT=relu) and draw what it sees
	@tools/demo.sh $(PY) configs/demo/pspnet_$(ACT)_mini-cityscapes.py $(DEMO_DIR)-seg-$(ACT) demo-seg

demo-convert: setup $(DEMO_DATA) ## train a ReLU detector, convert it to PWLU: the AP is the same; train both on
	@tools/demo_convert.sh $(PY) $(DEMO_DIR)-convert

clean-demo: ## forget the demos' training
	@rm -rf $(DEMO_DIR)*

soak: setup ## kill the demo's training 20 times, resume it, compare the bits; 10,000 odd calls
	@OMP_NUM_THREADS=1 $(PY) tests/soak.py
	@OMP_NUM_THREADS=1 PYTHONPATH=. $(PY) tests/odd_calls.py

asan: setup ## run the tests of the ops on CPU kernels under AddressSanitizer and UBSan, on each instruction set
	@$(PY) tests/sanitized.py

test-slurm: setup ## train through a Slurm of its own on this machine, cancel and resume (root; apt-get install slurm-wlm munge)
	@tests/slurm/run.sh $(PY)

lint: $(STAMP)-dev ## check formatting and style (what the hook and CI check)
	@PATH="$(VENV)/bin:$$PATH" tools/lint.sh --check

format: $(STAMP)-dev ## format everything
	@PATH="$(VENV)/bin:$$PATH" tools/lint.sh

# A virtual environment of its own, for the site needs neither torch nor mmact.
DOCS := .venv-docs
$(DOCS)/.stamp: requirements/docs.txt
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip --disable-pip-version-check -q install -r $<
	@touch $@

docs: $(DOCS)/.stamp ## build the site in site/: open site/index.html (half a minute, once; then seconds)
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build -q

bench: setup ## measure the activations on this machine
	@$(PY) tools/benchmark.py

# Under the sanitizers the tests of very many chunks would take the better part of an hour.
cuda-emulated: setup ## run the tests marked cuda on the CPU (about 6 minutes); SAN=1: under AddressSanitizer and UBSan
	@OMP_NUM_THREADS=1 MMACT_EMULATED_CUDA=$$($(PY) tests/cuda_emulator/build.py $(if $(SAN),--sanitize)) \
		$(if $(SAN),LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0) \
		$(PY) -m pytest -q -m cuda $(if $(SAN),-n 1 -k 'not many_chunks',-n 2) tests/test_ops

CUOBJDUMP ?= cuobjdump
cuda-report: ## registers, stack and occupancy of the CUDA kernels that are built (CUOBJDUMP=path)
	@$(PY) tools/misc/cuda_report.py --cuobjdump $(CUOBJDUMP)

# For a machine with an NVIDIA GPU, nvcc, torch and pytest; no network and no OpenMMLab needed.
gpu: ## build the CUDA kernels in place, test, measure: log and JSON into OUT (system Python)
	@tools/gpu.sh $(or $(OUT),work_dirs/gpu)

clean: ## remove what was built, trained and generated, but not .venv
	@rm -rf build dist site *.egg-info data/mini_* work_dirs/demo* mmact/*.so mmact/.mim
	@rm -f $(STAMP)-mmact
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
