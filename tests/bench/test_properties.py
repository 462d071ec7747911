from types import SimpleNamespace

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Crippen

from sciar.bench import properties
from sciar.bench.front import Drawn
from sciar.convert import from_smiles
from sciar.errors import InputError


def test_errors_are_those_of_the_draws_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked: ethanol, an unknown molecule and a failure; free: methane twice. Values are given by hand."""
    known = {"CCO": {"gap_eV": 8.0, "mu_D": 1.5, "alpha_bohr3": 30.0}, "C": {"gap_eV": 13.0, "mu_D": 0.0, "alpha_bohr3": 13.0}}

    def draw(model: object, n: int, seed: int, device: object = None, task: str = "molecule", **options: object) -> Drawn:
        assert task == "graph"
        found = [from_smiles("CCO"), from_smiles("CCCCCCCCN"), None] if options else [from_smiles("C"), from_smiles("C"), None]
        return Drawn(found, np.full(n, np.nan), 1.0, 0)

    monkeypatch.setattr(properties.front, "load", lambda model, device: model)
    monkeypatch.setattr(properties.front, "de_novo", draw)
    monkeypatch.setattr(properties, "_values", lambda: known)
    model = SimpleNamespace(name="mine", header={"statistics": {"properties": ["gap_eV", "logP"]}, "card": {"tasks": ["graph"]}})
    result = properties.run_protocol(model, n=3)
    first = result.rows[0]
    assert (first["property"], first["target"]) == ("gap_eV", 4.5)
    assert (
        first["found"] == pytest.approx(1 / 3) and first["mae"] == pytest.approx(3.5) and first["mae_unconditional"] == pytest.approx(8.5)
    )
    assert result.n_drawn == 3 * 8
    last = result.rows[-1]
    values = [Crippen.MolLogP(Chem.MolFromSmiles(s)) for s in ("CCO", "CCCCCCCCN")]
    assert (last["property"], last["target"]) == ("logP", 2.0) and last["found"] == pytest.approx(2 / 3)
    assert last["mae"] == pytest.approx(np.mean([abs(value - 2) for value in values]))


def test_a_model_without_properties_is_refused() -> None:
    with pytest.raises(InputError, match="expected a model that knows one of gap_eV"):
        properties.run_protocol("moses-blocks", n=3)
