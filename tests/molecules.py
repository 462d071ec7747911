"""Molecules the chemistry tests share: small, and each with something that is easily lost."""

from __future__ import annotations

from functools import cache

import numpy as np
from hypothesis import settings

from sciar.convert import from_rdkit
from sciar.structure import Structure

quick = settings(deadline=None, max_examples=30)  # a loaded machine is no failure

SMILES = """
C [H][H] O N CCO C#N CC(=O)O c1ccccc1 c1ccc2[nH]ccc2c1 Cc1ccccc1C C[N+](C)(C)C [O-][N+](=O)c1ccccc1 [NH3+]CC(=O)[O-]
C[C@H](F)Cl C[C@@H](F)Cl [C@H](F)(Cl)Br N[C@@H](C)C(=O)O N[C@H](C)C(=O)O C[S@](=O)CC C[S@@](=O)c1ccccc1 C[P@](=O)(O)CC
F/C=C/F F/C=C\\F C/C=C/C=C\\C C/C=N/O C/C(=N\\O)c1ccccc1 CC(/C=C/c1ccco1)=N/NC(=O)c1ccc(F)cc1 F/C(Cl)=C(/Br)I
C[C@H]1CC[C@@H](C)CC1 C[C@H]1CC[C@H](C)CC1 O=C1CC[C@@]2(C)C1CCC2 C1CC1 C12CC1C2 [CH3] [CH2] C[O] O=[N] [Na+].[Cl-] [13CH3]C(=O)O [2H]C
CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O Cn1cnc2c1c(=O)n(C)c(=O)n2C CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)O
OS(=O)(=O)c1ccc(Cl)cc1 C1CCC(CC1)[Si](C)(C)C B(O)(O)c1ccccc1 FC(F)(F)S(F)(F)(F)(F)F [O-]Cl(=O)(=O)=O c1ccc2c(c1)ccc1ccccc12 C=C=C N#[N+][O-]
C[C@@H]1O[C@H](O)[C@@H](O)[C@H](O)[C@H]1O CC[C@H](C)[C@@H]1NC(=O)[C@H](C)NC1=O *c1ccccc1 [Se]1C=CC=C1 CC(=O)Oc1ccccc1C(=O)O
""".split()

DRUGS = ("CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O", "CC(=O)Oc1ccccc1C(=O)O", "C/C=C/C(=O)N[C@@H](C)c1ccncc1")


@cache
def conformer(smiles: str) -> Structure:
    """A molecule with explicit hydrogens and coordinates: ETKDGv3, then MMFF94s."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rules = AllChem.ETKDGv3()
    rules.randomSeed = 1
    assert AllChem.EmbedMolecule(mol, rules) == 0
    AllChem.MMFFOptimizeMolecule(mol, mmffVariant="MMFF94s", maxIters=2000)
    return from_rdkit(mol)


def moved(structure: Structure, atom: int, to: np.ndarray) -> Structure:
    """The structure with one atom elsewhere."""
    assert structure.positions is not None
    positions = structure.positions.copy()
    positions[atom] = to
    return structure.replace(positions=positions)


def rock_salt() -> Structure:
    """NaCl, conventional cell."""
    corner = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    fractional = np.concatenate([corner, (corner + [0.5, 0, 0]) % 1])
    return Structure(np.array([11] * 4 + [17] * 4), positions=5.64 * fractional, cell=5.64 * np.eye(3))
