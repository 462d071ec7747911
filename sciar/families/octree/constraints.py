"""What a draw must satisfy, as masks over logits: each is kept by construction, not by rejection (but see `Room`).

A node's byte is one of those from which the wanted number of atoms can still be reached and which keep the nodes of
fixed atoms; an element is one that is allowed and still due; a place in a cell is one that keeps its distance and gives
no atom more neighbours than its valence. What a mask lets through keeps the network's ratios. That is the network's law
step by step given the constraint, not the law of whole structures given it: telling the network too (`condition`) brings
the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sciar import pxrd
from sciar.errors import InputError
from sciar.families.octree import corners
from sciar.families.octree.tokens import Tokenizer, random_rotation
from sciar.families.octree.tree import POPCOUNT, morton
from sciar.metrics.molecule import VALENCES
from sciar.nn import composition
from sciar.nn.composition import Space
from sciar.prompt import Prompt
from sciar.structure import NUMBERS, Structure

ANY = 10_000  # atoms of an element, where none is counted
BOND_MARGIN = 0.25  # Å above the sum of covalent radii that still counts as a neighbour


@dataclass(frozen=True, slots=True, eq=False)
class Wish:
    """The constraints of one draw, in the tokenizer's terms.

    Args:
        atoms: (fewest, most).
        due: free atoms of each element that may be drawn; ANY = as many as wanted.
        composition: atoms of each element in all, or None.
        code, element, bins: leaves of the fixed atoms.
        pose: how the cube lies in the caller's frame, see `Tokens`.
        properties: wanted values by name.
        lattice: of a crystal, see `lattice.form_of`. nats: ln p of its composition and lattice.
        profile: levels of the wanted powder profile, () = not asked for.
    """

    atoms: tuple[int, int]
    due: Int[np.ndarray, "k"]
    composition: Int[np.ndarray, "k"] | None
    code: Int[np.ndarray, "f"]
    element: Int[np.ndarray, "f"]
    bins: Int[np.ndarray, "f 3"]
    pose: Float[np.ndarray, "4 3"] | None
    properties: Mapping[str, float]
    lattice: Float[np.ndarray, "6"] | None = None
    nats: float = 0.0
    profile: tuple[int, ...] = ()


def wish_of(
    tokenizer: Tokenizer,
    prompt: Prompt,
    key: tuple[int, int],
    offset: float = 0.0,
) -> Wish:
    """The constraints of a prompt; fixed atoms are laid into the cube at random, as a function of the key.

    Args:
        offset: how far the middle of fixed atoms lies from that of the cube along each axis, Å (normal); for a network that was not
            trained with given atoms and takes the middle of the cube for that of the molecule.

    Raises:
        InputError: constraints that contradict each other, exceed the cube, or name what the tokenizer does not hold.
    """
    c = tokenizer.config
    if c.corners:
        prompt = corners.asked(prompt, c.max_atoms)
    if prompt.graph is not None or prompt.crystal:
        raise InputError("octree: expected a molecule to be drawn de novo, got a graph or a crystal's facts; use another model")
    allowed, (fewest, most) = composition.limits_of(prompt, c.elements, c.max_atoms)
    wanted = prompt.composition
    counts = None
    if wanted is not None:
        if foreign := sorted(set(wanted) - set(c.elements)):
            raise InputError(f"composition: expected elements {' '.join(c.elements)}, got {' '.join(foreign)}; use another model")
        counts = np.array([wanted.get(e, 0) for e in c.elements])
        total = int(counts.sum())
        if total > c.max_atoms or total < 1:
            raise InputError(f"composition: expected 1 to {c.max_atoms} atoms for this model, got {total}; change the formula")
        if not fewest <= total <= most:
            raise InputError(f"composition: expected {fewest} to {most} atoms (n_atoms=), got {total}; leave one of the two out")
        if (counts[~allowed] > 0).any():
            raise InputError("composition: expected only the elements in elements=, got others; leave one of the two out")
        fewest = most = total
    fixed = prompt.fixed if prompt.scaffold is None else scaffold_atoms(prompt.scaffold, key)
    if prompt.fixed is not None and prompt.scaffold is not None:
        raise InputError("octree: expected fixed= or scaffold=, got both; put all given atoms into fixed=")
    due = np.where(allowed, ANY if counts is None else counts, 0)
    if fixed is None:
        nothing = np.zeros(0, dtype=np.int64)
        return Wish((fewest, min(most, c.max_atoms)), due, counts, nothing, nothing, nothing.reshape(0, 3), None, prompt.properties)
    code, element, bins, pose = _laid(tokenizer, fixed, key, offset)
    if len(code) > most:
        raise InputError(f"fixed: expected at most the {most} atoms of n_atoms= or the formula, got {len(code)}; fix fewer")
    held = np.bincount(element, minlength=len(c.elements))
    if counts is not None:
        if (held > counts).any():
            raise InputError("fixed: expected no more atoms of an element than the formula has, got more; change one of the two")
        due = counts - held
    if fewest > len(code) and not due.any():
        raise InputError("elements: expected an element for the atoms to be drawn, got none; allow one")
    return Wish((max(fewest, len(code)), min(most, c.max_atoms)), due, counts, code, element, bins, pose, prompt.properties)


def space_of(tokenizer: Tokenizer, prompt: Prompt) -> Space:
    """What the composition and the cell of a crystal may be.

    Raises:
        InputError: no crystal, fixed atoms, a space group, or as `sciar.nn.composition.space_of`.
    """
    c = tokenizer.config
    if not prompt.crystal:
        raise InputError("octree: expected a crystal for these weights, got a molecule to be drawn; use another model")
    if prompt.fixed is not None:
        raise InputError("octree: expected no fixed atoms in a crystal, got some; this model draws whole cells")
    if prompt.space_group is not None:
        raise InputError("spacegroup: expected a model that knows symmetry, got one that does not; use another model or leave it out")
    return composition.space_of(prompt, c.elements, c.max_atoms, c.properties)


def profile_of(tokenizer: Tokenizer, prompt: Prompt) -> tuple[int, ...]:
    """Levels of the wanted powder profile; () where none is asked for or read: then it ranks alone."""
    points = tokenizer.config.profile
    return tuple(pxrd.levels(pxrd.pattern_of(prompt.pxrd), points).tolist()) if points and prompt.pxrd is not None else ()


def crystal_wish(
    counts: Int[np.ndarray, "e"], lattice: Float[np.ndarray, "6"], nats: float, told: Mapping[str, float], profile: tuple[int, ...] = ()
) -> Wish:
    """The constraints of an octree in a cell that is drawn already: exactly these atoms."""
    nothing = np.zeros(0, dtype=np.int64)
    n = int(counts.sum())
    return Wish((n, n), counts, counts, nothing, nothing, nothing.reshape(0, 3), None, told, lattice, nats, profile)


def _laid(
    tokenizer: Tokenizer, fixed: Structure, key: tuple[int, int], offset: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Leaves of given atoms after a random turn and a shift of about `offset`."""
    tokenizer.check(fixed)
    assert fixed.positions is not None
    rng = np.random.default_rng([*key, 1])
    turn = random_rotation(rng)
    grid = tokenizer.grid
    middle = fixed.positions.mean(0)
    x = (fixed.positions - middle) @ turn.T
    room = grid.side / 2 - np.abs(x).max() - grid.step
    shift = np.clip(offset * rng.standard_normal(3), -room, room)
    p = grid.quantise(torch.from_numpy(x + shift + grid.side / 2))
    code = morton(p // grid.bins).numpy()
    order = np.argsort(code)
    element = tokenizer.codes[fixed.numbers]
    pose = np.concatenate([turn.T, [middle - shift @ turn]])
    return code[order], element[order], (p % grid.bins).numpy()[order], pose


def scaffold_atoms(scaffold: str, key: tuple[int, int]) -> Structure:
    """Atoms and positions of a fragment by RDKit's ETKDGv3, those at `*` left out; without a `*` one hydrogen gives way.

    Raises:
        InputError: not a SMILES, a fragment that cannot be embedded or has no place to grow.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDistGeom

    from sciar.convert import from_rdkit

    rng = np.random.default_rng([*key, 2])
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(scaffold)
        if mol is None or not mol.GetNumAtoms():
            raise InputError(f"scaffold: expected a SMILES such as 'c1ccccc1*', got {scaffold!r}; `*` marks where it may grow")
        open_at = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() == 0]
        for k in open_at:
            mol.GetAtomWithIdx(k).SetAtomicNum(1)
        mol = Chem.AddHs(mol)
        hydrogens = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() == 1]
        if not hydrogens:
            raise InputError(f"scaffold: expected an atom with a hydrogen to grow from, got none in {scaffold!r}; mark a place with *")
        rules = rdDistGeom.ETKDGv3()
        rules.randomSeed = int(rng.integers(2**31))
        if rdDistGeom.EmbedMolecule(mol, rules) < 0:
            raise InputError(f"scaffold: expected a fragment RDKit can embed, got {scaffold!r}; give coordinates with fixed=")
    gone = open_at or [int(rng.choice(hydrogens))]
    whole = from_rdkit(mol)
    return whole.subset(np.setdiff1d(np.arange(whole.n_atoms), gone))


def allowed_bytes(
    level: Int[Tensor, "b"],
    left: Int[Tensor, "b"],
    made: Int[Tensor, "b"],
    floor: Int[Tensor, "b"],
    atoms: Int[Tensor, "b 2"],
    held: Int[Tensor, "b"],
    required: Int[Tensor, "b"],
) -> Bool[Tensor, "b 255"]:
    """The bytes 1 … 255 from which the wanted number of atoms can still be reached.

    Every open node ends in at least one atom, and in as many as are fixed inside it; a node of level l ends in at most 8^l.

    Args:
        level, left: of the node, and the open nodes of its level, itself included.
        made: nodes of the next level so far.
        floor: fewest atoms the open nodes and those made can end in.
        atoms: (fewest, most).
        held: atoms fixed inside the node. required: children they lie in.
    """
    device = level.device
    byte = torch.arange(1, 256, device=device)
    popcount = POPCOUNT.to(device)
    capacity = 1 << (3 * (level.clamp(min=1) - 1))
    fewest = -(-atoms[:, 0] // capacity) - made - 8 * (left - 1)
    most = atoms[:, 1] - floor + held.clamp(min=1) - held + popcount[required]
    bits = popcount[byte]
    return (bits >= fewest[:, None]) & (bits <= most[:, None]) & ((byte & required[:, None]) == required[:, None])


@dataclass(frozen=True, slots=True)
class Room:
    """Which places in a cell an atom can take, where the model draws them one after the other; else which finished structures will do.

    Args:
        elements: symbols. min_distance: between any two atoms, Å.
        valence: no atom gets more neighbours (see `BOND_MARGIN`) than its largest valence.
    """

    elements: tuple[str, ...]
    min_distance: float
    valence: bool

    def free(
        self, low: Float[Tensor, "3"], bins: int, step: float, placed: Float[Tensor, "m 3"], kinds: Int[Tensor, "m"]
    ) -> Bool[Tensor, "k x y z"]:
        """For each element the free places of a cell with lowest corner `low`, given the atoms placed so far."""
        k = len(self.elements)
        reach = max(self.min_distance, 2.5 if self.valence else 0.0) + bins * step
        near = ((placed - low).norm(dim=-1) < reach + bins * step).nonzero()[:, 0]
        axes = (low[:, None] + step * torch.arange(bins, device=low.device) - placed[near][..., None]).square()  # m 3 bins
        squares = axes[:, 0, :, None, None] + axes[:, 1, None, :, None] + axes[:, 2, None, None, :]
        clear = (squares >= self.min_distance**2 - 1e-9).all(0)
        if not self.valence:
            return clear.expand(k, bins, bins, bins)
        longest, valences = (t.to(low.device) for t in _neighbour_table(self.elements))
        own = (placed[:, None] - placed).square().sum(-1) < longest[kinds[:, None], kinds] ** 2
        full = (own.sum(1) - 1 >= valences[kinds])[near]
        out = []
        for e in range(k):
            bonded = squares < (longest[e, kinds[near]] ** 2)[:, None, None, None]
            out.append(clear & (bonded.sum(0) <= valences[e]) & ~bonded[full].any(0))
        return torch.stack(out)

    def kept(self, x: Float[Tensor, "n 3"], kinds: Int[Tensor, "n"]) -> bool:
        """Whether a whole structure keeps its distances and valences."""
        apart = torch.cdist(x.double(), x.double()) + torch.eye(len(x), device=x.device) * 1e3
        if bool((apart < self.min_distance - 1e-9).any()):
            return False
        if not self.valence:
            return True
        longest, valences = (t.to(x.device) for t in _neighbour_table(self.elements))
        return bool(((apart < longest[kinds[:, None], kinds]).sum(1) <= valences[kinds]).all())


@lru_cache(maxsize=8)
def _neighbour_table(elements: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Longest distance of neighbours (k k), Å, and largest valence (k) of elements."""
    from rdkit import Chem

    table = Chem.GetPeriodicTable()
    radius = torch.tensor([table.GetRcovalent(e) for e in elements])
    largest = [max((v for (z, _), vs in VALENCES.items() if z == NUMBERS[e] for v in vs), default=8) for e in elements]
    return radius[:, None] + radius + BOND_MARGIN, torch.tensor(largest)
