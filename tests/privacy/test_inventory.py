"""Every table that leads to a customer is in the inventory: a new one fails here until somebody decides about it."""

from app.models import Base
from app.services.privacy.inventory import AFTER_CLOSING, NOT_EXPORTED, SECTIONS
from tests.privacy.world import personal_tables


def test_every_table_that_leads_to_a_customer_is_exported_or_has_its_reason() -> None:
    exported = {section.model.__tablename__ for section in SECTIONS}
    assert exported | set(NOT_EXPORTED) == personal_tables()
    assert not exported & set(NOT_EXPORTED)
    assert all(NOT_EXPORTED.values())


def test_every_table_that_leads_to_a_customer_says_what_closing_leaves() -> None:
    assert set(AFTER_CLOSING) == personal_tables()
    assert all(AFTER_CLOSING.values())


def test_what_is_left_out_is_there_and_has_its_reason() -> None:
    for section in SECTIONS:
        columns = {column.name for column in Base.metadata.tables[section.model.__tablename__].columns}
        assert set(section.left_out) <= columns, section.name
        assert all(section.left_out.values())
        # Whatever is secret by its name is never in a file.
        shown = {column.key for column in section.columns}
        assert not {name for name in shown if name.endswith(("_hash", "_encrypted", "_hint", "fingerprint"))}
