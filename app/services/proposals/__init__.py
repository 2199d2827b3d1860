"""Four eyes: what one member of staff wants done with much money waits for another."""

from app.services.proposals.act import act
from app.services.proposals.decide import confirm, expire, refuse
from app.services.proposals.read import get_proposal, list_proposals

__all__ = ["act", "confirm", "expire", "get_proposal", "list_proposals", "refuse"]
