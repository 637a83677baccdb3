# Everything is set up in .venv on first use; a second call starts at once.

export PIP_DISABLE_PIP_VERSION_CHECK = 1

PYTHONS = $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10
READY = .venv/.ready

.PHONY: help setup demo speedrun worlds test test-cpus test-slow lint docs clean

help:
	@echo 'make demo       play a bundled world: in a window, or into demo.mp4 without a display'
	@echo 'make speedrun   record, train (17 minutes), measure and film a playable game'
	@echo 'make worlds     train the worlds that ship once more, in three and a half hours'
	@echo 'make test       run the tests'
	@echo 'make test-cpus  run the tests of numbers with the matrix kernels of older CPUs'
	@echo 'make test-slow  run the tests that take many seconds or open a window'
	@echo 'make lint       check style and types'
	@echo 'make docs       build the documentation into site/'
	@echo 'make setup      only set up .venv; `. .venv/bin/activate` then gives `worldsim`'
	@echo 'make clean      remove .venv and what tools leave behind'
	@echo ''
	@echo 'Each sets up .venv first where it is missing. PYTHON=python3.12 chooses a Python.'

setup: $(READY)

demo: $(READY)
	.venv/bin/worldsim demo

RECORD_PONG = record worldsim/Pong-v0 --steps 60000 --policy random=0.2 sticky=0.3 scripted=0.5

# Record, train, measure, film: what each command does is what it prints. Serves follow from play:
# a world needs hours to draw lots well.
SPEEDRUN = runs/speedrun
speedrun: $(READY)
	@test ! -e $(SPEEDRUN) || { echo '$(SPEEDRUN) is there already: remove it, or give' \
	    'another folder: make speedrun SPEEDRUN=runs/again' >&2; exit 1; }
	@begin=$$(date +%s); set -ex; \
	.venv/bin/worldsim $(RECORD_PONG) --env-kwargs 'serve="play"' --out $(SPEEDRUN)/recording; \
	.venv/bin/worldsim train $(SPEEDRUN)/recording --out $(SPEEDRUN)/world \
	    --minutes 17 --run.num-evals 1 --wandb disabled \
	    --recipe.object-focus 0.6 0.15 --recipe.corrupt-history 0.3; \
	.venv/bin/worldsim eval $(SPEEDRUN)/world $(SPEEDRUN)/recording --quick; \
	.venv/bin/worldsim demo --world $(SPEEDRUN)/world --gif $(SPEEDRUN)/play.gif; \
	set +x; seconds=$$(($$(date +%s) - begin)); \
	echo "from nothing to a playable game in $$((seconds / 60)) min $$((seconds % 60)) s;" \
	    "play it: .venv/bin/worldsim play $(SPEEDRUN)/world"

# Worlds like those that ship. Those of Maze and Balls were trained as here. That of Pong was trained
# in stages, which its card names; one run of about the same length has not been tried.
WORLDSIM = OMP_NUM_THREADS=1 .venv/bin/worldsim
TRAIN = --run.num-evals 0 --wandb disabled
POLICY = random=0.2 sticky=0.4 scripted=0.4
worlds: $(READY)
	$(WORLDSIM) $(RECORD_PONG) --out recordings/pong
	$(WORLDSIM) train recordings/pong --out runs/pong $(TRAIN) \
	    --minutes 160 --model.chance-bits 6 --recipe.object-focus 0.6 0.15 --recipe.corrupt-history 0.3
	$(WORLDSIM) record worldsim/Maze-v0 --steps 60000 --policy $(POLICY) --out recordings/maze
	$(WORLDSIM) train recordings/maze --out runs/maze $(TRAIN) \
	    --minutes 40 --model.window 24 --optim.batch-size 2 --model.time-every 2
	$(WORLDSIM) record worldsim/Balls-v0 --steps 60000 --policy $(POLICY) --out recordings/balls
	$(WORLDSIM) train recordings/balls --out runs/balls $(TRAIN) \
	    --minutes 60 --model.passes 1 --recipe.object-focus 0.6 0.15 \
	    --recipe.self-rollout 0.8

# Each test runs on one thread.
PYTEST = .venv/bin/pytest -n auto --maxprocesses 4 --dist worksteal
test: $(READY)
	$(PYTEST)

# The same tests of numbers with the kernels of older CPUs: nothing may depend on one machine's.
test-cpus: $(READY)
	OMP_NUM_THREADS=2 MKL_NUM_THREADS=2 MKL_CBWR=COMPATIBLE \
	    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 \
	    .venv/bin/pytest -m "numeric and not slow"

test-slow: $(READY)
	$(PYTEST) -m slow

lint: $(READY)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

# A link that leads nowhere, or a name that is gone, is an error.
docs: .venv/.docs-ready
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

clean:
	rm -rf .venv *.egg-info build site .pytest_cache .mypy_cache .ruff_cache
	find worldsim envs train play tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@for python in $(PYTHONS); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
	        echo "making .venv with `$$python --version`"; \
	        rm -rf .venv && exec "$$python" -m venv .venv; \
	    fi; \
	done; \
	echo 'worldsim needs Python 3.10 or later, and none of these is: $(PYTHONS).' >&2; \
	echo 'Install one, or name it: make PYTHON=/path/to/python3' >&2; \
	exit 1

# torch comes first and plain, so that the index decides which build suits the machine.
$(READY): pyproject.toml constraints.txt | .venv/bin/python
	.venv/bin/pip install torch==2.13.0
	.venv/bin/pip install -e ".[all]" -c constraints.txt
	@touch $@

.venv/.docs-ready: $(READY)
	.venv/bin/pip install -e ".[docs]" -c constraints.txt
	@touch $@
