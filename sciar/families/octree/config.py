"""Sizes and choices of the octree family's network."""

from __future__ import annotations

from dataclasses import dataclass

from sciar.errors import InputError
from sciar.family import check_choices


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and choices; each choice is one row of the ablation table.

    Args:
        width, heads, layers: of the trunk.
        layout: "interleaved", "queries" or "fused", see the module.
        waves: "published", "axes", "sphere" or, of crystals, "periodic", see sciar/nn/rotary.py, or "none". shortest, longest:
            wavelengths of "axes" and "sphere", Å.
        values: values are turned too, so that displacements are read and not only looked up.
        around: events know the distances from their children to all cubes that are known to hold atoms, see surroundings.py.
        pair: attention asks for and reads features of displacements, beside keys and values; False = as published.
        refiner_layers, refiner_width: of the joint refiner of all atoms (of crystals and the cell, see sciar/nn/sites.py) at the end
            (0 layers = none). refiner_sigma: largest error it learns to remove, Å. refiner_weight: of its loss.
        header_width, header_weight: of what draws composition and cell of crystals.
        place: how the place of an atom in its cell is drawn: "bins", one axis after the other; "diffusion", all three at once;
            "refined", all atoms together by the refiner, which starts from the middles of the cells.
        counts: an event knows how many nodes of its level are open. condition: on number of atoms, composition, properties.
        own_null: bins of what is no atom have an id of their own; else they share the middle bin, as published.
        vocabulary: rows of the content table and classes of the element head; 0 = as many as needed (published: 602).
        tree_weight, element_weight, place_weight, property_weight: of the loss parts.
            The refiner shares nothing with the rest: with refiner_weight 0 it is left alone, with the other four 0 nothing else is trained.
            Nor does the header of crystals, which is trained with the tree.
        property_head: there is one although property_weight is 0, so that a stage that trains something else keeps it.
        jitter, shift: training only, of molecules (crystals get any origin): a random shift in cells, normal and whole (-shift … shift).
        deletion: training only: most of the level-1 nodes that are left out.
        profile_drop: training only: share of the crystals whose powder profile is hidden.
        given: training only: share of the records of which some atoms are known beforehand, as fixed ones are in drawing; 0 = fixed
            atoms are met only when their turn comes.
        dropout: of embeddings and head inputs. drop_block: of whole blocks, rising linearly with depth.
    """

    width: int = 256
    heads: int = 8
    layers: int = 8
    layout: str = "fused"
    waves: str = "none"
    shortest: float = 0.6
    longest: float = 40.0
    values: bool = False
    around: bool = True
    pair: bool = True
    refiner_layers: int = 6
    refiner_width: int = 96
    refiner_sigma: float = 1.0
    refiner_weight: float = 1.0
    header_width: int = 192
    header_weight: float = 0.1
    place: str = "refined"
    counts: bool = True
    condition: bool = True
    own_null: bool = True
    vocabulary: int = 0
    tree_weight: float = 1.0
    element_weight: float = 1.0
    place_weight: float = 0.3
    property_weight: float = 0.0
    property_head: bool = False
    jitter: float = 0.1
    shift: int = 0
    deletion: float = 0.0
    profile_drop: float = 0.3
    given: float = 0.0
    dropout: float = 0.0
    drop_block: float = 0.0

    def __post_init__(self) -> None:
        choices = {
            "layout": ("interleaved", "queries", "fused"),
            "waves": ("published", "axes", "sphere", "periodic", "none"),
            "place": ("bins", "diffusion", "refined"),
        }
        check_choices(self, choices)
        if self.around and self.deletion:
            raise InputError(
                "ModelConfig.around: expected False with deletion above 0, got True: deleted nodes have no place; set one of the two"
            )
        if self.given and not self.around:
            raise InputError("ModelConfig.around: expected True with given above 0, got False; set one of the two")
        if not any(
            (self.tree_weight, self.element_weight, self.place_weight, self.property_weight, self.refiner_layers * self.refiner_weight)
        ):
            raise InputError("ModelConfig.tree_weight: expected a part of the loss above 0, got none")
        if self.place == "refined" and not self.refiner_layers:
            raise InputError("ModelConfig.refiner_layers: expected at least 1 for place='refined', got 0")
        if self.waves == "none" and not self.pair:
            raise InputError("ModelConfig.pair: expected True for waves='none', got False: nothing would tell where events lie")
        if self.width % self.heads or self.width // self.heads % 2:
            raise InputError(f"ModelConfig.heads: expected a divisor of width {self.width} with an even quotient, got {self.heads}")
