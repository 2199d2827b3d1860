"""Notifications: signed webhooks that tell other systems what happened here, until they have taken it."""

from app.services.notifications.publish import Topic, listens, publish, publish_all

__all__ = ["Topic", "listens", "publish", "publish_all"]
