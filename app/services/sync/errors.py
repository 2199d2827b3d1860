"""Why a feed could not be synced. The message goes to the run's `error`, for staff to read and act on.

No message holds a feed's URL beyond its host: user info, query and often the path carry secrets.
"""


class FeedError(Exception):
    """The feed, its server or its definition is at fault; nothing was changed."""


class FetchError(FeedError):
    """The feed could not be fetched completely."""

    # When its server asks to come back, if it does.
    after_seconds: float = 0


class UnresolvedError(FetchError):
    """The feed's host could not be looked up at this moment."""


class BrokenOffError(FetchError):
    """The feed's server stopped in the middle of a document; it may send it whole another time."""


class ForbiddenAddressError(FetchError):
    """The feed's host, or one it redirects to, is not on the public internet."""


class UnreadableFeedError(FeedError):
    """What was fetched is not what the definition says, as a whole."""


class TooLargeError(FeedError):
    """The feed is beyond a limit."""


class TooLossyError(FeedError):
    """Too many offers would vanish or rows were rejected: more likely a broken feed than a real change."""


class RowError(ValueError):
    """One row cannot become an offer; the others can."""
