"""Can a composition be charge neutral? The rule of SMACT and CDVAE."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import gcd

STATES = "smact14"  # the list of oxidation states that CDVAE used; SMACT's own default has changed since


def charge_balanced(composition: Mapping[str, int]) -> bool:
    """Whether common oxidation states add up to zero with the anions the most electronegative; metals and single elements pass.

    Args:
        composition: atoms per element symbol.

    Source: Davies et al., SMACT, Chem 1 (2016) 617; as in the evaluation of Xie et al., CDVAE, ICLR 2022.

    >>> charge_balanced({"Li": 1, "Fe": 1, "P": 1, "O": 4}), charge_balanced({"Na": 2, "Cl": 1}), charge_balanced({"Ni": 3, "Al": 1})
    (True, False, True)
    """
    unit = gcd(*composition.values())
    return _balanced(tuple(sorted((symbol, count // unit) for symbol, count in composition.items())))


@lru_cache(maxsize=65_536)
def _balanced(units: tuple[tuple[str, int], ...]) -> bool:
    from smact.screening import smact_validity

    if len(units) == 1:
        return True
    formula = "".join(f"{symbol}{count}" for symbol, count in units)
    return bool(smact_validity(formula, use_pauling_test=True, include_alloys=True, oxidation_states_set=STATES))
