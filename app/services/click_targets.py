"""Where a click leads: a merchant's or an offer's URL, with our click id in the source's sub-id parameter."""

from app.errors import ConflictError
from app.urls import is_http_url, with_parameter


class InvalidTargetError(ConflictError):
    """The merchant's or the offer's URL is not one that a browser should be sent to."""

    code = "click_target_invalid"
    title = "Nowhere to go"

    def __init__(self) -> None:
        super().__init__("The address behind this merchant or offer is not an http(s) URL; tell the operators.")


def target_url(
    *, tracking_url: str, deeplink_parameter: str | None, offer_url: str | None, subid_parameter: str, subid: str
) -> str:
    """Return the URL of a click-out. Raises InvalidTargetError unless it, and the offer's URL, are http(s).

    An offer is reached through its own URL, or, with `deeplink_parameter`, by handing that URL to the network's.
    """
    if offer_url is None:
        target = tracking_url
    elif deeplink_parameter is None:
        target = offer_url
    else:
        _require_http(offer_url)
        target = with_parameter(tracking_url, deeplink_parameter, offer_url)
    target = with_parameter(target, subid_parameter, subid)
    _require_http(target)
    return target


def _require_http(url: str) -> None:
    if not is_http_url(url):
        raise InvalidTargetError
