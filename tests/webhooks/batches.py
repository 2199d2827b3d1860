"""A source whose requests have several events."""

from app.schemas.source_definitions import SourceDefinition


def batches() -> SourceDefinition:
    """A definition for requests with several events."""
    return SourceDefinition.model_validate(
        {
            "authentication": "none",
            "transport": {"accepts": ["json"], "events": "rows"},
            "reading": {
                "mapping": {
                    "event_id": "event",
                    "order_reference": "id",
                    "click_reference": "click",
                    "status": {"path": "status", "transforms": [{"kind": "default", "value": "new"}]},
                    "amount": "sum",
                    "commission": "fee",
                    "currency": {"transforms": [{"kind": "constant", "value": "PKR"}]},
                },
                "statuses": {"new": "created", "ok": "approved", "test": "ignore"},
            },
            "subid_parameter": "sub",
        }
    )
