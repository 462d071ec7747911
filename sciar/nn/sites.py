"""Joint denoiser of a crystal's free coordinates and lattice: an equivariant network over the neighbours of one atom of each orbit.

All atoms of an orbit have the same invariant state, so the network keeps one state per orbit and looks at the neighbours of its first
atom; what it answers is projected on what the symmetry leaves free. A drawn crystal therefore has its space group exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sciar.nn.embedding import Fourier, RadialBasis

REACH = 10.0  # Å; the radial basis ends there
STRAINS = (0.003, 0.2)  # errors of lattice numbers that are learnt to be removed where every atom is free
REPLACED = (0.05, 0.02)  # errors of positions (Å) and of lattice numbers of a crystal some of whose elements were replaced
ASTRAY = 0.25  # Å off on average: in another setting, or not like it at all
LAST = (0.01, 0.003)  # errors of positions (Å) and of lattice numbers at which denoising ends


def matrix(form: Float[Tensor, "b 6"]) -> Float[Tensor, "b 3 3"]:
    """Lattice vectors in Å as rows, see `lattice.form_of`."""
    a, b, c = form[:, :3].exp().unbind(-1)
    zero = torch.zeros_like(a)
    rows = [a, zero, zero, form[:, 3] * b, b, zero, form[:, 4] * c, form[:, 5] * c, c]
    return torch.stack(rows, -1).view(-1, 3, 3)


def forms(cell: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 6"]:
    """Six numbers of any cells, see `lattice.form_of`; `matrix` is the inverse up to a rotation."""
    with torch.autocast(cell.device.type, enabled=False):
        lower = torch.linalg.cholesky(cell.float() @ cell.float().mT)
    a, b, c = lower.diagonal(dim1=1, dim2=2).unbind(-1)
    return torch.stack([a.log(), b.log(), c.log(), lower[:, 1, 0] / b, lower[:, 2, 0] / c, lower[:, 2, 1] / c], -1)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """What does not change while a crystal is denoised; b crystals, o orbits, n atoms, all in fractions of the conventional cell.

    Args:
        directions, offset: x = directions u + offset of each orbit. size: its atoms in the primitive cell; 0 = padding.
        owner: the orbit of each atom. rotation, translation: its image of the orbit's first atom. real: which atoms are no padding.
        primitive: rows are primitive vectors.
        basis, constant: of the crystal system, see `wyckoff.lattice_form`.
    """

    directions: Float[Tensor, "b o 3 3"]
    offset: Float[Tensor, "b o 3"]
    size: Int[Tensor, "b o"]
    owner: Int[Tensor, "b n"]
    rotation: Float[Tensor, "b n 3 3"]
    translation: Float[Tensor, "b n 3"]
    real: Bool[Tensor, "b n"]
    primitive: Float[Tensor, "b 3 3"]
    basis: Float[Tensor, "b 6 6"]
    constant: Float[Tensor, "b 6"]

    @classmethod
    def of_atoms(cls, mask: Bool[Tensor, "b n"]) -> Frame:
        """Crystals without symmetry: an orbit for every atom, all its coordinates and all six lattice numbers free."""
        b, n = mask.shape
        one, six = torch.eye(3, device=mask.device), torch.eye(6, device=mask.device)
        each, nothing = one.expand(b, n, 3, 3), one.new_zeros(b, n, 3)
        owner = torch.arange(n, device=mask.device).expand(b, n)
        return cls(each, nothing, mask.long(), owner, each, nothing, mask, one.expand(b, 3, 3), six.expand(b, 6, 6), one.new_zeros(b, 6))

    def cell(self, lattice: Float[Tensor, "b 6"]) -> Float[Tensor, "b 3 3"]:
        """Conventional cells; see `wyckoff.cell_of`."""
        return matrix(torch.einsum("bij,bj->bi", self.basis, lattice) + self.constant)

    def resized(self, lattice: Float[Tensor, "b 6"], other: Float[Tensor, "b 6"]) -> Float[Tensor, "b 6"]:
        """Lattice numbers of the same shape and of the volume of the other ones."""
        lengths = (self.basis[:, :3] != 0).any(1)
        wanted, own = (torch.linalg.slogdet(self.cell(x)).logabsdet for x in (other, lattice))
        return lattice + lengths * ((wanted - own) / 3)[:, None]

    def strains(self, cell: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 6 3 3"]:
        """Symmetric strain per unit of each free lattice number: sym(L⁻¹ ∂L/∂p)."""
        d = torch.zeros(len(cell), 6, 3, 3, device=cell.device, dtype=cell.dtype)  # ∂L by each entry of the form
        for k in range(3):
            d[:, k, k] = cell[:, k]
        d[:, 3, 1, 0] = cell[:, 1, 1]
        d[:, 4, 2, 0] = cell[:, 2, 2]
        d[:, 5, 2, 1] = cell[:, 2, 2]
        free = torch.einsum("bkj,bkxy->bjxy", self.basis, d)
        strain = torch.linalg.solve_triangular(cell[:, None], free, upper=False)
        return (strain + strain.transpose(-1, -2)) / 2

    def first(self, u: Float[Tensor, "b o 3"]) -> Float[Tensor, "b o 3"]:
        """First atom of each orbit."""
        return torch.einsum("boij,boj->boi", self.directions, u) + self.offset

    def projected(self, cell: Float[Tensor, "b 3 3"], vectors: Float[Tensor, "b o 3"]) -> Float[Tensor, "b o 3"]:
        """The change of the free coordinates that comes nearest to a shift of each first atom by a Cartesian vector in Å."""
        rows = self.directions.transpose(-1, -2) @ cell[:, None]  # Å per unit of each free coordinate
        gram = rows @ rows.transpose(-1, -2)
        unused = (rows.abs().sum(-1) == 0).float()
        return torch.linalg.solve(gram + torch.diag_embed(unused), (rows @ vectors[..., None]).squeeze(-1))

    def shifted(self, cell: Float[Tensor, "b 3 3"], change: Float[Tensor, "b o 3"]) -> Float[Tensor, "b o 3"]:
        """Å by which a change of the free coordinates moves the first atoms."""
        return torch.einsum("boij,boj->boi", self.directions, change) @ cell


class Sites(nn.Module):
    """û = u + projection of Σ_j φ_ij r̂_ij, p̂ = p + projection of Σ ψ_ij r̂_ij r̂_ijᵀ; preconditioned as EDM with c_skip = 1.

    Args:
        elements: atomic numbers it may be given. facts: how many values each fact about a position has.
        width: of its states. layers: rounds of messages.
        neighbours: of each atom, the nearest ones; their weight falls to zero at the farthest, so that ties do not break symmetry.
        sigma_data, strain_data: spread of what is left to know about a position (Å) and a lattice number.
        known: features of an element, of which it may be given by how much they differ from those of the element that it replaced.
    """

    def __init__(
        self,
        elements: int,
        facts: Sequence[int],
        width: int,
        layers: int,
        neighbours: int,
        sigma_data: float = 0.7,
        strain_data: float = 0.15,
        known: int = 0,
    ) -> None:
        super().__init__()
        self.neighbours, self.layers = neighbours, layers
        self.sigma_data, self.strain_data = sigma_data, strain_data
        self.channels = 16
        self.element, self.composition, self.whole = nn.Embedding(elements, width), nn.Embedding(elements, width), nn.Linear(width, width)
        self.facts = nn.ModuleList(nn.Embedding(size, width) for size in facts)
        self.levels = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.fourier, self.radial = Fourier(16, 0.05, 1.0), RadialBasis(40, REACH)
        self.ends = nn.ModuleList(nn.Linear(width, 2 * width, bias=False) for _ in range(layers))
        self.distance = nn.ModuleList(nn.Linear(40, width) for _ in range(layers))
        self.angle = nn.ModuleList(nn.Linear(self.channels, width, bias=False) for _ in range(layers - 1))
        self.message = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.vector = nn.ModuleList(nn.Linear(width, self.channels, bias=False) for _ in range(layers - 1))
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.update = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width + self.channels, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(layers - 1)
        )
        self.push = nn.Linear(width, 2, bias=False)
        if known:
            self.replaced = nn.Linear(known, width)

    def forward(
        self,
        frame: Frame,
        u: Float[Tensor, "b o 3"],
        lattice: Float[Tensor, "b 6"],
        sigma: Float[Tensor, "b"],
        strain: Float[Tensor, "b"],
        element: Int[Tensor, "b o"],
        facts: Int[Tensor, "b o f"],
        replaced: Float[Tensor, "b o k"] | None = None,
    ) -> tuple[Float[Tensor, "b o 3"], Float[Tensor, "b 6"]]:
        """Estimates of the free coordinates and lattice numbers, their errors assumed `sigma` Å and `strain`.

        `replaced`: they are those of a crystal of other elements; what the elements have more of than those.
        """
        exact = torch.autocast(u.device.type, enabled=False)  # bf16 would round a coordinate to 0.02 Å
        with exact:
            cell = frame.cell(lattice)
            edges = self._edges(frame, u, cell)
        states = self.states(frame, element, facts)
        if replaced is not None:
            states = states + self.replaced(replaced)
        pushes = self._network(frame, *edges, sigma, strain, states)
        with exact:
            vector, weight = edges[0], edges[3]
            pushes = pushes.float() * weight[..., None]
            shift = torch.einsum("bok,bokx->box", pushes[..., 0], vector)
            share = frame.size / frame.size.sum(1, keepdim=True).clamp(min=1)
            stress = torch.einsum("bo,bok,bokx,boky->bxy", share, pushes[..., 1], vector, vector)
            scale = sigma * self.sigma_data * (sigma**2 + self.sigma_data**2).rsqrt()
            moved = u + frame.projected(cell, scale[:, None, None] * shift)
            strains = frame.strains(cell)
            gram = torch.einsum("bixy,bjxy->bij", strains, strains)
            unused = (gram.diagonal(dim1=-2, dim2=-1) == 0).float()
            wanted = torch.einsum("bixy,bxy->bi", strains, stress)
            change = torch.linalg.solve(gram + torch.diag_embed(unused), wanted)
            scale = strain * self.strain_data * (strain**2 + self.strain_data**2).rsqrt()
            return moved, lattice + scale[:, None] * change

    def states(self, frame: Frame, element: Int[Tensor, "b o"], facts: Int[Tensor, "b o f"]) -> Float[Tensor, "b o d"]:
        """What is known of each orbit before its surroundings: its element, its position, the composition of the cell."""
        share = (frame.size / frame.size.sum(1, keepdim=True).clamp(min=1))[..., None]
        whole = self.whole((share * self.composition(element)).sum(1))
        own: Tensor = self.element(element)
        for k, part in enumerate(self.facts):
            own = own + part(facts[..., k])
        return own + whole[:, None]

    def _edges(self, frame: Frame, u: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vectors in Å, lengths, orbits and weights of the nearest atoms around each orbit's first one: (b o k …)."""
        primitive = frame.primitive @ cell
        to_primitive = torch.linalg.inv(frame.primitive)
        first = frame.first(u)
        own = first.gather(1, frame.owner[..., None].expand(-1, -1, 3))
        atoms = torch.einsum("bnij,bnj->bni", frame.rotation, own) + frame.translation
        apart = (atoms[:, None] - first[:, :, None]) @ to_primitive[:, None]
        apart = apart - apart.round()
        reach = torch.arange(-1, 2, device=u.device, dtype=u.dtype)
        images = torch.cartesian_prod(reach, reach, reach)
        vectors = (apart @ primitive[:, None])[:, :, :, None] + (images @ primitive)[:, None, None]
        squares = vectors.square().sum(-1)
        squares = squares.masked_fill(~frame.real[:, None, :, None] | (squares < 1e-6), torch.inf).flatten(2)
        k = min(self.neighbours, squares.shape[-1])
        nearest, index = squares.topk(k, dim=-1, largest=False)
        vector = vectors.flatten(2, 3).gather(2, index[..., None].expand(-1, -1, -1, 3))
        present = torch.isfinite(nearest)
        length = torch.where(present, nearest, REACH**2).sqrt()
        farthest = length.amax(-1, keepdim=True)
        weight = (1 - (length / farthest).square()).square() * present
        source = frame.owner[:, None].expand(-1, index.shape[1], -1).gather(2, index // len(images))
        return vector / length[..., None], length, source, weight

    def _network(
        self,
        frame: Frame,
        vector: Tensor,
        length: Tensor,
        source: Tensor,
        weight: Tensor,
        sigma: Tensor,
        strain: Tensor,
        state: Tensor,
    ) -> Float[Tensor, "b o k 2"]:
        """What each neighbour adds to the shift of an atom and to the stress of the cell, of order one."""
        b, o, k = length.shape
        levels = self.levels(torch.cat([self.fourier(sigma.log() / 4), self.fourier(strain.log() / 4)], -1))
        there = (frame.size > 0).flatten().nonzero()[:, 0]  # half of a padded batch is padding
        row = torch.zeros(b * o, dtype=torch.long, device=there.device)
        row[there] = torch.arange(len(there), device=there.device)
        pick = row[(source + o * torch.arange(b, device=there.device)[:, None, None]).view(b * o, k)[there]].flatten()
        h = state.flatten(0, 1)[there] + levels[there // o]
        radial = self.radial.rounded(length.view(b * o, k)[there], h.dtype)
        weight, vector = weight.view(b * o, k, 1)[there].to(h.dtype), vector.view(b * o, k, 3)[there].to(h.dtype)
        seen = torch.zeros(0)
        for i in range(self.layers):
            left, right = self.ends[i](self.norm[i](h)).chunk(2, -1)
            m = left[:, None] + right.index_select(0, pick).view(-1, k, right.shape[-1]) + self.distance[i](radial)
            if i:
                m = m + self.angle[i - 1](vector @ seen)
            m = F.silu(self.message[i](F.silu(m)))
            if i + 1 < self.layers:
                seen = vector.transpose(-1, -2) @ (self.vector[i](m) * weight)  # rows 3 c
                total = torch.cat([0.2 * (m * weight).sum(1), seen.square().sum(1)], -1)
                h = h + self.update[i](torch.cat([self.norm[i](h).to(total.dtype), total], -1))
        answer = torch.zeros(b * o, k, 2, device=h.device, dtype=m.dtype)
        answer[there] = self.push(m)
        return answer.view(b, o, k, 2)


def denoising_loss(
    sites: Sites,
    frame: Frame,
    u: Float[Tensor, "b o 3"],
    lattice: Float[Tensor, "b 6"],
    element: Int[Tensor, "b o"],
    facts: Int[Tensor, "b o f"],
    free: Int[Tensor, "b o"],
    used: Bool[Tensor, "b 6"],
    levels: tuple[Float[Tensor, "b"], Float[Tensor, "b"]],
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Squared errors of the estimates, weighted as EDM: "sites" per free coordinate of an atom, "cell" per free lattice number.

    Args:
        free: free coordinates of each orbit. used: free lattice numbers. levels: errors of positions (Å) and lattice numbers.
    """
    sigma, strain = levels
    with torch.autocast(u.device.type, enabled=False):
        noisy_lattice = lattice + strain[:, None] * used * torch.randn(lattice.shape, generator=generator, device=u.device)
        cell = frame.cell(noisy_lattice)
        noise = frame.projected(cell, sigma[:, None, None] * torch.randn(u.shape, generator=generator, device=u.device))
    clean_u, clean_lattice = sites(frame, u + noise, noisy_lattice, sigma, strain, element, facts)
    with torch.autocast(u.device.type, enabled=False):
        off = frame.shifted(cell, clean_u - u).square().sum(-1)
        weight = frame.size * (free > 0)
        per = (off / free.clamp(min=1) * weight).sum(1) / weight.sum(1).clamp(min=1)
        s, d = sigma**2, sites.sigma_data**2
        of_sites = (per * (s + d) / (s * d)).sum() / (weight.sum(1) > 0).sum().clamp(min=1)
        s, d = strain**2, sites.strain_data**2
        off_cell = ((clean_lattice - lattice).square() * used).sum(1) / used.sum(1)
        return {"sites": of_sites, "cell": (off_cell * (s + d) / (s * d)).mean()}


def replacement_loss(
    sites: Sites,
    frame: Frame,
    start: tuple[Float[Tensor, "b o 3"], Float[Tensor, "b 6"]],
    truth: tuple[Float[Tensor, "b o 3"], Float[Tensor, "b 6"]],
    replaced: Float[Tensor, "b o k"],
    element: Int[Tensor, "b o"],
    facts: Int[Tensor, "b o f"],
) -> Float[Tensor, ""]:
    """Root mean square displacements, in units of the errors that are assumed, of what is put right in one step from a like crystal.

    A crystal whose start is off by `ASTRAY` on average, which is in another setting or is not like it at all, has no part in it.
    """
    with torch.autocast(start[0].device.type, enabled=False):
        lattice = frame.resized(start[1], truth[1])
        cell = frame.cell(truth[1])
    found = sites(frame, start[0], lattice, *assumed(start[0]), element, facts, replaced)

    def off(u: Tensor) -> Tensor:
        change = u - truth[0]
        squares = frame.shifted(cell, change - change.round()).square().sum(-1) * frame.size
        return (squares.sum(1) / frame.size.sum(1) + 1e-8).sqrt()

    with torch.autocast(start[0].device.type, enabled=False):
        errors = off(found[0]) / REPLACED[0] + ((found[1] - truth[1]).square().sum(1) + 1e-8).sqrt() / REPLACED[1]
        near = off(start[0]) < ASTRAY
        return (errors * near).sum() / near.sum().clamp(min=1)


def assumed(u: Float[Tensor, "b o 3"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Errors that are assumed of numbers of a like crystal, see `REPLACED`."""
    position, lattice = (torch.full((len(u),), error, device=u.device) for error in REPLACED)
    return position, lattice


def atoms_loss(
    sites: Sites,
    mask: Bool[Tensor, "b n"],
    x: Float[Tensor, "b n 3"],
    lattice: Float[Tensor, "b 6"],
    element: Int[Tensor, "b n"],
    sigma: float,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """`denoising_loss` of crystals without symmetry, noise levels uniform in the logarithm; `sigma`: the largest of the positions, Å."""
    (low, high), (lowest, most) = (0.02, sigma), STRAINS
    draw = torch.rand(2, len(x), generator=generator, device=x.device)
    levels = low * (high / low) ** draw[0], lowest * (most / lowest) ** draw[1]
    free, used = 3 * mask.long(), torch.ones_like(lattice, dtype=torch.bool)
    nothing = element.new_zeros(*element.shape, 0)
    return denoising_loss(sites, Frame.of_atoms(mask), x, lattice, element, nothing, free, used, levels, generator)


def denoised(
    sites: Sites,
    frame: Frame,
    u: Float[Tensor, "b o 3"],
    lattice: Float[Tensor, "b 6"],
    element: Int[Tensor, "b o"],
    facts: Int[Tensor, "b o f"],
    first: tuple[float, float],
    steps: int,
    fresh: Float[Tensor, "s b o 3"] | None = None,
    churn: float = 0.0,
) -> tuple[Float[Tensor, "b o 3"], Float[Tensor, "b 6"]]:
    """Free coordinates and lattice after `steps` noise levels, each with some of the noise `fresh` added before (churn).

    Args:
        first: errors at the beginning, of positions (Å) and of lattice numbers. fresh: normal numbers for steps - 2 steps.
    """
    sigmas, strains = (np.geomspace(start, last, steps) for start, last in zip(first, LAST, strict=True))
    for i, (sigma, strain) in enumerate(zip(sigmas, strains, strict=True)):
        if fresh is not None and churn and 0 < i < steps - 1:
            with torch.autocast(u.device.type, enabled=False):
                kick = sigma * ((1 + churn) ** 2 - 1) ** 0.5 * fresh[i - 1].to(u.device)
                u, sigma = u + frame.projected(frame.cell(lattice), kick), sigma * (1 + churn)
        now = (torch.full((len(u),), float(level), device=u.device) for level in (sigma, strain))
        clean_u, clean_lattice = sites(frame, u, lattice, *now, element, facts)
        last = i + 1 == steps
        u = clean_u + (0.0 if last else float(sigmas[i + 1] / sigma)) * (u - clean_u)
        lattice = clean_lattice + (0.0 if last else float(strains[i + 1] / strain)) * (lattice - clean_lattice)
    return u, lattice
