"""Generate molecules, crystals and graphs: checked RDKit, pymatgen and networkx objects."""

__version__ = "0.1.0"
