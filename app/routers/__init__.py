"""HTTP only: parse, call one service, answer."""

from fastapi import APIRouter

from app.routers import health

ROUTERS: tuple[APIRouter, ...] = (health.router,)
