"""The templates of pages: everything that comes from data is escaped, unknown names are errors."""

import base64
import functools
import hashlib
import importlib.resources
import math
import re
from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe

_RERANKED = "reranked_"  # begins the names of scores after re-ranking
_SCORE_NAMES = {
    "map": "mAP",
    "map_at_r": "MAP@R",
    "marp_paper": "mARP",
    "r_precision": "R-precision",
    "nmi": "NMI",
}


def render(template: str, **values: Any) -> str:
    """Returns the text of a template of `templates/`, filled with values."""
    return _environment().get_template(template).render(**values)


def static_text(name: str) -> str:
    """Returns the text of a file of `static/`."""
    return importlib.resources.files("dcjax.pages").joinpath("static", name).read_text("utf-8")


def palette() -> str:
    """Returns the rules of `static/style.css` that name the colours, for light and for dark."""
    rules = re.findall(
        r"^(?:@media [^{]*dark[^{]*\{\s*)?:root \{.*?^\}", static_text("style.css"), re.M | re.S
    )
    return "\n".join([*rules, ""])


def self_contained_policy(scripts: Sequence[str]) -> str:
    """Returns the Content-Security-Policy of a page that asks no host for anything.

    Args:
      scripts: the texts of its inline scripts; a browser runs no other script.
    """
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    sources = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            "style-src 'unsafe-inline'",
            f"script-src {' '.join(sources) or repr('none')}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def data_uri(picture: bytes | None) -> str:
    """Returns a picture encoded as WebP as a URI, "" for None."""
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}" if picture else ""


def format_percent(share: float, digits: int = 2) -> str:
    """Returns a share of 1 in percent, without the sign."""
    return format_number(100 * share, digits)


def format_number(number: float, digits: int = 3) -> str:
    """Returns a number with that many digits after the point, and the sign U+2212 if negative.

    A number that is not finite is a dash.
    """
    if not math.isfinite(number):
        return "\N{EN DASH}"
    rounded = round(number, digits) or 0.0  # no -0.00
    return f"{rounded:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def format_count(count: int) -> str:
    """Returns a whole number in groups of three digits."""
    return f"{count:,}"


def format_duration(seconds: float) -> str:
    """Returns a duration in the two largest units that it has."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def score_name(name: str) -> str:
    """Returns the name of a score as people write it: "Recall@1" for recall_at_1.

    Of "validation/recall_at_1", "Recall@1, validation".
    """
    classes, _, score = name.rpartition("/")
    if classes:
        return f"{score_name(score)}, {classes}"
    if name.startswith(_RERANKED):
        return f"{score_name(name.removeprefix(_RERANKED))}, re-ranked"
    named = name.replace("recall_at_", "Recall@").replace("fnmr_at_fmr_", "FNMR@FMR ")
    return _SCORE_NAMES.get(name, named)


def name_parts(name: str) -> list[str]:
    """Returns the parts of a name or path after which a line may break, each with its end."""
    return re.split(r"(?<=[_/\\-])(?=[^_/\\-])", name)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dcjax.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=format_count,
        data_uri=data_uri,
        duration=format_duration,
        number=format_number,
        parts=name_parts,
        percent=format_percent,
        score_name=score_name,
    )
    environment.tests["finite"] = math.isfinite
    # Files of the package itself, which need no escaping inside <style> and <script>.
    environment.globals["static_text"] = lambda name: markupsafe.Markup(static_text(name))
    return environment
