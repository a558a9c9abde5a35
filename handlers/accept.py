"""What a request accepts: RFC 9110, section 12.5.1."""

from __future__ import annotations

from collections.abc import Sequence


def chosen(accept: str, offered: Sequence[str]) -> str:
    """The offered media type that the client likes best; the first where it names none of them.

    Args:
        accept: the header in lower case, or "".
        offered: of types that are liked as much, one that is named goes before one that a wildcard
            fits, then the server's own order.
    """
    ranges = [_range(part) for part in accept.split(",") if part.strip()]

    def liking(media_type: str) -> tuple[float, int]:
        fits = [(len(r.replace("*", "")), q) for r, q in ranges if _fits(r, media_type)]
        exact, quality = max(fits, default=(0, 0.0))  # the most exact range decides
        return quality, exact

    best = max(offered, key=liking)
    return best if liking(best)[0] > 0 else offered[0]


def _range(part: str) -> tuple[str, float]:
    name, *parameters = (p.strip() for p in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = min(1.0, max(0.0, float(value)))
            except ValueError:
                quality = 0.0
    return name, quality


def _fits(asked: str, media_type: str) -> bool:
    if asked in ("*/*", "*"):
        return True
    kind, _, rest = asked.partition("/")
    return asked == media_type or (rest == "*" and media_type.startswith(f"{kind}/"))
