# make demo and make test work on a fresh machine; see `make help`.

PYTHON ?= python3
VENV := $(CURDIR)/.venv
# the ament index, which launch files and colcon look things up in; a sourced ROS stays in front
export AMENT_PREFIX_PATH := $(if $(AMENT_PREFIX_PATH),$(AMENT_PREFIX_PATH):)$(VENV)
# ONNX Runtime would report to its maker; the package sets this, too
export ORT_DISABLE_TELEMETRY := 1
PYTEST_ARGS ?=
# tests of two files at a time; those of one file share their nodes and models
TEST_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup tools demo test lint docs clean

help:
	@echo "make setup   make .venv: pinned packages, ROS 2, the interfaces, the command .venv/bin/stremn"
	@echo "make tools   adds what test, lint and docs need, which call it"
	@echo "make demo    follow an object in a real video through real ROS 2 nodes; writes out/demo"
	@echo "make test    every test (PYTEST_ARGS='-k words' chooses some)"
	@echo "make lint    ruff and mypy"
	@echo "make docs    the site of docs/, in out/site"
	@echo "make clean   remove .venv and everything that was built"
	@echo "PYTHON=python3.12 make setup   takes another Python (3.10 or newer)"

setup:
	@sh scripts/setup.sh "$(PYTHON)"

tools:
	@sh scripts/setup.sh "$(PYTHON)" --tools

# the export makes frames 1.5 to 1.8 times as fast on a CPU; it is done once, and the demo does without it, too
demo: setup
	@-"$(VENV)/bin/stremn" export segment_lite0 --runtime onnx
	@"$(VENV)/bin/stremn" demo

test: tools
	@"$(VENV)/bin/python" -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: tools
	@"$(VENV)/bin/python" -m ruff check .
	@"$(VENV)/bin/python" -m ruff format --check .
	@"$(VENV)/bin/python" -m mypy

docs: tools
	@NO_MKDOCS_2_WARNING=1 "$(VENV)/bin/mkdocs" build --quiet
	@echo "the site is in out/site: open out/site/index.html"

clean:
	rm -rf .venv .setup.lock build install log out .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
