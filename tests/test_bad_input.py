"""Whatever is wrong with the input, the answer is one sentence: in Python a typed error, on the command line an exit code ≠ 0."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from fake import weights
from rdkit import Chem

import sciar
from sciar import checkpoint, cli
from sciar.convert import from_networkx
from sciar.errors import InputError, SciarError, WeightsError
from sciar.families import blocks
from sciar.request import check


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights.save(tmp_path_factory.mktemp("weights"))


# smiles, what the sentence says
SMILES = {
    "invalid": ("C1CC", "unclosed ring"),
    "brackets": ("CC(C", "expected a SMILES"),
    "valence": ("C(C)(C)(C)(C)C", "valence"),
    "not aromatic": ("c1cccc1", "kekulize"),
    "empty": ("", "empty text"),
    "blank": ("  ", "empty text"),
    "two words": ("CCO ethanol", "blanks"),
    "not ASCII": ("CCÖ", "characters that SMILES does not have"),
    "NUL": ("C\0C", "characters that SMILES does not have"),
    "unknown element": ("[Xx]C", "expected known elements, got 'Xx'"),
    "unsupported element": ("C[Si](C)(C)C", "got Si; use another model"),
    "500 atoms": ("C" * 500, "expected at most 50 heavy atoms"),
    "20,000 letters": ("C" * 20_000, "expected at most 10000 characters"),
    "salt": ("CC(=O)[O-].[Na+]", "2 parts"),
    "mixture": ("CCO.O", "2 parts"),
    "radical": ("C[CH2]", "1 unpaired electron;"),
    "diradical": ("[CH2]C[CH2]", "2 unpaired electrons;"),
    "metal complex": ("[NH3][Pt]([NH3])(Cl)Cl", "non-metals, got Pt"),
    "ferrocene": ("[CH-]1C=CC=C1.[CH-]1C=CC=C1.[Fe+2]", "3 parts"),
    "metal": ("[Fe]", "non-metals, got Fe"),
    "place-holder": ("*CC", "place-holder"),
    "query": ("[C,N]C", "expected a SMILES"),
    "dative": ("N->B", "dative"),
}
CONTRADICTIONS: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "nothing": ((), {}, "expected a task or a constraint"),
    "smiles + formula": (
        (),
        {"smiles": "CCO", "formula": "C2H6O"},
        "constraints of one task, got smiles= (conformer) together with formula=",
    ),
    "smiles + scaffold": ((), {"smiles": "CCO", "scaffold": "C*"}, "leave one out"),
    "smiles + spacegroup": ((), {"smiles": "CCO", "spacegroup": 2}, "leave one out"),
    "smiles + properties": ((), {"smiles": "CCO", "properties": {"gap_eV": 1.0}}, "together with properties="),
    "molecule + smiles": (("molecule",), {"smiles": "CCO"}, "got smiles="),
    "graph + formula": (("graph",), {"formula": "C6H6"}, "got formula="),
    "graph + pxrd": (("graph",), {"pxrd": [[1, 2]]}, "got pxrd="),
    "conformer alone": (("conformer",), {}, "expected smiles="),
    "formula + elements": ((), {"formula": "LiFePO4", "elements": ["Li", "O"]}, "got Fe, P"),
    "formula + n_atoms": ((), {"formula": "LiFePO4", "n_atoms": 8}, "multiples of 7"),
    "elements alone": ((), {"elements": "C,N"}, "expected a task, got only elements"),
    "n_atoms upside down": (("molecule",), {"n_atoms": (9, 3)}, "swap them"),
    "n = 0": ((), {"smiles": "CCO", "n": 0}, "n: expected a whole number of at least 1, got 0"),
    "n = -1": ((), {"smiles": "CCO", "n": -1}, "got -1"),
    "n = 1.5": ((), {"smiles": "CCO", "n": 1.5}, "got 1.5"),
    "n = True": ((), {"smiles": "CCO", "n": True}, "got True"),
    "seed < 0": ((), {"smiles": "CCO", "seed": -1}, "seed: expected"),
    "retry < 0": ((), {"smiles": "CCO", "retry": -1}, "retry: expected"),
    "batch_size = 0": ((), {"smiles": "CCO", "batch_size": 0}, "batch_size: expected"),
    "keep = 0": ((), {"smiles": "CCO", "keep": 0}, "keep: expected a fraction"),
    "keep = 2": ((), {"smiles": "CCO", "keep": 2}, "keep: expected a fraction"),
    "fallback": ((), {"smiles": "CCO", "fallback": "etkg"}, "did you mean 'etkdg'?"),
    "fallback de novo": (("molecule",), {"fallback": "etkdg"}, "RDKit can only embed"),
    "unknown task": (("conformers",), {"smiles": "CCO"}, "did you mean 'conformer'?"),
    "SMILES as task": (("CCO",), {}, "a molecule goes into smiles="),
    "unknown element": (("molecule",), {"elements": ["C", "Nn"]}, "got 'Nn'"),
    "element in capitals": (("molecule",), {"elements": ["CL"]}, "did you mean 'Cl'?"),
    "no element": (("molecule",), {"elements": []}, "at least one element"),
    "formula": ((), {"formula": "Li2Xx"}, "got 'Xx'"),
    "formula text": ((), {"formula": "lithium"}, "expected text such as 'LiFePO4'"),
    "spacegroup": ((), {"spacegroup": 231}, "from 1 to 230 or a Hermann–Mauguin symbol, got 231"),
    "scaffold": ((), {"scaffold": "C1CC"}, "scaffold: expected a SMILES"),
    "scaffold with a stereo centre": ((), {"scaffold": "C[C@H](N)O"}, "write 'CC(N)O'"),
    "scaffold with a stereo bond": ((), {"scaffold": "C/C=C/*"}, "write '*C=CC'"),
    "scaffold with an isotope": ((), {"scaffold": "[13CH3]C"}, "write 'CC'"),
    "pxrd file": ((), {"pxrd": "/no/such/file.xy"}, "pxrd: expected a file, got no such file"),
    "pxrd columns": ((), {"pxrd": np.zeros((3, 1))}, "shape (3, 1)"),
    "pxrd swapped columns": ((), {"pxrd": [[100.0, 27.4], [80.0, 31.7]]}, "expected increasing 2θ, got 100 before 80"),
    "pxrd negative": ((), {"pxrd": [[20.0, 5.0], [30.0, -1.0]]}, "intensities of at least 0, got -1 at 30°"),
    "pxrd without peaks": ((), {"pxrd": [[20.0, 0.0], [30.0, 0.0]]}, "a pattern with peaks, got none"),
    "spacegroup symbol": ((), {"spacegroup": "Fm-3n"}, "did you mean"),
    "spacegroup end": ((), {"spacegroup": "P4_2/mnn"}, "did you mean 'P42/mnm'"),
    "spacegroup nonsense": ((), {"spacegroup": "???"}, "write for example 225 or 'Fm-3m'"),
    "formula units alone": (("crystal",), {"n_formula_units": 2}, "expected formula= with it"),
    "formula units": ((), {"formula": "TiO2", "n_formula_units": 0}, "n_formula_units: expected a whole number of at least 1, got 0"),
    "formula units and n_atoms": ((), {"formula": "TiO2", "n_formula_units": 2, "n_atoms": 9}, "expected 9 to 9 atoms (n_atoms=), got 6"),
    "unknown element in a formula": ((), {"formula": "Xx2"}, "expected known elements, got 'Xx'"),
    "no atoms of an element": (("crystal",), {"formula": "Li0"}, "formula: expected text such as"),
    "empty formula": (("crystal",), {"formula": ""}, "formula: expected text such as"),
    "part of an atom": (("crystal",), {"formula": "Li0.5CoO2"}, "write element symbols and whole numbers"),
    "fixed without positions": ((), {"fixed": Chem.MolFromSmiles("C"), "scaffold": "C*"}, "fixed: expected atoms with positions"),
    "property value": (("molecule",), {"properties": {"gap_eV": "high"}}, "expected a finite number"),
    "properties": (("molecule",), {"properties": []}, "properties: expected names and numbers"),
    "no smiles": ((), {"smiles": []}, "empty list"),
    "smiles as number": ((), {"smiles": 7}, "expected text or a list of texts, got int"),
    "smiles as None in a list": ((), {"smiles": [None]}, "expected text, got NoneType"),
    "output format": ((), {"smiles": "CCO", "out": "x.pdb"}, "expected a name that ends in .sdf"),
    "output folder": ((), {"smiles": "CCO", "out": "/no/such/folder/x.sdf"}, "expected an existing folder"),
    "conformers as cif": ((), {"smiles": "CCO", "out": "x.cif"}, "expected a format for task 'conformer'"),
    "stream of a word": ((), {"smiles": "CCO", "stream": "yes"}, "stream: expected True, False or 'levels', got 'yes'"),
    "levels and retry": ((), {"smiles": "CCO", "stream": "levels", "retry": 2}, "stream: expected neither retry= nor fallback="),
    "stream to a file": ((), {"smiles": "CCO", "stream": True, "out": "x.sdf"}, "stream: expected neither out="),
}


# model, arguments, what the sentence says
GRAPHS: dict[str, tuple[str, dict[str, Any], str]] = {
    "impossible valence": ("molecules", {"scaffold": "C(C)(C)(C)(C)C*"}, "valence"),
    "two pieces": ("molecules", {"scaffold": "c1ccccc1.CC*"}, "expected one connected fragment, got 2"),
    "no element": ("molecules", {"scaffold": "[Xx]C*"}, "scaffold: expected a SMILES"),
    "foreign element": ("molecules", {"scaffold": "[Na]C*"}, "expected atoms C N O of usual valence, got Na"),
    "foreign elements": ("molecules", {"elements": ["Br"]}, "elements: expected some of C N O"),
    "double bond to grow": ("molecules", {"scaffold": "CC=*"}, "at the end of a single bond"),
    "large scaffold": ("molecules", {"scaffold": "C" * 30 + "*"}, "scaffold: expected at most 12 atoms, got 30"),
    "large molecule": ("molecules", {"n_atoms": (40, 50)}, "n_atoms: expected at most 12 for these weights, got 40"),
    "large graph": ("plain", {"n_atoms": 500}, "n_atoms: expected at most 12 for these weights, got 500"),
    "scaffold of a plain graph": ("plain", {"scaffold": "c1ccccc1*"}, "scaffold: expected weights of molecules, got some of plain graphs"),
    "elements of a plain graph": ("plain", {"elements": ["C"]}, "elements: expected weights of molecules"),
    "plain graphs as SMILES": ("plain", {"out": "OUT.smi"}, "output: expected molecules for .smi, got plain graphs"),
    "molecules as graph6": ("molecules", {"n_atoms": 1, "out": "OUT.g6"}, "expected a plain graph, got atoms"),
}


@pytest.fixture(scope="module")
def graph_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights of the blocks family: molecules.safetensors and plain.safetensors."""
    folder = tmp_path_factory.mktemp("graphs")
    for name, atoms in (("molecules", ("C", "N", "O")), ("plain", ("X",))):
        tokenizer = blocks.Tokenizer(blocks.TokenizerConfig(atoms=atoms, implied=name == "molecules", max_atoms=12, max_block=6))
        model = blocks.Model(blocks.ModelConfig(width=16, pair=8, heads=2, layers=1), tokenizer)
        configs = {"tokenizer_config": dataclasses.asdict(tokenizer.config), "model_config": dataclasses.asdict(model.config)}
        card = {"name": name, "tasks": ["graph"], "trained_on": "nothing"}
        checkpoint.save(folder / f"{name}.safetensors", model, family="blocks", statistics=tokenizer.limits(), card=card, **configs)
    return folder


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs(case: str, graph_models: Path, tmp_path: Path) -> None:
    name, arguments, sentence = GRAPHS[case]
    if "out" in arguments:
        arguments = {**arguments, "out": tmp_path / arguments["out"]}
    with pytest.raises(InputError) as caught:
        sciar.generate("graph", model=graph_models / f"{name}.safetensors", seed=0, **arguments)
    assert sentence in str(caught.value) and one_sentence(str(caught.value))


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (nx.Graph([(0, 1), (1, 1)]), "expected no loops"),
        (nx.MultiGraph([(0, 1), (0, 1)]), "undirected simple graph, got MultiGraph"),
        (nx.DiGraph([(0, 1)]), "undirected simple graph, got DiGraph"),
        (nx.path_graph(40), "expected 1 to 12 nodes, got 40; raise tokenizer.max_atoms"),
        (nx.star_graph(11), "expected blocks of at most 6 nodes of degree up to 6, got 11"),
        (nx.empty_graph(0), "got 0"),
    ],
)
def test_graphs_that_no_model_holds(graph: nx.Graph, sentence: str) -> None:
    tokenizer = blocks.Tokenizer(blocks.TokenizerConfig(atoms=("X",), implied=False, hops=1, max_atoms=12, max_block=6))
    with pytest.raises(InputError) as caught:
        tokenizer.encode(from_networkx(graph))
    assert sentence in str(caught.value) and one_sentence(str(caught.value))


@pytest.mark.parametrize("case", SMILES)
def test_smiles(case: str, model: Path) -> None:
    smiles, sentence = SMILES[case]
    with pytest.raises(InputError) as caught:
        sciar.generate(smiles=smiles, model=model)
    assert sentence in str(caught.value) and one_sentence(str(caught.value))
    assert "unclosed" not in sentence or "smiles 'C1CC'" in str(caught.value)


@pytest.mark.parametrize("case", SMILES)
def test_smiles_on_the_command_line(case: str, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    smiles, sentence = SMILES[case]
    assert cli.run(["generate", "conformer", smiles, "--model", str(model)]) == 2
    out, err = capfd.readouterr()
    assert not out and sentence in err and err.startswith("sciar: ") and err.count("\n") == 1  # RDKit says nothing of its own


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_before_any_model_is_loaded(case: str) -> None:
    task, arguments, sentence = CONTRADICTIONS[case]
    with pytest.raises(InputError) as caught:
        sciar.generate(*task, **arguments, model="/no/such/model.safetensors")
    assert sentence in str(caught.value) and one_sentence(str(caught.value))


COMMANDS = {
    "n = 0": ("generate conformer CCO -n 0", "n: expected a whole number of at least 1"),
    "n = -1": ("generate conformer CCO -n -1", "n: expected a whole number of at least 1"),
    "n = x": ("generate conformer CCO -n x", "Invalid value for '-n'"),
    "no molecule": ("generate conformer", "expected smiles="),
    "verb": ("generat conformer CCO", "No such command"),
    "task": ("generate conformers CCO", "No such command"),
    "no task": ("generate", "--from REPORT"),
    "report": ("generate --from /no/such.json", "No such file"),
    "smiles file": ("generate conformer --smiles-file /no/such.smi", "No such file"),
    "both": ("generate conformer CCO --smiles-file x.smi", "got both"),
    "another verb's option": ("generate conformer CCO --formula C2H6O", "--formula is not one of its options"),
    "a progress bar": ("bench qm9 --progress 1", "--progress is not one of its options"),
    "conformers without a file": ("data x.smi --conformers 2", "together with --out"),
    "option": ("generate conformer CCO --model MODEL --nfee 3", "did you mean 'nfe'?"),
    "option without value": ("generate conformer CCO --model MODEL --nfe", "expected a value after '--nfe'"),
    "option's value": ("generate conformer CCO --model MODEL --nfe many", "nfe: expected a whole number, got 'many'"),
    "crystal by a model of molecules": ("generate crystal LiFePO4 --model MODEL", "expected a task it can do (conformer, molecule)"),
    "crystal's size": ("generate crystal Li400O200", "expected at most 20 atoms"),
    "crystal's group": ("generate crystal TiO2 --spacegroup P4_2/mmn", "did you mean"),
    "task of another model": ("generate graph --model MODEL", "expected a task it can do (conformer, molecule)"),
    "property": ("generate molecule --model MODEL --property gap_ev=3", "did you mean 'gap_eV'?"),
    "property's form": ("generate molecule --model MODEL --property gap_eV", "expected NAME=VALUE"),
    "elements without the scaffold's": ("generate molecule --scaffold c1ccccc1O --elements C,N", "scaffold: expected only the elements"),
    "n_atoms": ("generate molecule --n-atoms many", "write 18 or 4-20"),
    "device": ("generate conformer CCO --model MODEL --device gpu", "expected 'auto', 'cpu' or 'cuda', got 'gpu'"),
    "GPU": ("generate conformer CCO --model MODEL --device cuda:99", "expected one of this machine"),
    "model": ("generate conformer CCO --model nonesuch", "expected a bundled name"),
    "model file": ("generate conformer CCO --model ./nonesuch.safetensors", "no such file"),
    "config": ("train /no/such.yaml", "which does not exist"),
    "protocol": ("bench nonesuch", "expected one of bonds, community, conformers"),
    "data": ("data /no/such.sdf", "does not exist"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_commands(case: str, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line, sentence = COMMANDS[case]
    assert cli.run([str(model) if word == "MODEL" else word for word in line.split()]) == 2
    out, err = capfd.readouterr()
    assert not out and sentence in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda content: content[:-1], "truncated"),
        (lambda content: content[:7], "truncated"),
        (lambda content: b"", "truncated"),
        (lambda content: content[:-3] + b"abc", "was changed after it was saved"),
        (lambda content: b"CCO is not a model\n", "expected weights saved by sciar"),
        (None, "expected a readable weights file"),
    ],
    ids=["truncated", "cut in the header", "empty", "tampered", "another file", "unreadable"],
)
def test_weights(damage: Any, sentence: str, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.safetensors"
    if damage is None:
        broken.mkdir()
    else:
        broken.write_bytes(damage(model.read_bytes()))
    with pytest.raises(WeightsError) as caught:
        sciar.generate(smiles="CCO", model=broken)
    assert sentence in str(caught.value) and one_sentence(str(caught.value))
    assert cli.run(["generate", "conformer", "CCO", "--model", str(broken)]) == 2
    assert sentence in capfd.readouterr().err


def test_full_disk(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "conformer", "CCO", "-n", "3", "--model", str(model)]
    assert cli.run([*arguments, "-o", "/dev/full"]) == 3
    err = capfd.readouterr().err
    assert "no space left on device" in err and err.count("\n") == 1
    with pytest.raises(SciarError, match="no space left"):
        sciar.generate(smiles="CCO", model=model, out="/dev/full")


def test_a_fault_of_the_model_is_not_dressed_up(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = sciar.load(model)
    monkeypatch.setattr(generator.model, "_drawn", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generator.generate(smiles="CCO")


def fuzzed(count: int, seed: int) -> None:
    """Mutated SMILES: each is accepted or refused with one sentence."""
    rng = random.Random(seed)
    seeds = [
        "CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O",
        "C/C=C\\C#N",
        "C[N+](C)(C)CC([O-])=O",
        "c1ccc2[nH]ccc2c1",
        "[13CH4]",
        "OS(=O)(=O)c1ccc(Br)cc1",
        "C%12CC%12",
    ]
    letters = "CNOPSFIBclnosr[]()=#@+-/\\%.*:~>$0123456789HXe"
    accepted = 0
    for _ in range(count):
        text = list(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(text) + 1)
            kind = rng.randrange(4)
            if kind == 0:
                text[place:place] = rng.choice(letters)
            elif kind == 1:
                text[place : place + rng.randint(1, 3)] = []
            elif kind == 2 and place < len(text):
                text[place] = rng.choice(letters)
            else:
                text[place:place] = text[: rng.randrange(len(text) + 1)]
        smiles = "".join(text)[:200]
        try:
            request = check(smiles=smiles)
        except InputError as error:
            assert one_sentence(str(error)), (smiles, str(error))
        else:
            graph = request.rows[0].prompt.graph
            assert graph is not None and graph.n_atoms and graph.bonds is not None
            accepted += 1
    assert 0.02 * count < accepted < 0.8 * count


def test_mutated_smiles(capfd: pytest.CaptureFixture[str]) -> None:
    fuzzed(500, seed=0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_ten_thousand_mutated_smiles(capfd: pytest.CaptureFixture[str]) -> None:
    fuzzed(10_000, seed=1)
    assert capfd.readouterr() == ("", "")


def one_sentence(text: str) -> bool:
    """One line that says what was expected, what was got, and what to do."""
    return "\n" not in text and len(text) < 400 and bool(re.search(r"(expected|unknown).*", text))
