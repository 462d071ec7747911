"""Which SMILES character may come next: branches, rings, brackets and valences of a kekulised SMILES.

Drawing by rejection, character by character, gives the language model's own distribution restricted to the
characters that can still end in a molecule.
"""

from __future__ import annotations

from dataclasses import dataclass, field

VALENCE = {"C": 4, "N": 3, "O": 2, "F": 1, "P": 5, "S": 6, "Cl": 1, "Br": 1, "I": 1, "B": 3, "Si": 4}
# bonds of a charged atom; anything else in brackets keeps the neutral value
CHARGED = {("N", 1): 4, ("N", -1): 2, ("O", -1): 1, ("O", 1): 3, ("C", -1): 3, ("S", -1): 1, ("S", 1): 3, ("B", -1): 4, ("P", 1): 4}
CHARGED |= {("C", 1): 3, ("Si", 1): 3, ("B", 1): 2}  # cations with an empty orbital
CHARGED |= {(halogen, -1): 0 for halogen in ("F", "Cl", "Br", "I")}
BRACKET = {"P": 5, "S": 6}  # several valences: what is in brackets need not be filled up
ORDERS = {"=": 2, "#": 3, "-": 1, "/": 1, "\\": 1}


@dataclass(slots=True)
class Writer:
    """A SMILES that is being written; `add` says whether it may go on with a character."""

    room: list[int] = field(default_factory=list)  # bonds each atom can still make
    exact: set[int] = field(default_factory=set)  # atoms in brackets: no implicit hydrogens, all bonds must be made
    bonded: set[tuple[int, int]] = field(default_factory=set)
    branches: list[int] = field(default_factory=list)
    rings: dict[str, tuple[int, int]] = field(default_factory=dict)  # digit -> (atom, order)
    here: int = -1
    order: int = 0  # of the bond just written, 0 = none
    opened: bool = False  # a branch was opened and has no atom yet
    bracket: list[str] | None = None

    def add(self, word: str) -> bool:
        """Write a character (None of it is written when the answer is False); "" ends the SMILES."""
        if self.bracket is not None:
            return self._inside(word)
        if word == "":
            return (
                self.here >= 0
                and not (self.branches or self.rings or self.order or self.opened)
                and not any(self.room[a] for a in self.exact)
            )
        if word in VALENCE:
            return self._atom(VALENCE[word])
        if word == "[":
            if not self._can_grow():
                return False
            self.bracket = []
            return True
        if self.here < 0:
            return False
        if word in ORDERS:
            if self.order or ORDERS[word] > self.room[self.here]:
                return False
            self.order = ORDERS[word]
            return True
        if word == "(":
            if self.order or self.opened or not self.room[self.here]:
                return False
            self.branches.append(self.here)
            self.opened = True
            return True
        if word == ")":
            return self._close()
        if word.isdigit() and word != "0":
            return self._ring(word)
        return False

    def _room_behind(self) -> bool:
        """Could the SMILES go on from an atom where a branch is open?"""
        return any(self.room[a] for a in self.branches)

    def _can_grow(self) -> bool:
        return self.here < 0 or self.room[self.here] >= max(self.order, 1)

    def _atom(self, valence: int, exact: bool = False) -> bool:
        order = max(self.order, 1) if self.here >= 0 else 0
        if valence < order or not self._can_grow():
            return False
        left = valence - order
        if not left and self.rings and not self._room_behind():
            return False  # a ring could never be closed
        if self.here >= 0:
            self.room[self.here] -= order
            self.bonded.add((self.here, len(self.room)))
        self.room.append(left)
        if exact:
            self.exact.add(len(self.room) - 1)
        self.here, self.order, self.opened = len(self.room) - 1, 0, False
        return True

    def _close(self) -> bool:
        if not self.branches or self.order or self.opened:
            return False
        held = {*self.branches}
        if any(self.room[a] for a in self.exact if a not in held):
            return False
        if self.rings and not any(self.room[a] for a in held):
            return False
        self.here = self.branches.pop()
        return True

    def _ring(self, digit: str) -> bool:
        order = max(self.order, 1)
        if self.opened or self.room[self.here] < order:
            return False
        if digit not in self.rings:
            if self.room[self.here] == order and not self._room_behind():
                return False
            self.rings[digit] = (self.here, order)
            self.room[self.here] -= order
            self.order = 0
            return True
        other, reserved = self.rings[digit]
        pair = (min(other, self.here), max(other, self.here))
        extra = max(order, reserved) - reserved
        order = max(order, reserved)
        if other == self.here or pair in self.bonded or self.room[other] < extra or self.room[self.here] < order:
            return False
        others_open = len(self.rings) > 1
        if others_open and self.room[self.here] == order and not self._room_behind():
            return False
        self.room[other] -= extra
        self.room[self.here] -= order
        self.bonded.add(pair)
        del self.rings[digit]
        self.order = 0
        return True

    def _inside(self, word: str) -> bool:
        """One character of [symbol chirality hydrogens charge]."""
        assert self.bracket is not None
        written = self.bracket
        if not written:
            if word not in VALENCE and (word != "H" or self.order > 1):
                return False
            written.append(word)
            return True
        if written == ["H"]:  # a hydrogen that carries the mark of a double bond
            self.bracket = None if word == "]" and self._atom(1, exact=True) else written
            return self.bracket is None
        last = written[-1]
        follows = {"@": "H+-]", "@@": "H+-]", "H": "23+-]", "2": "+-]", "3": "+-]", "+": "]", "-": "]"}
        allowed = follows.get(last, "@@@H+-]")
        if word not in (*allowed, *(("@@",) if "@@@" in allowed else ())) or ("@" in word and self.order > 1):
            return False
        if word != "]":
            written.append(word)
            return True
        symbol, charge = written[0], ("+" in written) - ("-" in written)
        hydrogens = int("3" in written) * 3 or int("2" in written) * 2 or int("H" in written)
        valence = CHARGED.get((symbol, charge), VALENCE[symbol]) - hydrogens
        if valence < 0 or not self._atom(valence, exact=symbol not in BRACKET):
            return False
        self.bracket = None
        return True
