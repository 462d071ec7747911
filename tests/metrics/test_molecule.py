from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from sciar.convert import from_rdkit
from sciar.metrics.molecule import by_bonds, by_lookup, canonical, intervals, table
from sciar.structure import Structure

METHANE = Structure([6, 1, 1, 1, 1], 0.629 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]))


def embedded(smiles: str) -> Structure:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=7)
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
    return from_rdkit(mol)


def test_methane_is_stable_and_valid():
    found = by_lookup(METHANE)
    assert found.stable and found.n_stable == 5 and found.key == "C" and found.smiles == found.largest
    assert table([found, found], known={"C"}) == {
        "atom_stable": 1,
        "mol_stable": 1,
        "valid": 1,
        "valid_unique": 0.5,
        "valid_largest_fragment": 1,
        "valid_unique_largest_fragment": 0.5,
        "novel": 0,
        "valid_unique_novel": 0,
    }


@pytest.mark.parametrize("smiles", ["CCO", "C#N", "CC(=O)NC", "C1CC1=O", "FC(F)F"])
def test_both_ways_agree_on_neutral_molecules(smiles):
    structure = embedded(smiles)
    look_up, own = by_lookup(structure), by_bonds(structure)
    assert look_up.stable and own.stable and look_up.key == own.key == canonical(smiles)


def test_a_hydrogen_that_a_mark_needs_is_no_part_of_the_name():
    assert canonical("[H]/N=C/O") == canonical("N=CO") == "N=CO"


def test_a_lost_hydrogen_is_unstable_yet_valid_to_the_look_up():
    radical = METHANE.subset([0, 1, 2, 3])
    found = by_lookup(radical)
    assert not found.stable and found.n_stable == 3 and found.smiles is not None  # EDM's convention: RDKit adds it
    bonded = radical.replace(bonds=[(0, 1, 1), (0, 2, 1), (0, 3, 1)])
    own = by_bonds(bonded)
    assert not own.stable and own.smiles is None


def test_too_many_bonds_are_invalid():
    crowded = METHANE.replace(bonds=[(0, 1, 2), (0, 2, 1), (0, 3, 1), (0, 4, 1)])
    own = by_bonds(crowded)
    assert own.smiles is None and own.largest is None and own.n_stable == 3
    squeezed = Structure([1, 1, 1], [[0, 0, 0], [0.74, 0, 0], [-0.74, 0, 0]])
    assert by_lookup(squeezed).largest is None


def test_pieces_are_forgiven_only_by_the_published_convention():
    far = METHANE.shifted(np.array([20.0, 0, 0]))
    two = Structure(np.r_[METHANE.numbers, far.numbers], np.r_[METHANE.positions, far.positions])
    found = by_lookup(two)
    assert found.stable and found.smiles is None and found.largest == by_lookup(METHANE).largest
    shares = table([found])
    assert shares["valid"] == 0 and shares["valid_largest_fragment"] == 1


def test_charges_count_with_own_bonds_only():
    zwitterion = embedded("[NH3+]CC(=O)[O-]")
    assert by_bonds(zwitterion).stable and by_bonds(zwitterion).smiles is not None
    assert not by_lookup(zwitterion).stable
    assert not by_bonds(zwitterion.replace(charges=None)).stable


def test_missing_hydrogens_that_are_declared_count():
    ethane = Structure([6, 6], bonds=[(0, 1, 1)], hydrogens=[3, 3])
    assert by_bonds(ethane).stable and by_bonds(ethane).key == "CC"


def test_failures_stay_in_the_denominator():
    records = [by_lookup(METHANE), by_lookup(None), by_lookup(Structure([])), by_lookup(METHANE)]
    assert records[1] is None and records[2] is None
    shares = table(records)
    assert shares["atom_stable"] == shares["mol_stable"] == shares["valid"] == 0.5 and shares["valid_unique"] == 0.25
    assert set(table([None], known=set()).values()) == {0.0}


def test_order_of_samples_and_atoms_is_irrelevant():
    molecules = [METHANE, embedded("CCO"), embedded("CC(=O)NC"), METHANE.subset([0, 1, 2])]
    rng = np.random.default_rng(0)
    shuffled = [m.permuted(rng.permutation(m.n_atoms)) for m in reversed(molecules)]
    for judge in (by_lookup, by_bonds):
        assert table([judge(m) for m in shuffled], {"CCO"}) == pytest.approx(table([judge(m) for m in molecules], {"CCO"}))


def test_intervals_hold_the_shares():
    records = [by_lookup(METHANE), by_lookup(METHANE.subset([0, 1, 2, 3])), None] * 40
    shares, found = table(records), intervals(records)
    assert set(found) == {"atom_stable", "mol_stable", "valid", "valid_largest_fragment"}
    for name, (low, high) in found.items():
        assert low < shares[name] < high
