"""The baseline of HTTP measurements: a bare FastAPI application that answers a constant, without any middleware."""

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def constant() -> dict[str, str]:
    """Answer at once."""
    return {"status": "ok"}
