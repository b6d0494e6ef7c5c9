"""One table holds the codes of why cards are refused, which travel in signed refusals, and their words."""

from __future__ import annotations

REASONS = {
    "loss": "its held-out loss is worse than the lineage's best",
    "finite": "its held-out loss is not finite",
    "large": "its held-out loss is larger than a record can say",
    "diverged": "the weights that training goes on with measure far worse than they may",
    "malformed": "its files are not a well-formed checkpoint of this slot",
    "size": "its blobs are larger than the network's can be",
    "claim": "its signer did not hold the claim",
    "parent": "its parent is not the tip",
    "seq": "its seq does not follow the tip's",
    "epoch": "its epoch does not follow the tip's",
    "steps": "it counts no more steps or clips than its parent",
    "rate": "its learning rate is not its parent's",
    "notices": "its training knew fewer of the owner's notices than its parent's",
    "back": "it goes back to neither the best checkpoint nor the tip",
    "round": "its rounds break a rule of the run's crews",
    "merge": "its updates merge into another state than it says",
    "dropped": "it leaves out an update that should have counted",
    "place": "another card was signed for this place",
}
# measured: training went astray, a lower rate from the best checkpoint may help
WORSE = ("loss", "finite", "large", "diverged")
# a maker that does not lead is not told: anybody may make such cards
CODES_FOR_MAKERS = tuple(code for code in REASONS if code != "claim")
_CODES = {words: code for code, words in REASONS.items()}


def code_of(words: str) -> str:
    """Returns the code of a reason in words; what is in no table is about the files of the checkpoint."""
    return _CODES.get(words, "malformed")


def words_of(code: str) -> str:
    """Returns a code from another peer in words; a newer peer may know more of them."""
    return REASONS.get(code, f"for a reason that this version does not know ({code})")
