"""The command line: the same words as in Python, files, reports, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from fake import weights
from rdkit import Chem

import sciar
from sciar import checkpoint, cli
from sciar.arguments import options_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights.save(tmp_path_factory.mktemp("weights"), broken=0.3)


def test_conformers_to_a_file(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, report = tmp_path / "x.sdf", tmp_path / "x.json"
    line = f"generate conformer CC(C)O -n 6 --seed 0 --model {model} -o {out} --report {report} --retry 1 --nfe 5 --batch-size 4"
    assert cli.run(line.split()) == 0
    said, err = capfd.readouterr()
    samples = sciar.generate(smiles="CC(C)O", n=6, seed=0, model=model, retry=1, nfe=5)
    assert said == f"{samples.summary()}\n" and not err
    assert out.read_text() == samples.to_sdf()
    facts = json.loads(report.read_text())
    assert facts["n_drawn"] == samples.run.n_drawn and facts["seed"] == 0 and facts["argv"] and facts["network_calls_per_sample"] == 5
    assert facts["weights_sha256"] == checkpoint.read_header(model)["sha256"]

    again = tmp_path / "again.sdf"
    assert cli.run(["generate", "--from", str(report), "-o", str(again)]) == 0
    assert again.read_text() == out.read_text()


def test_alone_it_helps_and_says_its_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0 and "\nCommands:\n" in capfd.readouterr().out
    assert cli.run(["--version"]) == 0 and capfd.readouterr().out == f"sciar {sciar.__version__}\n"


def test_molecules_as_word_option_or_table(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same as in Python: smiles=."""
    (tmp_path / "in.csv").write_text('\ufeffname,SMILES\n"a, b",CCO\n')
    (tmp_path / "in.tsv").write_text("smiles\tname\nCCO\tethanol\n")
    said = []
    for words in ("CCO", "--smiles CCO", "--smiles=CCO", f"--smiles-file {tmp_path}/in.csv", f"--smiles-file {tmp_path}/in.tsv"):
        assert cli.run(f"generate conformer {words} --seed 0 --model {model}".split()) == 0
        said.append(capfd.readouterr().out)
    assert len(set(said)) == 1 and said[0]
    (tmp_path / "no.csv").write_text("name,smi\na,CCO\n")
    assert cli.run(f"generate conformer --smiles-file {tmp_path}/no.csv --model {model}".split()) == 2
    assert "expected a table with one column smiles, got name, smi" in capfd.readouterr().err
    assert cli.run(f"generate conformer --smiles CCO --smiles-file {tmp_path}/in.csv --model {model}".split()) == 2
    assert "got both" in capfd.readouterr().err


def test_conformers_to_standard_output(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["generate", "conformer", "CCO", "-n", "3", "--seed", "0", "--model", str(model)]) == 0
    said, err = capfd.readouterr()
    supplier = Chem.SDMolSupplier()
    supplier.SetData(said, removeHs=False)
    assert len(list(supplier)) == 3 and "of 3 drawn" in err


def test_smiles_file_with_bad_lines(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.smi").write_text("CCO ethanol\n\nC1CC broken\nC\tmethane\n")
    out = tmp_path / "out.sdf"
    line = f"generate conformer --smiles-file {tmp_path / 'in.smi'} -n 2 --seed 0 --model {model} -o {out} --retry 9"
    assert cli.run(line.split()) == 2  # not every requested sample was drawn
    said, err = capfd.readouterr()
    assert "row 1: smiles: expected a molecule" in err and "row 2: smiles 'C1CC'" in err and "2 input rows refused" in said
    rows = [mol.GetIntProp("SCIAR_ROW") for mol in Chem.SDMolSupplier(str(out))]
    assert rows == [0, 0, 1, 1, 2, 2, 3, 3]


def test_drop_invalid(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.sdf"
    assert cli.run(f"generate molecule -n 20 --seed 0 --model {model} -o {out} --drop-invalid".split()) == 0
    said = capfd.readouterr().out
    kept = out.read_text().count("$$$$")
    assert 0 < kept < 20 and f"{kept} kept" in said and "of 20 drawn" in said


def test_models_and_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(checkpoint, "BUNDLED", tmp_path)
    assert cli.run(["models"]) == 0 and "no bundled model" in capfd.readouterr().out
    path = weights.save(tmp_path, "qm9-fake")
    assert cli.run(["models"]) == 0
    table = capfd.readouterr().out
    assert "qm9-fake" in table and "conformer, molecule" in table and checkpoint.read_header(path)["sha256"][:16] in table
    assert cli.run(["doctor"]) == 0
    told = capfd.readouterr().out
    assert "ok    weights qm9-fake" in told and "device:" in told and "torch" in told
    path.write_bytes(path.read_bytes()[:-1])
    assert cli.run(["doctor"]) == 2 and "bad   weights qm9-fake" in capfd.readouterr().out


def test_help_is_quick_and_light() -> None:
    code = "import sys, sciar.cli\nsciar.cli.run(['--help'])\nassert not {'torch', 'rdkit', 'lightning'} & set(sys.modules)"
    started = time.perf_counter()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(verb in told for verb in "generate data train finetune bench models doctor".split())
    assert time.perf_counter() - started < 10  # s; 0.6 on an idle machine


def test_sampler_options() -> None:
    assert options_of(["CCO", "--nfe", "10", "--noise-scale=0.9", "--solver", "heun"]) == (
        ["CCO"],
        {"nfe": 10, "noise_scale": 0.9, "solver": "heun"},
    )


def test_ctrl_c_exits_with_3_and_resumes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    slow = weights.save(tmp_path, slow=0.05)
    out = tmp_path / "x.sdf"
    line = [sys.executable, "-m", "sciar", "generate", "conformer", "CCO", "-n", "200", "--seed", "0", "--model", str(slow), "-o", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    # a shell that starts the tests in the background has them ignore Ctrl-C, and children inherit that
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    journal = tmp_path / "x.sdf.journal"
    deadline = time.time() + 60
    while (not journal.exists() or journal.read_bytes().count(b"\n") < 5) and time.time() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, err = process.communicate(timeout=60)
    assert process.returncode == 3 and "interrupted:" in said and "Traceback" not in err
    part = out.read_text().count("$$$$")
    assert 3 <= part < 200  # the journal may be one draw ahead of the file
    capfd.readouterr()
    assert cli.run(line[3:]) == 0
    assert "200 valid of 200 drawn" in capfd.readouterr().out and not journal.exists()
    assert out.read_text() == sciar.generate(smiles="CCO", n=200, seed=0, model=weights.save(tmp_path, "quick")).to_sdf()


def test_an_option_that_python_has_the_command_has(model: Path) -> None:
    """Same words: every argument of `generate` that makes sense on a command line is an option of one of its verbs."""
    import inspect

    import typer

    from sciar.generate import generate

    command = typer.main.get_command(cli.verbs)
    there = {p.name for verb in command.commands["generate"].commands.values() for p in verb.params}
    wanted = set(inspect.signature(generate).parameters) - {"task", "stream", "progress", "options"}
    assert {"wanted" if name == "properties" else name for name in wanted} <= there
