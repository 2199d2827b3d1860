"""Bodies and paths that the OpenAPI document itself tells of."""

from typing import Any

UUID_TEXT = "01a213b7-26d0-718b-ab58-e086780ef15d"


def example(schema: dict[str, Any], schemas: dict[str, Any], depth: int = 0) -> Any:
    """A value that a schema takes, as far as it tells."""
    while "$ref" in schema or any(kind in schema for kind in ("anyOf", "oneOf", "allOf")):
        if "$ref" in schema:
            schema = schemas[schema["$ref"].rsplit("/", 1)[1]]
        else:
            schema = next(schema[kind][0] for kind in ("anyOf", "oneOf", "allOf") if kind in schema)
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    if "default" in schema or "const" in schema:
        return schema.get("default", schema.get("const"))
    if schema.get("type") == "object" and depth < 5:
        return {name: example(one, schemas, depth + 1) for name, one in schema.get("properties", {}).items()}
    return {"object": {}, "array": [], "integer": schema.get("minimum", 1), "boolean": True}.get(
        str(schema.get("type")), "text"
    )


def target(path: str, value: str) -> str:
    """A path with one value for all its parameters."""
    while "{" in path:
        path = path[: path.index("{")] + value + path[path.index("}") + 1 :]
    return path
