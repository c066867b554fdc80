# Two commands do everything on a fresh machine: make demo, make test.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# One worker more than there are cores: a test that waits for a guest leaves its core to another.
WORKERS ?= 3
# What pytest has made of a test file is read again by the other workers, and by the next run.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: deb docs reference demo demo-vm demo-libvirt test test-long check format bench bench-target bench-gateway bench-standstill bench-scale bench-helper bench-host-disks bench-upgrade bench-libvirt explore simulate requirements clean

demo: $(VENV)/run.stamp
	$(BIN)/holdover demo

# A Linux guest between two separate hosts; without root `holdover demo --vm`, and it says so. It asks before it
# installs packages.
demo-vm: $(VENV)/dev.stamp
	$(BIN)/python -m tests.rig.vm_demo

# An unmodified `virsh migrate` between two separate hosts; needs root, and asks before it installs packages.
demo-libvirt: $(VENV)/dev.stamp
	$(BIN)/python -m tests.rig.libvirt_demo

# What hundreds of programs and kernels import is compiled once, wherever Python is told to keep no bytecode.
test: $(VENV)/dev.stamp
	$(BIN)/python -m compileall -q src tests $(VENV)/lib
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --durations=15

# Everything, whole: all set-ups of the exploration that tests have, the long comparisons, every case of every fuzz test.
test-long: $(VENV)/dev.stamp
	$(BIN)/python -m compileall -q src tests $(VENV)/lib
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --durations=15 --long

# All figures of docs/develop/performance.md; what needs a package that is missing is named and left out.
bench: $(VENV)/dev.stamp
	$(BIN)/python -m bench --out build/bench

# The target beside tgt (packages tgt, libiscsi-bin, qemu-utils, qemu-block-extra).
bench-target: $(VENV)/dev.stamp
	$(BIN)/python -m bench.target

# Through an agent's export beside straight to the target (packages libiscsi-bin, qemu-utils, qemu-block-extra).
bench-gateway: $(VENV)/dev.stamp
	$(BIN)/python -m bench.gateway

# Moving guests, beside QEMU 11.1 (packages qemu-system-x86, qemu-block-extra, busybox-static, sg3-utils, mmdebstrap).
bench-standstill: $(VENV)/dev.stamp
	$(BIN)/python -m bench.standstill

# The helper beside QEMU's (packages user-mode-linux, qemu-system-common).
bench-helper: $(VENV)/dev.stamp
	$(BIN)/python -m bench.helper

# Moving guests on disks of the host (packages user-mode-linux, qemu-system-x86, qemu-system-common, busybox-static,
# sg3-utils, mmdebstrap).
bench-host-disks: $(VENV)/dev.stamp
	$(BIN)/python -m bench.host_disks

# How long a guest behind an export waits while its agent is restarted (packages qemu-utils, qemu-block-extra).
# The modules are compiled first, as the package has them.
bench-upgrade: $(VENV)/dev.stamp
	$(BIN)/python -m compileall -q src $(VENV)/lib
	$(BIN)/python -m bench.upgrade

# `virsh migrate --live` with Holdover beside libvirt alone (packages libvirt-daemon-system, libvirt-clients, python3-libvirt).
bench-libvirt: $(VENV)/dev.stamp
	$(BIN)/python -m bench.libvirt

# One agent with up to 1,000 guests.
bench-scale: $(VENV)/dev.stamp
	$(BIN)/python -m bench.scale

# Every interleaving of a handover, beyond what the tests go through; an hour or so.
explore: $(VENV)/dev.stamp
	$(BIN)/python -m tests.handover.explore

# Whole agents under virtual time, as many seeds as wanted, on all cores: make simulate SEEDS=0-99999 STEPS=3
SEEDS ?= 0-999
STEPS ?= 3
simulate: $(VENV)/dev.stamp
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --steps $(STEPS)

# dist/holdover_VERSION_ARCHITECTURE.deb, for the release of Debian of this machine (packages python3-venv, dpkg).
deb: $(VENV)/run.stamp
	$(BIN)/python -m deb

# The pages that are made from the code, anew: the runbook, commands, configuration, metrics, files.
reference: $(VENV)/run.stamp
	$(BIN)/python -m pages

# The documentation as a site, build/site/index.html; a link that leads nowhere fails.
docs: $(VENV)/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check src tests bench deb pages
	$(BIN)/ruff check src tests bench deb pages
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp
	$(BIN)/ruff format src tests bench deb pages
	$(BIN)/ruff check --fix src tests bench deb pages

$(VENV)/run.stamp: requirements/run.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/dev.stamp: requirements/dev.txt $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	touch $@

# Anew from pyproject.toml; needs uv (a package of that name).
requirements:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --extra build pyproject.toml -o requirements/run.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --extra build --extra dev pyproject.toml -o requirements/dev.txt

clean:
	rm -rf $(VENV) build dist src/*.egg-info
