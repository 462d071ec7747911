"""Molecules and crystals as octrees: occupancy bytes of the nodes, then element and three sub-cell bins of every atom.

A molecule lies in a cube of space. A crystal's cube is its unit cell: coordinates are fractions, far faces are near faces, and the
cell itself is six numbers of the record.

The record also keeps the exact coordinates, so that training can turn a molecule afresh in every epoch and rebuild
its tree; drawn tokens have none and are decoded from the tree alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciar.batch import TokenArrays, token_field
from sciar.errors import InputError
from sciar.families.octree import cell as cells
from sciar.families.octree.corners import CORNER, cornered, uncornered
from sciar.families.octree.tree import Forest, Grid, expand, grow, morton
from sciar.family import Tokenizer as AbstractTokenizer
from sciar.family import moments
from sciar.lattice import cell_of_form, form_of, fractional, placed, primitive
from sciar.prompt import Prompt
from sciar.reflections import NO_REFLECTIONS, kept
from sciar.structure import NUMBERS, SYMBOLS, Structure

VERSION = 3  # of the encoding; prepared tokens of another version are made again


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """What the tokenizer can hold and how finely.

    Args:
        elements: symbols.
        levels: halvings of the cube. cell: side of a leaf, Å. step: of a coordinate inside it, Å.
            The cube has a side of 2^levels · cell; published for QM9: 6, 0.24, 0.01.
        periodic: crystals: the cube is the unit cell, `cell` and `step` are fractions of a lattice vector, and 2^levels · cell is 1.
        corners: crystals as published: molecules of their atoms and of the eight corners of the cell, see corners.py, which are of the
            element X, to be listed, and count as atoms.
        pose: "random": as the molecule lies, turned anew in every epoch; "canonical": along its principal axes.
        max_atoms: most atoms of one molecule; also bounds what is drawn.
        properties: entries of `Structure.info` that can be asked for and predicted.
        profile: points of the powder profile that a crystal can be drawn for (see `sciar.pxrd.levels`); 0 = none.
    """

    elements: tuple[str, ...] = ("H", "C", "N", "O", "F")
    levels: int = 5
    cell: float = 0.48
    step: float = 0.01
    periodic: bool = False
    corners: bool = False
    pose: str = "random"
    max_atoms: int = 32
    properties: tuple[str, ...] = ("mu_D", "alpha_bohr3", "homo_eV", "lumo_eV", "gap_eV", "Cv_cal_molK", "U0_Ha")
    profile: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", tuple(self.elements))
        object.__setattr__(self, "properties", tuple(self.properties))
        unknown = [e for e in self.elements if e not in NUMBERS]
        if unknown or not self.elements:
            raise InputError(f"TokenizerConfig.elements: expected element symbols, got {', '.join(map(str, unknown)) or 'none'}")
        if self.pose not in ("random", "canonical"):
            raise InputError(f"TokenizerConfig.pose: expected random or canonical, got {self.pose!r}")
        if abs(self.cell / self.step - round(self.cell / self.step)) > 1e-6:
            raise InputError(f"TokenizerConfig.step: expected a whole number of steps in a cell of {self.cell} Å, got {self.step} Å")
        if self.periodic and self.cell != 0.5**self.levels:
            raise InputError(
                f"TokenizerConfig.cell: expected {0.5**self.levels} for {self.levels} halvings of a unit cell, got {self.cell}; correct it"
            )
        if self.corners and (self.periodic or CORNER not in self.elements):
            raise InputError(f"TokenizerConfig.corners: expected periodic: false and {CORNER} among elements, got others; correct them")
        if self.profile and not (self.periodic and 16 <= self.profile <= 4096):
            raise InputError(f"TokenizerConfig.profile: expected 16 to 4096 points and periodic: true, or 0 for none, got {self.profile}")
        if self.max_atoms < 1:
            raise InputError(f"TokenizerConfig.max_atoms: expected at least 1, got {self.max_atoms}")


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """One molecule, leaves in Morton order.

    Args:
        tree: occupancy bytes 1 … 255 of the nodes, breadth first, coarsest first.
        element: index into the configured elements. bins: steps of the atom inside its cell.
        order: which atom of the structure a leaf is.
        positions: exact coordinates in Å about the centre of the cube, or fractions of the unit cell, for training; of drawn tokens
            what a refiner made of them.
        properties: one row, nan = not known.
        lattice: of a crystal, see `lattice.form_of`; of a molecule zeros.
        pose: rows of a rotation R and an origin o: a point x of the cube (about its centre) is R x + o in the caller's frame.
        failure: why the drawing stopped early; "" = it did not.
        exact: decode to `positions`, not to tree and bins.
        left: levels that are not drawn yet; above 0 `positions` are the middles of the nodes known so far, and elements and bins are 0.
        index, square: Miller indices and Σ|F|² in electrons² of a crystal's strongest reflections, from which training makes powder
            profiles; none if the model reads none.
    """

    tree: Int[np.ndarray, "m"] = token_field("nodes", "uint8")
    element: Int[np.ndarray, "n"] = token_field("atoms", "uint8")
    bins: Int[np.ndarray, "n 3"] = token_field("atoms", "uint8")
    order: Int[np.ndarray, "n"] = token_field("atoms", "int16")
    positions: Float[np.ndarray, "n 3"] = token_field("atoms", "float32")
    properties: Float[np.ndarray, "1 p"] = token_field("record", "float32", np.nan)
    lattice: Float[np.ndarray, "1 6"] = token_field("record", "float32")
    pose: Float[np.ndarray, "4 3"] | None = None
    failure: str = ""
    exact: bool = False
    left: int = 0
    index: Int[np.ndarray, "r 3"] = token_field("reflections", "int8", empty=(0, 3))
    square: Float[np.ndarray, "r"] = token_field("reflections", "float32", empty=(0,))


NO_CELL = np.zeros((1, 6))


class Tokenizer(AbstractTokenizer):
    """Molecule ↔ octree; decode(encode(s)) is s to half a step along each axis. A crystal comes back in its primitive Niggli cell."""

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config
        self.grid = Grid(config.levels, round(config.cell / config.step), config.step, config.periodic)
        self.codes = np.full(119, -1)
        self.codes[[NUMBERS[e] for e in config.elements]] = np.arange(len(config.elements))
        self.numbers = np.array([NUMBERS[e] for e in config.elements])

    @property
    def tolerance(self) -> float:
        """What a distance may be off after a round trip: two ends, half a step along three axes each; Å, of a crystal lattice vectors."""
        return float(np.sqrt(3)) * self.config.step

    def limits(self) -> dict[str, object]:
        return {"elements": list(self.config.elements), "max_atoms": self.config.max_atoms, "properties": list(self.config.properties)}

    def statistics(self, arrays: TokenArrays) -> dict[str, object]:
        """Mean and spread of the properties (nan left out), and how many molecules have each number of atoms."""
        sizes = np.bincount(arrays.lengths("atoms"), minlength=self.config.max_atoms + 1).tolist()
        return {"sizes": sizes, **moments(self.config.properties, arrays)}

    def check(self, structure: Structure) -> None:
        """Refuse what the family cannot hold in any orientation, or, of a crystal, with any origin.

        Raises:
            InputError: no atoms or positions, a crystal where molecules are held or a molecule where crystals are, implicit
                hydrogens, foreign elements, too many atoms, too wide for the cube, too elongated a cell, or two atoms so near that
                they could share a cell.
        """
        c = self.config
        kind = "crystal with a cell" if c.periodic or c.corners else "molecule"
        bare = c.corners and not (structure.numbers == NUMBERS[CORNER]).any()
        if structure.positions is None or (structure.cell is not None) != c.periodic or not structure.n_atoms or bare:
            raise InputError(f"octree: expected a {kind} and positions, got {structure!r}; give it coordinates or use another model")
        if structure.hydrogens is not None and structure.hydrogens.any():
            raise InputError("octree: expected explicit hydrogens, got implicit ones; add them (Chem.AddHs)")
        foreign = sorted({SYMBOLS[z] for z in structure.numbers[self.codes[structure.numbers] < 0].tolist()})
        if foreign:
            raise InputError(f"octree: expected elements {' '.join(c.elements)}, got {' '.join(foreign)}; use another model")
        if structure.n_atoms > c.max_atoms:
            raise InputError(f"octree: expected at most {c.max_atoms} atoms, got {structure.n_atoms}; raise tokenizer.max_atoms")
        if structure.cell is not None:
            self._check_cell(structure, structure.cell)
            return
        x = structure.positions
        radius = float(np.linalg.norm(x - x.mean(0), axis=1).max())
        if radius > self.grid.side / 2 - c.cell:
            raise InputError(
                f"octree: expected atoms within {self.grid.side / 2 - c.cell:.2f} Å of their middle, got {radius:.2f} Å; "
                "raise tokenizer.levels"
            )
        if structure.n_atoms > 1:
            squares = ((x[:, None] - x) ** 2).sum(-1)
            nearest = float(np.sqrt(squares[~np.eye(len(x), dtype=bool)].min()))
            if nearest <= np.sqrt(3) * c.cell:
                raise InputError(
                    f"octree: expected atoms more than {np.sqrt(3) * c.cell:.2f} Å apart, the diagonal of a cell, got {nearest:.2f} Å; "
                    "lower tokenizer.cell"
                )

    def _check_cell(self, structure: Structure, cell: np.ndarray) -> None:
        x = fractional(structure)
        if not cells.fits(form_of(cell), len(x)):
            edges = ", ".join(f"{v:.1f}" for v in np.linalg.norm(cell, axis=1))
            raise InputError(f"octree: expected a cell nearer to a cube for {len(x)} atoms, got edges of {edges} Å; use another family")
        images = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3), -1).reshape(-1, 1, 1, 3)
        apart = np.linalg.norm(((x[:, None] - x + 0.5) % 1 - 0.5 + images) @ cell, axis=-1)
        nearest = float(apart[apart > 1e-6].min(initial=np.inf)) if len(np.unique(x.round(6), axis=0)) == len(x) else 0.0
        corners = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]]) @ cell
        diagonal = float(np.linalg.norm(corners, axis=1).max()) * self.config.cell
        if len(x) > 1 and nearest <= diagonal:
            raise InputError(
                f"octree: expected atoms more than {diagonal:.2f} Å apart, the diagonal of a cell, got {nearest:.2f} Å; "
                "raise tokenizer.levels"
            )

    def encode(self, structure: Structure, prompt: Prompt | None = None, rng: np.random.Generator | None = None) -> Tokens:
        """Tokens of a molecule, or of a crystal's primitive Niggli cell.

        Args:
            structure: elements and positions; bonds and charges are not encoded.
            prompt: not used: what is given is part of the structure.
            rng: turns the molecule at random first; None = as it lies, or along its axes (`pose="canonical"`). Not used of crystals.

        Raises:
            InputError: see `check`.
        """
        structure = self._read(structure)
        self.check(structure)
        return self._encoded([structure], rng)[0]

    def encode_many(self, structures: Iterable[Structure]) -> Iterator[Tokens]:
        """Tokens of the structures that can be held, in order, the others left out; a thousand trees at once."""
        rest = map(self._read, structures)
        while chunk := list(islice(rest, 1024)):
            yield from self._encoded([s for s in chunk if self._fits(s)], None)

    def _read(self, structure: Structure) -> Structure:
        """A crystal's primitive cell, in space with its corners; what is none, and what is to be refused, as it is."""
        if structure.cell is None or structure.positions is None or not structure.n_atoms:
            return structure
        if self.config.corners:
            return cornered(primitive(structure)) if structure.numbers.all() else structure
        return primitive(structure) if self.config.periodic else structure

    def _fits(self, structure: Structure) -> bool:
        try:
            self.check(structure)
        except InputError:
            return False
        return True

    def _encoded(self, structures: Sequence[Structure], rng: np.random.Generator | None) -> list[Tokens]:
        points, lattices = [], []
        for structure in structures:
            assert structure.positions is not None
            if structure.cell is not None:
                points.append(fractional(structure))
                lattices.append(form_of(structure.cell)[None])
                continue
            lattices.append(NO_CELL)
            x = structure.positions - structure.positions.mean(0)
            if self.config.pose == "canonical":
                x = principal_axes(structure.numbers, x)
            points.append(x if rng is None else x @ random_rotation(rng).T)
        trees = self.encode_arrays([s.numbers for s in structures], points)
        names = self.config.properties
        values = [np.array([[float(s.info.get(name, np.nan)) for name in names]]) for s in structures]  # type: ignore[arg-type]
        reflections = [kept(s) if self.config.profile else NO_REFLECTIONS for s in structures]
        rows = zip(trees, points, values, lattices, reflections, strict=True)
        return [Tokens(t.tree, t.element, t.bins, t.order, x[t.order], v, lattice, index=i, square=q) for t, x, v, lattice, (i, q) in rows]

    def encode_arrays(self, numbers: Sequence[np.ndarray], positions: Sequence[np.ndarray]) -> list[Tokens]:
        """Tokens of many centred molecules (or fractions) at once, without positions, properties, cell; thousands a call are quickest.

        Raises:
            InputError: an atom outside the cube, two atoms in one cell, or a foreign element.
        """
        sizes = torch.tensor([len(z) for z in numbers])
        record = torch.arange(len(sizes)).repeat_interleave(sizes)
        x = torch.from_numpy(np.concatenate([*positions, np.zeros((0, 3))]))
        element = torch.from_numpy(self.codes[np.concatenate([*numbers, np.zeros(0, dtype=np.int64)])])
        if bool((element < 0).any()):
            raise InputError(f"octree: expected elements {' '.join(self.config.elements)}, got others; use another model")
        p, order, forest = plant(self.grid, record, x + (0 if self.config.periodic else self.grid.side / 2), len(sizes))
        leaves = forest.level == 0
        tree = torch.zeros(int((~leaves).sum()), dtype=torch.long)
        nodes = forest.lengths - sizes
        inner = forest.record[~leaves]
        tree[(nodes.cumsum(0) - nodes)[inner] + forest.place[~leaves]] = forest.byte[~leaves]
        local = order - (sizes.cumsum(0) - sizes)[record[order]]
        cuts = np.cumsum(nodes.numpy())[:-1], np.cumsum(sizes.numpy())[:-1]
        parts = zip(
            np.split(tree.numpy(), cuts[0]),
            np.split(element[order].numpy(), cuts[1]),
            np.split((p % self.grid.bins).numpy(), cuts[1]),
            np.split(local.numpy(), cuts[1]),
            strict=True,
        )
        nothing = np.full((1, len(self.config.properties)), np.nan)
        return [Tokens(t, e, b, o, np.zeros((len(o), 3)), nothing, NO_CELL) for t, e, b, o in parts]

    def decode(self, tokens: Tokens) -> Structure:
        """The molecule, in the atom order and frame it was encoded from; what cannot be read says so in `info["failure"]`."""
        return self.decode_many([tokens])[0]

    def decode_many(self, tokens: Sequence[Tokens]) -> list[Structure]:
        """`decode` of many records at once."""
        if any(t.left for t in tokens):
            return [self._preview(t) if t.left else self.decode(t) for t in tokens]
        lengths = torch.tensor([len(t.tree) for t in tokens])
        byte = torch.from_numpy(np.concatenate([np.asarray(t.tree, dtype=np.int64) for t in tokens] or [np.zeros(0, dtype=np.int64)]))
        record, code, sound = expand(byte, lengths, self.config.levels)
        found = torch.bincount(record, minlength=len(tokens)).numpy()
        centre = self.grid.centre(code, torch.zeros_like(code)).numpy() - self.grid.cell / 2
        centre -= 0 if self.config.periodic else self.grid.side / 2
        ends = np.cumsum(found)
        out = []
        for k, t in enumerate(tokens):
            fault = t.failure or self._fault(t, bool(sound[k]), int(found[k]))
            if fault:
                out.append(Structure(np.zeros(0, dtype=np.int64), info={"failure": fault}))
                continue
            x = np.asarray(t.positions) if t.exact else centre[ends[k] - found[k] : ends[k]] + np.asarray(t.bins) * self.config.step
            if t.pose is not None:
                x = x @ t.pose[:3].T + t.pose[3]
            inverse = np.argsort(t.order)
            if self.config.periodic:
                out.append(placed(Structure(self.numbers[np.asarray(t.element)][inverse]), cell_of_form(t.lattice[0]), x[inverse]))
                continue
            drawn = Structure(self.numbers[np.asarray(t.element)][inverse], x[inverse])
            out.append(uncornered(drawn) if self.config.corners else drawn)
        return out

    def _preview(self, t: Tokens) -> Structure:
        """The nodes of the finest level that is known as vertices without element; `info["side_A"]` is the side of their cubes."""
        x = np.asarray(t.positions)
        if self.config.periodic:
            cell = cell_of_form(t.lattice[0])
            side = self.config.cell * 2 ** (t.left - 1) * abs(float(np.linalg.det(cell))) ** (1 / 3)
            bare = Structure(np.zeros(len(x), dtype=np.int64), bonds=np.zeros((0, 3), dtype=np.int64), info={"side_A": side})
            return placed(bare, cell, x)
        if t.pose is not None:
            x = x @ t.pose[:3].T + t.pose[3]
        side = self.config.cell * 2 ** (t.left - 1)
        return Structure(np.zeros(len(x), dtype=np.int64), x, bonds=np.zeros((0, 3), dtype=np.int64), info={"side_A": side})

    def _fault(self, t: Tokens, sound: bool, leaves: int) -> str:
        if not sound:
            return "corrupt tokens: the occupancy bytes are no tree"
        if not leaves == len(t.element) == len(t.bins) == len(t.order):
            return f"corrupt tokens: {leaves} leaves in the tree, {len(t.element)} elements"
        if leaves > self.config.max_atoms:
            return f"corrupt tokens: {leaves} atoms, expected at most {self.config.max_atoms}"
        if sorted(np.asarray(t.order).tolist()) != list(range(leaves)):
            return "corrupt tokens: the order of the atoms is no permutation"
        if (np.asarray(t.element) >= len(self.numbers)).any() or (np.asarray(t.element) < 0).any():
            return "corrupt tokens: unknown element"
        if self.config.periodic and not (np.isfinite(t.lattice).all() and np.abs(t.lattice).max() < 10):
            return "no coordinates: the sampler diverged"
        if (np.asarray(t.bins) >= self.grid.bins).any() or (np.asarray(t.bins) < 0).any():
            return "corrupt tokens: a bin outside its cell"
        return ""


def plant(
    grid: Grid, record: Int[Tensor, "n"], x: Float[Tensor, "n 3"], records: int
) -> tuple[Int[Tensor, "n 3"], Int[Tensor, "n"], Forest]:
    """Quantised points in leaf order, which point each leaf is, and the octrees.

    Raises:
        InputError: a point outside the cube, or two points of a record in one cell.
    """
    p = grid.quantise(x)
    outside = ~grid.inside(p)
    if bool(outside.any()):
        k = int(outside.nonzero()[0, 0])
        place = ", ".join(f"{v:.2f}" for v in x[k].tolist())
        raise InputError(f"octree: expected atoms in a cube of side {grid.side:.2f}, got one at ({place}); raise tokenizer.levels")
    key, order = ((record << (3 * grid.levels)) | morton(p // grid.bins)).sort()
    if bool((key[1:] == key[:-1]).any()):
        raise InputError(f"octree: expected one atom in a cell of {grid.cell:.2f}, got two; lower tokenizer.cell")
    code = key & ((1 << (3 * grid.levels)) - 1)
    return p[order], order, grow(record[order], code, grid.levels, records)


def random_rotation(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """Haar-uniform, from a normalised Gaussian quaternion."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_quat(rng.standard_normal(4)).as_matrix()


def principal_axes(numbers: Int[np.ndarray, "n"], x: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Centred points turned so that their principal axes are x, y, z, the widest first; third moments along x and y are positive.

    Points are summed in an order that does not depend on how they are listed, so that the frame is the same to the last bit.
    A molecule whose moments coincide has no such frame of its own: it then stays near how it lies.
    """
    order = np.lexsort((*x.round(4).T, numbers))
    sorted_x = x[order]
    _, axes = np.linalg.eigh(sorted_x.T @ sorted_x)
    axes = axes[:, ::-1]
    skew = ((sorted_x @ axes[:, :2]) ** 3).sum(0)
    axes = axes * np.append(np.where(skew < 0, -1.0, 1.0), 1.0)
    axes[:, 2] *= np.sign(np.linalg.det(axes))
    return x @ axes
