"""URLs that come from people and feeds: which ones a browser may be sent to, and how a parameter is set on one."""

from urllib.parse import quote, unquote_plus, urlsplit


def is_http_url(url: str) -> bool:
    """Whether a text is an absolute http(s) URL without spaces or control characters."""
    if any(character <= " " or character == "\x7f" for character in url):
        return False
    try:
        parts = urlsplit(url)
        # Reading the port checks it: one that is no number raises.
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def with_parameter(url: str, name: str, value: str) -> str:
    """Set a query parameter, replacing it where it is; everything else stays as it is, byte for byte."""
    rest, hash_sign, fragment = url.partition("#")
    base, _, query = rest.partition("?")
    others = [part for part in query.split("&") if part and unquote_plus(part.partition("=")[0]) != name]
    parameter = f"{quote(name, safe='')}={quote(value, safe='')}"
    return f"{base}?{'&'.join([*others, parameter])}{hash_sign}{fragment}"
