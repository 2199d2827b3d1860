"""The test suite: a real PostgreSQL and a real Redis in every test that touches them."""
