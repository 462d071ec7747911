# make setup   .venv with the versions of constraints.txt; does nothing when up to date
# make demo    conformers of aspirin and (S)-ibuprofen, a few new molecules and crystals of TiO2, in demo_out/
# make test    lint, types, tests;   make slow   the tests that take minutes;   make wheel   dist/;   make docs   site/
#
# PYTHON=python3.12 make setup                          another interpreter (3.11 or newer)
# PIP_EXTRA_INDEX_URL=<index of CPU wheels> make setup  torch without the CUDA libraries, where the default wheel brings them

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
OUT := demo_out
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test tests slow lint types wheel docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("make setup: expected Python >= 3.11, got %d.%d; run make setup PYTHON=python3.11" % sys.version_info[:2])'
	@echo "setting up $(VENV) (a few minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

define SHOW
import sys
from rdkit import Chem, RDLogger
from sciar import view
RDLogger.DisableLog("rdApp.*")  # records of failed draws have no atoms
for path in sys.argv[1:]:
    mols = [mol for mol in Chem.SDMolSupplier(path, removeHs=False) if mol is not None]
    view.sheet(mols, path.replace(".sdf", ".png"))
    for mol in mols:
        Chem.AssignStereochemistryFrom3D(mol)
    forms = ", ".join(sorted({mark for mol in mols for _, mark in Chem.FindMolChiralCenters(mol)})) if "ibuprofen" in path else ""
    print(f"{path} and .png: {len(mols)} structures" + (f"; chirality read off the coordinates: {forms}" if forms else ""))
endef
export SHOW

demo: setup
	@rm -rf $(OUT) && mkdir $(OUT)
	$(BIN)/sciar generate conformer 'CC(=O)Oc1ccccc1C(=O)O' -n 5 --seed 0 -o $(OUT)/aspirin.sdf
	$(BIN)/sciar generate conformer 'CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O' -n 5 --seed 0 -o $(OUT)/ibuprofen.sdf
	$(if $(wildcard sciar/weights/qm9-hybrid.safetensors),$(BIN)/sciar generate molecule -n 8 --seed 0 -o $(OUT)/molecules.sdf)
	$(if $(wildcard sciar/weights/mp20-orbits.safetensors),$(BIN)/sciar generate crystal TiO2 -n 4 --seed 0 -o $(OUT)/tio2.cif)
	@$(BIN)/python -c "$$SHOW" $(OUT)/*.sdf
	@ls $(OUT)/*.cif

test: setup
	@$(MAKE) --no-print-directory -j 2 tests lint types

tests: setup
	$(BIN)/pytest -m 'not slow' -n 2 --dist loadfile

slow: setup
	$(BIN)/pytest -m slow

lint: setup
	$(BIN)/ruff check
	$(BIN)/lint-imports --no-logo

types: setup
	$(BIN)/mypy

wheel: setup
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

docs: setup
	@$(BIN)/python -c 'import mkdocs, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]' -c constraints.txt
	$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) $(OUT) site dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
