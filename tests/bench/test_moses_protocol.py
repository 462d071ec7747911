from pathlib import Path

import numpy as np
import pytest

from sciar import bench
from sciar.bench import moses
from sciar.errors import InputError
from sciar.metrics.fcd import Activations

TEST = ["CCOc1ccccc1", "CC(=O)Nc1ccc(O)cc1", "c1ccc2[nH]ccc2c1", "CCN(CC)C(=O)c1ccccc1"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("samples.smi", "CCOc1ccccc1 first\n\nC1CC\nCCN\n"),
        ("samples.csv", "SMILES\nCCOc1ccccc1\n\nC1CC\nCCN\n"),  # as MOSES writes them
        ("samples.tsv", "name\tSMILES\n1\tCCOc1ccccc1\n2\n3\tC1CC\n\n4\tCCN\tmore\n"),
    ],
)
def test_a_strangers_file_and_a_list_give_the_same_numbers(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    own = {"references": {"Test": TEST, "TestSF": TEST[2:]}, "train": TEST[:1]}
    result, same = bench.run("moses", samples=path, **own), bench.run("moses", samples=["CCOc1ccccc1", None, "C1CC", "CCN"], **own)
    assert result.raw == pytest.approx(same.raw, nan_ok=True) and result.n_drawn == 4
    assert any(f"{name}: 1 records cannot be used" in note and "2: C1CC" in note for note in result.notes)
    assert result.raw["valid"] == 0.5 and result.raw["novel"] == 0.5
    assert 0 < result.raw["SNN/Test"] < 1 and result.published
    assert ("FCD/TestSF" in result.raw) == ("FCD/Test" in result.raw)


def test_what_cannot_be_judged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model= or samples="):
        bench.run("moses")
    with pytest.raises(InputError, match="text file"):
        bench.run("moses", samples=tmp_path / "none.smi", references={"Test": TEST}, train=[])
    nothing = bench.run("moses", samples=["C1CC", None], references={"Test": TEST}, train=[])
    assert nothing.raw == {"valid": 0.0}


def test_a_kept_profile_serves_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that was made where there was no ChemNet: only what is missing is computed."""
    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path))
    monkeypatch.setattr(moses, "LARGE", 2)
    monkeypatch.setattr(moses, "activations", lambda smiles: Activations(np.zeros(3), np.eye(3)))
    first, none = moses._profiled("Test", TEST, chemnet=False)
    monkeypatch.setattr(moses.moses, "profile", lambda smiles: pytest.fail("computed again"))
    again, found = moses._profiled("Test", TEST, chemnet=True)
    assert none is None and found is not None and again.fragments == first.fragments
    monkeypatch.setattr(moses, "activations", lambda smiles: pytest.fail("computed again"))
    last, kept = moses._profiled("Test", TEST, chemnet=True)
    assert kept is not None and np.array_equal(kept.covariance, np.eye(3)) and np.array_equal(last.fingerprints, first.fingerprints)
    assert moses._profiled("Test", TEST, chemnet=False)[1] is not None
