"""Words about scores: the names of their rows, and a sentence for people who do not know them."""

from collections.abc import Mapping


def name_last(epoch: int) -> str:
    """Returns the name of the row of the last epoch of a run."""
    return f"last epoch ({epoch})"


def name_chosen(epoch: int) -> str:
    """Returns the name of the row of the epoch that validation classes choose."""
    return f"best epoch ({epoch}), chosen on validation classes"


def name_best(epoch: int) -> str:
    """Returns the name of the row of the epoch that was best by the scores in the same table."""
    return f"best epoch ({epoch}), chosen on these classes"


def describe_recall(scores: Mapping[str, float], before: Mapping[str, float]) -> tuple[str, str]:
    """Says in words what the recall of fewest neighbours means.

    Args:
      scores: of a network, by name.
      before: those before training, none if they are not known.

    Returns:
      The name of that recall, and the sentence without its full stop; two empty texts if there is
      no recall among the scores.
    """
    prefix = "recall_at_"
    ends = [name.removeprefix(prefix) for name in scores if name.startswith(prefix)]
    ks = [int(end) for end in ends if end.isdecimal()]  # not those of shorter embeddings, "1@64"
    if not ks:
        return "", ""
    k = min(ks)
    name = f"{prefix}{k}"
    where = "first" if k == 1 else f"among the first {k}"
    text = f"Of 100 queries, {100 * scores[name]:.0f} find an image of their class {where}"
    if name in before:
        text += f"; before training, {100 * before[name]:.0f}"
    return name, text
