"""The two kinds of job worker. They share no queue: a storm of feed syncs never delays a customer's cashback."""

from app.config import Settings
from app.doorbell import DEFAULT_QUEUE, SYNC_QUEUE
from app.workers.claims import claim_matching, claim_sweep
from app.workers.clawbacks import recover_debts, write_off_due
from app.workers.fraud import judge_orders
from app.workers.housekeeping import forget_expired, key_rotation
from app.workers.ledger import seal_days, verify_ledger
from app.workers.messages import message_delivery
from app.workers.notifications import notification_delivery, watch
from app.workers.orders import order_expiry, release_payable
from app.workers.payouts import payout_sender
from app.workers.polling import ring_due_polls, source_poll
from app.workers.privacy import export_builder
from app.workers.referrals import settle_referrals
from app.workers.retention import retention
from app.workers.runner import WorkerKind
from app.workers.schedule import Scheduled
from app.workers.sync import clear_abandoned_staging, merchant_sync, queue_due_syncs, sweep_syncs
from app.workers.tasks import job
from app.workers.webhooks import webhook_drain, webhook_replay

WORKER_NAMES = ("default", "sync")

_HOUR = 3600


def worker_kind(name: str, settings: Settings) -> WorkerKind:
    """Return what a worker of this name does: `default` or `sync`."""
    match name:
        case "default":
            drain_webhooks = webhook_drain(settings)
            deliver_notifications = notification_delivery(settings)
            send_messages = message_delivery(settings)
            replay_webhooks = webhook_replay(settings)
            send_payouts = payout_sender(settings)
            build_exports = export_builder(settings)
            return WorkerKind(
                name="default",
                queue=DEFAULT_QUEUE,
                functions=(
                    job(drain_webhooks, timeout_seconds=300),
                    job(replay_webhooks, timeout_seconds=300),
                    job(judge_orders, timeout_seconds=300),
                    job(release_payable, timeout_seconds=300),
                    job(settle_referrals, timeout_seconds=300),
                    job(deliver_notifications, timeout_seconds=300),
                    job(send_messages, timeout_seconds=300),
                    job(send_payouts, timeout_seconds=300),
                    job(build_exports, timeout_seconds=300),
                    job(claim_matching(settings), timeout_seconds=300),
                ),
                schedule=(
                    Scheduled("sweep_webhooks", settings.sweep_interval_seconds, drain_webhooks),
                    Scheduled("sweep_replays", settings.sweep_interval_seconds, replay_webhooks),
                    Scheduled("send_payouts", settings.sweep_interval_seconds, send_payouts),
                    Scheduled("build_exports", settings.sweep_interval_seconds, build_exports),
                    Scheduled("judge_orders", settings.sweep_interval_seconds, judge_orders),
                    Scheduled("release_payable", 60, release_payable),
                    Scheduled("expire_orders", _HOUR, order_expiry(settings)),
                    Scheduled("settle_referrals", settings.sweep_interval_seconds, settle_referrals),
                    Scheduled("recover_debts", 60, recover_debts),
                    Scheduled("write_off_due", _HOUR, write_off_due),
                    Scheduled("sweep_notifications", settings.sweep_interval_seconds, deliver_notifications),
                    Scheduled("sweep_messages", settings.sweep_interval_seconds, send_messages),
                    Scheduled("watch", 600, watch),
                    Scheduled("verify_ledger", 60, verify_ledger),
                    Scheduled("seal_days", 300, seal_days),
                    Scheduled("sweep_claims", 60, claim_sweep(settings)),
                    Scheduled("keep_retention", _HOUR, retention(settings)),
                    Scheduled("forget_expired", _HOUR, forget_expired),
                    Scheduled("rotate_signing_key", _HOUR, key_rotation(settings)),
                ),
                max_jobs=10,
            )
        case "sync":
            return WorkerKind(
                name="sync",
                queue=SYNC_QUEUE,
                # Above what a sync gives itself, so that it ends by its own rules.
                functions=(
                    job(merchant_sync(settings), timeout_seconds=settings.feed_max_seconds + 60),
                    job(source_poll(settings), timeout_seconds=600),
                ),
                schedule=(
                    Scheduled("queue_due_syncs", settings.sweep_interval_seconds, queue_due_syncs),
                    Scheduled("poll_due", settings.sweep_interval_seconds, ring_due_polls),
                    Scheduled("sweep_syncs", settings.sweep_interval_seconds, sweep_syncs),
                    Scheduled("clear_abandoned_staging", _HOUR, clear_abandoned_staging),
                ),
                max_jobs=5,
            )
        case _:
            raise ValueError(f"there is no worker {name!r}; choose one of {', '.join(WORKER_NAMES)}")
