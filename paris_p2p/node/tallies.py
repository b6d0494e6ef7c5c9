"""What one peer counts of its own work in a run, since it was started."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Spells(BaseModel):
    """Sums up how long something took, each time."""

    model_config = ConfigDict(frozen=True)

    count: int = 0
    total_s: float = 0.0
    last_s: float | None = None

    def with_one(self, spell_s: float) -> Spells:
        """Adds one that took `spell_s` seconds."""
        return Spells(count=self.count + 1, total_s=self.total_s + spell_s, last_s=spell_s)


class Tallies(BaseModel):
    """Holds what a peer counted."""

    model_config = ConfigDict(frozen=True)

    trainer_restarts: int = 0  # after deaths
    publishing: Spells = Spells()  # from telling of an own card until it is the tip
    checking: Spells = Spells()  # of a card at the gate, with what is fetched for it

    def trainer_died(self) -> Tallies:
        """Counts a trainer that died."""
        return self.model_copy(update={"trainer_restarts": self.trainer_restarts + 1})

    def published(self, spell_s: float) -> Tallies:
        """Counts an own card that became the tip `spell_s` seconds after it was told."""
        return self.model_copy(update={"publishing": self.publishing.with_one(spell_s)})

    def checked(self, spell_s: float) -> Tallies:
        """Counts a card that was measured in `spell_s` seconds."""
        return self.model_copy(update={"checking": self.checking.with_one(spell_s)})
