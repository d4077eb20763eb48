"""Words that say in which order things happen, and captions with the order swapped."""

import re
from collections.abc import Sequence

# Each word stands for its pair, and back. A caption with the other word tells of the
# same things in another order, or of an event that runs backwards. Words that may just
# as well say where something is (up, left) are not among them.
PAIRS = (
    *(("before", "after"), ("first", "then"), ("finally", "initially")),
    *(("begins", "ends"), ("starts", "stops"), ("start", "stop")),
    *(("starting", "stopping"), ("opens", "closes"), ("open", "close")),
    *(("opening", "closing"), ("opened", "closed"), ("enters", "leaves")),
    *(("enter", "leave"), ("entering", "leaving"), ("appears", "disappears")),
    *(("appear", "disappear"), ("appearing", "disappearing"), ("rises", "falls")),
    *(("rise", "fall"), ("rising", "falling"), ("grows", "shrinks")),
    *(("grow", "shrink"), ("growing", "shrinking"), ("expands", "contracts")),
    *(("expand", "contract"), ("expanding", "contracting")),
    *(("approaches", "departs"), ("approach", "depart"), ("approaching", "departing")),
    *(("fills", "empties"), ("fill", "empty"), ("filling", "emptying")),
    *(("loads", "unloads"), ("load", "unload"), ("loading", "unloading")),
    *(("folds", "unfolds"), ("fold", "unfold"), ("folding", "unfolding")),
    *(("wraps", "unwraps"), ("wrap", "unwrap"), ("wrapping", "unwrapping")),
    *(("ties", "unties"), ("tie", "untie"), ("tying", "untying")),
    *(("locks", "unlocks"), ("lock", "unlock"), ("locking", "unlocking")),
    *(("plugs", "unplugs"), ("plug", "unplug"), ("plugging", "unplugging")),
    *(("joins", "separates"), ("join", "separate"), ("joining", "separating")),
)
OTHER = {word: other for pair in PAIRS for word, other in (pair, pair[::-1])}
_WORDS = re.compile(
    rf"\b({'|'.join(sorted(map(re.escape, OTHER), key=len, reverse=True))})\b", re.I
)


def swapped(caption: str) -> str | None:
    """A caption whose words of order are swapped; None if it has none.

    A word's first letter keeps its case.
    """
    changed, count = _WORDS.subn(_other, caption)
    return changed if count else None


def _other(found: re.Match[str]) -> str:
    word = found[0]
    other = OTHER[word.lower()]
    return other.capitalize() if word[0].isupper() else other


def swapped_captions(captions: Sequence[str]) -> tuple[list[int], list[str]]:
    """The captions that say an order.

    Returns:
        Their indices, and each with its order swapped.
    """
    found = [(place, swapped(text)) for place, text in enumerate(captions)]
    kept = [(place, text) for place, text in found if text is not None]
    return [place for place, _ in kept], [text for _, text in kept]
