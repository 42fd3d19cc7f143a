"""Sentences about scores, for people who do not know these."""

from collections.abc import Mapping


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
