# Two commands: `make demo` and `make test`. Each sets up .venv first, if it is not up to date, and then does its job.
# `make test-browser` runs the page's tests alone, and gets what they need first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

AXE := build/axe/axe.min.js
AXE_VERSION := 4.14.1
AXE_SHA256 := 29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c

.PHONY: demo test test-browser browser site notebooks lint wheel setup clean
.DEFAULT_GOAL := demo

demo: $(READY)
	@$(BIN)/unnorm demo

# A file's tests run in one process, one after the other: what they share is made once.
test: $(READY)
	@echo "running the tests"
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# The page in a real Chromium; pictures of it: build/screenshots.
test-browser: $(READY) browser
	@$(BIN)/pytest tests/report/test_browser.py

# What these tests need and pip has not: Chromium (where apt-get may install it) and axe-core. Without them they are
# skipped, and say so.
browser: $(AXE)
	@command -v chromium > /dev/null && command -v chromedriver > /dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && apt-get update -qq && apt-get install -y -qq chromium chromium-driver > /dev/null; } || echo "no Chromium to be had"

$(AXE):
	@mkdir -p $(@D)
	@{ npm pack --silent axe-core@$(AXE_VERSION) --pack-destination $(@D) > /dev/null && tar xzf $(@D)/axe-core-$(AXE_VERSION).tgz -C $(@D) --strip-components 1 package/axe.min.js && echo "$(AXE_SHA256)  $@" | sha256sum --check --quiet && touch $@; } || { rm -f $@; echo "no axe-core to be had"; }

# The documentation, as a site that needs no network. A warning is an error.
site: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "the site: build/site/index.html; with its search: $(BIN)/python -m http.server --directory build/site"

# Both notebooks, on what the demo left: every cell is run, and its output kept.
notebooks: demo
	@$(BIN)/python notebooks/execute.py

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python tests/line_lengths.py
	@$(BIN)/lint-imports
	@$(BIN)/mypy

# What would be published, in build/dist: an sdist, and a wheel made from it, tried in a fresh environment.
wheel: $(READY)
	@rm -rf build/dist && mkdir -p build
	@$(BIN)/python -m build --no-isolation --outdir build/dist > build/wheel.log 2>&1 || { cat build/wheel.log; exit 1; }
	@$(BIN)/python .ci/try_wheel.py build/dist

setup: $(READY)

# pip is brought up to date first: the one that Python 3.11 brings takes three times as long to look through an index.
# Nothing is compiled then: Python compiles what it imports, a small part of it all. Where it may not keep that, all is.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "unnorm needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12"; exit 2; }
	@echo "setting up $(VENV): a few minutes the first time, nothing the next"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-compile --editable '.[dev]'
	@test -z "$$PYTHONDONTWRITEBYTECODE" || $(BIN)/python -m compileall -qq --workers 0 $(VENV)/lib || true
	@touch $(READY)

clean:
	rm -rf $(VENV) unnorm-demo build
