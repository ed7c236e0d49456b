"""200 JSON schemas, as people write them and as generators do, each with a name."""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any] | bool

TEXT, WHOLE, NUMBER, YES_NO, NOTHING = ({"type": t} for t in ("string", "integer", "number", "boolean", "null"))


def record(properties: dict[str, Any], required: list[str] | None = None, **others: Any) -> dict[str, Any]:
    """A closed object, whose properties are all required unless it says which."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
        **others,
    }


def array(items: Any, least: int = 0, most: int | None = None) -> dict[str, Any]:
    limits = {"minItems": least} | ({} if most is None else {"maxItems": most})
    return {"type": "array", "items": items, **limits}


def scalars() -> Iterator[tuple[str, Schema]]:
    for kind in ("string", "integer", "number", "boolean", "null", "object", "array"):
        yield kind, {"type": kind}
    yield "anything", True
    yield "anything, said with an object", {}
    yield "text or nothing", {"type": ["string", "null"]}
    yield "number, switch or list", {"type": ["number", "boolean", "array"], "items": WHOLE, "maxItems": 3}
    yield "whole number or nothing", {"type": ["integer", "null"], "minimum": 0}


def constants() -> Iterator[tuple[str, Schema]]:
    values = (
        "red", "", "it's \"quoted\" \\ and / more", "zwölf Bögen", "日本語", "🙂👩‍👩‍👧", "line\nbreak\ttab", "\x01\x1f",
        0, -1, 17,
        9007199254740992, 3.25, -0.5, 1e-7, 1e21, 1.0, True, False, None, [], [1, "a", None], {}, {"a": {"b": [True]}},
    )  # fmt: skip
    for value in values:
        yield f"const {value!r}", {"const": value}
    yield "enum of texts", {"enum": ["north", "east", "south", "west"]}
    yield "enum with a common beginning", {"enum": ["pre", "prefix", "prefixed", "prefixing"]}
    yield "enum of everything", {"enum": [1, "1", 1.5, None, True, [1], {"one": 1}]}
    yield "enum of many", {"enum": [f"item {i:03}" for i in range(300)]}
    yield "enum of emoji", {"enum": ["😀", "😁", "😂", "é", "e\u0301"]}
    yield "enum narrowed by a type", {"type": "string", "enum": ["a", 1, None, "b"]}
    yield (
        "enum of countries",
        {"type": "string", "enum": ["Österreich", "Česko", "Україна", "Ελλάδα", "الأردن", "भारत"]},
    )


def whole_numbers() -> Iterator[tuple[str, Schema]]:
    limits: tuple[dict[str, Any], ...] = (
        {"minimum": 0}, {"maximum": 0}, {"minimum": -5, "maximum": 5}, {"minimum": 1, "maximum": 1},
        {"exclusiveMinimum": 0, "exclusiveMaximum": 10}, {"minimum": 18, "maximum": 120}, {"minimum": -273},
        {"minimum": 1900, "maximum": 2100}, {"minimum": 65535, "maximum": 65536}, {"minimum": -1000000,
        "maximum": -999},
        {"multipleOf": 5}, {"multipleOf": 7, "minimum": 100, "maximum": 200}, {"multipleOf": 1000,
        "exclusiveMinimum": 0},
        {"minimum": 0.5, "maximum": 3.5}, {"minimum": 99, "exclusiveMaximum": 1001},
    )  # fmt: skip
    for limit in limits:
        yield f"integer {limit}", {"type": "integer", **limit}


def numbers() -> Iterator[tuple[str, Schema]]:
    limits: tuple[dict[str, Any], ...] = (
        {"minimum": 0, "maximum": 1}, {"exclusiveMinimum": 0, "exclusiveMaximum": 1}, {"minimum": -90, "maximum": 90},
        {"minimum": -180.5, "maximum": 180.25}, {"minimum": 0.1, "maximum": 0.2}, {"maximum": -1.5},
        {"exclusiveMinimum": 2.5},
        {"minimum": 0, "maximum": 100, "multipleOf": 0.5}, {"multipleOf": 0.01, "minimum": 0, "maximum": 10},
        {"minimum": 1e-3, "maximum": 1e3}, {"minimum": 3.14, "maximum": 3.15}, {"multipleOf": 0.25},
        {"minimum": -0.001, "maximum": 0.001},
    )  # fmt: skip
    for limit in limits:
        yield f"number {limit}", {"type": "number", **limit}


def texts() -> Iterator[tuple[str, Schema]]:
    for least, most in ((0, 0), (1, 1), (0, 5), (3, 8), (10, 10), (20, 60)):
        yield f"{least} to {most} characters", {"type": "string", "minLength": least, "maxLength": most}
    patterns = (
        "^[A-Z]{3}-[0-9]{4}$", "^(yes|no|maybe)$", "^\\d{5}(-\\d{4})?$", "^[a-z_][a-z0-9_]*$", "^#[0-9a-f]{6}$",
        "[0-9]",
        "^(?:[01]\\d|2[0-3]):[0-5]\\d$", "^\\+?[1-9]\\d{7,14}$", "^v\\d+\\.\\d+\\.\\d+$",
        "^[äöüß]+$", "^[\u4e00-\u9fff]{2,4}$", "^a/b\\\\c$", "^.{2,5}$", "^(a|b)*c$", "^\\w+ \\w+$",
        "^$|^x$", "^🙂+$",
    )  # fmt: skip
    for pattern in patterns:
        yield f"pattern {pattern}", {"type": "string", "pattern": pattern}
    for pattern in ("^[^@\\s]+@[^@\\s]+\\.[a-z]{2,}$", '^"[^"]*"$', "^ab|cd$"):
        yield f"short pattern {pattern}", {"type": "string", "pattern": pattern, "maxLength": 12}
    yield "pattern and length", {"type": "string", "pattern": "^[a-z]*$", "minLength": 4, "maxLength": 6}
    yield "two patterns", {"type": "string", "allOf": [{"pattern": "^[a-f]+$"}, {"pattern": "ab"}], "maxLength": 9}
    for name in ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"):
        yield f"format {name}", {"type": "string", "format": name}


def arrays() -> Iterator[tuple[str, Schema]]:
    yield "at most three", array(TEXT, 0, 3)
    yield "exactly four numbers", array(NUMBER, 4, 4)
    yield "empty", array(TEXT, 0, 0)
    yield "at least two objects", array(record({"id": WHOLE}), 2)
    yield "matrix", array(array({"type": "number", "minimum": 0, "maximum": 9}, 3, 3), 3, 3)
    yield "pair", {"type": "array", "prefixItems": [TEXT, WHOLE], "items": False, "minItems": 2}
    yield "pair and more", {"type": "array", "prefixItems": [TEXT], "items": YES_NO, "minItems": 1, "maxItems": 4}
    yield "pair that may be shorter", {"type": "array", "prefixItems": [NUMBER, NUMBER, NUMBER], "items": False}
    yield "of anything", {"type": "array", "maxItems": 3}
    yield "of choices", array({"enum": ["a", "b", "c"]}, 1, 5)
    yield "of texts or numbers", array({"anyOf": [TEXT, NUMBER]}, 1, 4)
    yield "of the old kind", {
        "$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [TEXT, WHOLE],
        "additionalItems": False, "minItems": 2,
    }  # fmt: skip
    yield "five deep", array(array(array(array(array(YES_NO, 1, 2), 1, 2), 1, 2), 1, 2), 1, 2)
    yield "uniqueItems false", {"type": "array", "items": WHOLE, "uniqueItems": False, "maxItems": 3}


def objects() -> Iterator[tuple[str, Schema]]:
    yield "person", record({"name": TEXT, "age": {"type": "integer", "minimum": 0, "maximum": 150}})
    yield "all optional", record({"a": TEXT, "b": WHOLE, "c": YES_NO}, [])
    yield "some optional", record({"id": WHOLE, "note": TEXT, "done": YES_NO}, ["id", "done"])
    yield "open", {"type": "object", "properties": {"id": WHOLE}, "required": ["id"]}
    yield "required but not described", {"type": "object", "properties": {"a": WHOLE}, "required": ["a", "b"]}
    yield "map of numbers", {"type": "object", "additionalProperties": NUMBER}
    yield "map with at least one", {"type": "object", "additionalProperties": YES_NO, "minProperties": 1}
    yield "map with at most two", {"type": "object", "additionalProperties": TEXT, "maxProperties": 2}
    yield "exactly one of two", record({"a": TEXT, "b": TEXT}, [], minProperties=1, maxProperties=1)
    yield "at least one of three", record({"a": WHOLE, "b": WHOLE, "c": WHOLE}, [], minProperties=1)
    yield "empty object", {"type": "object", "additionalProperties": False}
    yield "empty names", record({"": WHOLE, " ": WHOLE})
    yield "names with quotes", record({'say "hi"': TEXT, "back\\slash": TEXT, "new\nline": TEXT, "a/b": TEXT})
    yield "names in many scripts", record({"名前": TEXT, "âge": WHOLE, "возраст": WHOLE, "😀": YES_NO, "اسم": NOTHING})
    yield "names that begin alike", record({"order": WHOLE, "orderId": WHOLE, "orderName": TEXT}, ["orderName"])
    yield (
        "names by pattern",
        {"type": "object", "patternProperties": {"^x-": TEXT, "^[0-9]+$": WHOLE}, "additionalProperties": False},
    )
    yield "names by pattern and by name", {
        "type": "object", "properties": {"x-id": {"maxLength": 4}}, "patternProperties": {"^x-": TEXT},
        "required": ["x-id"], "additionalProperties": NUMBER,
    }  # fmt: skip
    yield (
        "a property that must not be",
        {"type": "object", "properties": {"a": WHOLE, "b": False}, "required": ["a"], "additionalProperties": False},
    )
    yield (
        "forty properties",
        record({f"field_{i}": (TEXT, WHOLE, YES_NO, NOTHING)[i % 4] for i in range(40)}, ["field_7"]),
    )
    yield "additional objects", {"type": "object", "additionalProperties": record({"x": WHOLE, "y": WHOLE})}
    yield "without a type", {"properties": {"a": WHOLE}, "required": ["a"]}
    yield "annotated", record(
        {"temp": {"type": "number", "title": "Temperature", "description": "in °C", "default": 20, "examples": [1, 2]}},
        title="Weather", description="now", deprecated=True, readOnly=False,
    ) | {"$comment": "none", "$id": "https://example.com/weather"}  # fmt: skip


def nested() -> Iterator[tuple[str, Schema]]:
    address = record({"street": TEXT, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}, "city": TEXT})
    yield (
        "company",
        record(
            {
                "name": TEXT,
                "address": address,
                "staff": array(record({"name": TEXT, "role": {"enum": ["dev", "ops"]}}), 1, 3),
            }
        ),
    )
    yield "order", record(
        {
            "id": {"type": "string", "format": "uuid"},
            "lines": array(record({"sku": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$"},
            "n": {"type": "integer", "minimum": 1, "maximum": 99}}), 1, 4),
            "total": {"type": "number", "minimum": 0, "multipleOf": 0.01},
            "paid": {"type": ["boolean", "null"]},
        }
    )  # fmt: skip
    yield "geo feature", record(
        {
            "type": {"const": "Feature"},
            "geometry": record({"type": {"const": "Point"}, "coordinates": array({"type": "number", "minimum": -180,
            "maximum": 180}, 2, 3)}),
            "properties": {"type": "object", "additionalProperties": TEXT, "maxProperties": 2},
        }
    )  # fmt: skip
    yield (
        "tool call",
        record(
            {
                "name": {"enum": ["get_weather", "get_time"]},
                "arguments": record({"city": TEXT, "unit": {"enum": ["C", "F"]}}, ["city"]),
            }
        ),
    )
    for depth in (2, 4, 8, 16):
        schema: dict[str, Any] = record({"value": WHOLE})
        for level in range(depth):
            schema = record({f"level{level}": schema})
        yield f"{depth} levels", schema
    yield (
        "steps of a proof",
        record({"steps": array(record({"explanation": TEXT, "output": TEXT}), 1, 3), "final_answer": TEXT}),
    )
    yield (
        "table",
        record({"columns": array(TEXT, 1, 3), "rows": array(array({"anyOf": [TEXT, NUMBER, NOTHING]}, 0, 3), 0, 3)}),
    )
    yield (
        "settings",
        record(
            {s: record({k: {"anyOf": [WHOLE, YES_NO, {"enum": ["auto"]}]} for k in ("a", "b")}) for s in ("ui", "net")}
        ),
    )


def choices() -> Iterator[tuple[str, Schema]]:
    yield "anyOf of scalars", {"anyOf": [TEXT, WHOLE, NOTHING]}
    yield "anyOf of objects", {"anyOf": [record({"a": TEXT}), record({"b": WHOLE}), record({"a": WHOLE, "b": TEXT})]}
    yield (
        "anyOf beside properties",
        {"type": "object", "properties": {"k": TEXT}, "anyOf": [{"required": ["k"]}, {"required": ["l"]}]},
    )
    yield "oneOf of types", {"oneOf": [TEXT, array(TEXT, 0, 2), {"type": "boolean"}]}
    shapes = (("circle", {"radius": NUMBER}), ("square", {"side": NUMBER}), ("text", {"text": TEXT, "size": WHOLE}))
    yield "oneOf told apart by a name", {"oneOf": [record({"kind": {"const": kind}, **rest}) for kind, rest in shapes]}
    yield "discriminator", {
        "discriminator": {"propertyName": "pet"}, "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        "$defs": {"Cat": record({"pet": {"const": "cat"}, "lives": WHOLE}), "Dog": record({"pet": {"const": "dog"},
        "good": {"const": True}})},
    }  # fmt: skip
    yield "allOf", {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}, {"multipleOf": 2}]}
    yield (
        "allOf of objects",
        {
            "allOf": [
                {"type": "object", "properties": {"a": TEXT}, "required": ["a"]},
                {"properties": {"b": WHOLE}, "required": ["b"]},
            ]
        },
    )
    yield (
        "allOf that closes",
        {
            "allOf": [
                {"type": "object", "properties": {"a": WHOLE, "b": WHOLE}, "required": ["a"]},
                {"properties": {"a": True}, "additionalProperties": False},
            ]
        },
    )
    yield "anyOf within allOf", {"allOf": [{"anyOf": [{"minimum": 10}, {"maximum": -10}]}, {"type": "integer"}]}
    yield (
        "optional in the manner of pydantic",
        record({"a": {"anyOf": [WHOLE, NOTHING], "default": None, "title": "A"}, "b": {"type": "string"}}, ["b"]),
    )
    yield (
        "choice of limits",
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 3}, {"type": "string", "maxLength": 2}]},
    )
    yield "const or pattern", {"anyOf": [{"const": "latest"}, {"type": "string", "pattern": "^[0-9]+\\.[0-9]+$"}]}


def recursive() -> Iterator[tuple[str, Schema]]:
    yield (
        "tree",
        {
            "$ref": "#/$defs/node",
            "$defs": {"node": record({"value": WHOLE, "children": array({"$ref": "#/$defs/node"}, 0, 3)})},
        },
    )
    yield "linked list", record({"value": WHOLE, "next": {"anyOf": [{"$ref": "#"}, NOTHING]}})
    yield "optional child", record({"name": {"type": "string", "maxLength": 8}, "child": {"$ref": "#"}}, ["name"])
    yield "expression", {
        "$defs": {
            "expr": {"anyOf": [{"type": "number", "minimum": 0, "maximum": 9}, {"$ref": "#/$defs/op"}]},
            "op": record({"op": {"enum": ["+", "-", "*", "/"]}, "left": {"$ref": "#/$defs/expr"},
            "right": {"$ref": "#/$defs/expr"}}),
        },
        "$ref": "#/$defs/op",
    }  # fmt: skip
    yield "two that refer to each other", {
        "definitions": {
            "folder": record({"name": TEXT, "entries": array({"$ref": "#/definitions/entry"}, 0, 2)}),
            "entry": {"anyOf": [{"$ref": "#/definitions/folder"}, record({"file": TEXT, "size": {"type": "integer",
            "minimum": 0}})]},
        },
        "$ref": "#/definitions/folder",
    }  # fmt: skip
    yield "comments", {
        "$defs": {"comment": record({"by": TEXT, "text": TEXT, "replies": array({"$ref": "#/$defs/comment"}, 0, 2)})},
        **record({"thread": array({"$ref": "#/$defs/comment"}, 1, 2)}),
    }  # fmt: skip
    yield (
        "nested lists",
        {
            "$defs": {
                "l": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, array({"$ref": "#/$defs/l"}, 0, 3)]}
            },
            **array({"$ref": "#/$defs/l"}, 1, 3),
        },
    )
    yield "user interface", {
        "type": "object",
        "properties": {
            "type": {"enum": ["div", "button", "header", "section", "field", "form"]},
            "label": TEXT,
            "children": array({"$ref": "#"}, 0, 2),
            "attributes": array(record({"name": TEXT, "value": TEXT}), 0, 2),
        },
        "required": ["type", "label", "children", "attributes"],
        "additionalProperties": False,
    }  # fmt: skip
    yield (
        "grammar of JSON",
        {
            "$defs": {
                "json": {
                    "anyOf": [
                        NOTHING,
                        YES_NO,
                        WHOLE,
                        {"type": "string", "maxLength": 5},
                        array({"$ref": "#/$defs/json"}, 0, 2),
                        {"type": "object", "additionalProperties": {"$ref": "#/$defs/json"}, "maxProperties": 2},
                    ]
                }
            },
            "$ref": "#/$defs/json",
        },
    )
    yield (
        "reference with an escaped name",
        {"$defs": {"a/b ~c": record({"x": YES_NO})}, **record({"it": {"$ref": "#/$defs/a~1b%20~0c"}})},
    )


def generated() -> Iterator[tuple[str, Schema]]:
    """Objects that go through the combinations of what the others try one by one."""
    kinds: list[tuple[str, Any]] = [
        ("id", {"type": "integer", "minimum": 1}), ("label", {"type": "string", "minLength": 1, "maxLength": 12}),
        ("score", {"type": "number", "minimum": 0, "maximum": 1}), ("state", {"enum": ["neu", "läuft", "fertig"]}),
        ("tags", array({"type": "string", "maxLength": 6}, 0, 3)), ("when", {"type": "string", "format": "date"}),
        ("parent", {"anyOf": [{"type": "integer", "minimum": 0}, NOTHING]}), ("flags", {"type": "object",
        "additionalProperties": YES_NO}),
        ("code", {"type": "string", "pattern": "^[A-Z]{2}\\d{2}$"}), ("price", {"type": "number", "multipleOf": 0.5,
        "minimum": 0, "maximum": 50}),
        ("point", record({"x": {"type": "integer", "minimum": -9, "maximum": 9}, "y": {"type": "integer",
        "minimum": -9, "maximum": 9}})),
    ]  # fmt: skip
    for i in range(21):
        chosen = {
            name: schema
            for j, (name, schema) in enumerate(kinds)
            if (i * 2654435761 >> (3 + j)) & 1 or j == i % len(kinds)
        }
        required = [name for j, name in enumerate(chosen) if (i + j) % 3]
        inner = record(chosen, required)
        yield f"generated {i}", (inner, array(inner, 1, 2), record({"data": inner, "ok": YES_NO}))[i % 3]


SCHEMAS: list[tuple[str, Schema]] = [
    *scalars(), *constants(), *whole_numbers(), *numbers(), *texts(), *arrays(), *objects(), *nested(), *choices(),
    *recursive(), *generated(),
]  # fmt: skip
