"""Messages to customers by e-mail and text message: an outbox of rows, and the ports that they leave through."""

from app.services.messages.outbox import post

__all__ = ["post"]
