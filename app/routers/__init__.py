"""HTTP only: parse, call one service, answer."""

from fastapi import APIRouter

from app.routers import (
    admin_alerts,
    admin_campaigns,
    admin_catalogue,
    admin_exchange_rates,
    admin_notifications,
    admin_orders,
    admin_payouts,
    admin_webhooks,
    auth,
    catalogue,
    clicks,
    customers,
    feeds,
    health,
    orders,
    payouts,
    report,
    sources,
    sync,
    wallets,
    webhooks,
)

# In the order the /docs page shows them.
ROUTERS: tuple[APIRouter, ...] = (
    customers.router,
    auth.router,
    catalogue.router,
    clicks.router,
    wallets.router,
    orders.router,
    payouts.router,
    webhooks.router,
    admin_catalogue.router,
    admin_campaigns.router,
    admin_orders.router,
    admin_exchange_rates.router,
    admin_payouts.router,
    sources.router,
    feeds.router,
    admin_webhooks.router,
    admin_alerts.router,
    admin_notifications.router,
    sync.router,
    report.router,
    health.router,
)
