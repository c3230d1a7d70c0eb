"""Exchanges about structured text: JSON, settings, logs and tables. They show JSON's syntax in many shapes, with keys
of their own, and mostly ask to copy values into it or out of it.
"""

import json
from random import Random

from trainer.base_model.phrases import Facts, choose, fill

Exchange = tuple[str, str]
Value = str | int | bool | list[str] | dict[str, str]

# Key of an example object, and the pattern of its value.
_FIELDS = {
    "name": "{name}",
    "city": "{city}",
    "email": "{email}",
    "product": "{product}",
    "colour": "{colour}",
    "order": "{order}",
    "price": "{amount}",
    "day": "{day}",
    "date": "{date}",
    "courier": "{courier}",
    "model": "{model}",
    "code": "{code}",
    "status": "[open|closed|sent|new|done|waiting|failed]",
    "team": "[billing|shipping|returns|account|technical|product]",
    "level": "[high|normal|low]",
    "mode": "[auto|manual|night|eco|fast|quiet]",
    "language": "[English|German|French|Spanish|Polish]",
    "note": "[Parcel for|Gift from|Call with|Letter to|Visit of] {name} in {city}",
    "title": "[New|Old|Blue|Small|Big] {product} [for sale|wanted|found|in the office|with a box]",
    "text": "{name} [asks about|likes|wants|bought|returned] the {product} [and waits for a call|on {day}|again|in {city}]",
    "reason": "[Wrong item|Too late|Broken {product}|No answer from {courier}|Order {order} is missing]",
    "owner": "{name}",
    "host": "{word}.example.com",
    "token": "{word}{n}",
    "key": "{word}",
    "place": "{city}",
    "room": "[kitchen|office|hall|garden|bedroom]",
    "unit": "[cm|kg|watt|hour|litre]",
    "format": "[text|table|csv|json|pdf]",
    "type": "[device|person|ticket|event|page|file]",
}
_NUMBERS = (
    "port",
    "size",
    "count",
    "width",
    "height",
    "weight",
    "timeout",
    "retries",
    "version",
    "id",
    "stock",
    "rate",
)
_FLAGS = ("active", "paid", "visible", "urgent", "debug", "enabled", "online", "shared")


def _scalar_fields(facts: Facts, count: int) -> dict[str, Value]:
    fields: dict[str, Value] = {}
    for key in facts.rng.sample([*_FIELDS, *_NUMBERS, *_FLAGS], count):
        if key in _FIELDS:
            fields[key] = fill(_FIELDS[key], Facts(facts.rng))
        elif key in _FLAGS:
            fields[key] = facts.rng.random() < 0.5
        else:
            fields[key] = facts.rng.randint(1, 9999)
    return fields


def _text_fields(facts: Facts, count: int) -> dict[str, str]:
    return {key: fill(_FIELDS[key], Facts(facts.rng)) for key in facts.rng.sample(list(_FIELDS), count)}


def _request_for_object(facts: Facts) -> Exchange:
    fields = _scalar_fields(facts, facts.rng.randint(2, 4))
    wish = "[Show|Write|Give me] [a|one] JSON [object|example|snippet] with " + " and ".join(fields) + "[.|]"
    return choose(wish, facts.rng), json.dumps(fields, ensure_ascii=False)


def _lines_to_json(facts: Facts) -> Exchange:
    fields = _text_fields(facts, facts.rng.randint(2, 4))
    lines = facts.rng.choice(("\n", ", ", "; ")).join(f"{key}: {value}" for key, value in fields.items())
    wish = choose("[Turn this into JSON|As JSON please|Make JSON of this|Write it as JSON]:", facts.rng)
    return f"{wish} {lines}", json.dumps(fields, ensure_ascii=False)


def _json_to_lines(facts: Facts) -> Exchange:
    fields = _text_fields(facts, facts.rng.randint(2, 4))
    wish = choose("[List the values|Read this out|Write this as plain lines]:", facts.rng)
    return f"{wish} {json.dumps(fields, ensure_ascii=False)}", "\n".join(f"{k}: {v}" for k, v in fields.items())


def _look_up(facts: Facts) -> Exchange:
    fields = _scalar_fields(facts, facts.rng.randint(2, 5))
    key = facts.rng.choice(list(fields))
    question = choose(f"[What is|Which value has|Read] {key} [here|in this JSON]?", facts.rng)
    value = fields[key] if isinstance(fields[key], str) else json.dumps(fields[key])
    return f"{question} {json.dumps(fields, ensure_ascii=False)}", f"The value of {key} is {value}."


def _array(facts: Facts) -> Exchange:
    words = [
        fill("[{product}|{city}|{name}|{word}|{colour}]", Facts(facts.rng)) for _ in range(facts.rng.randint(2, 5))
    ]
    wish = choose("[Make a JSON array of|Write as a JSON list]:", facts.rng)
    return f"{wish} {', '.join(words)}", json.dumps(words, ensure_ascii=False)


def _nested(facts: Facts) -> Exchange:
    inner = _text_fields(facts, 2)
    key = facts.rng.choice(("item", "customer", "address", "settings", "device", "parcel"))
    outer: dict[str, Value] = {"id": facts.rng.randint(1, 9999), key: inner}
    wish = f"Write a JSON object with an id and {key}, where {key} has " + " and ".join(inner) + "."
    return wish, json.dumps(outer, ensure_ascii=False, indent=facts.rng.choice((None, None, 2)))


def _settings(facts: Facts) -> Exchange:
    fields = _scalar_fields(facts, 3)
    body = "\n".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items())
    key = list(fields)[-1]
    return (
        f"[server]\n{body}\n{choose('What does the last line [set|say]?', facts.rng)}",
        f"It sets {key} to {fields[key] if isinstance(fields[key], str) else json.dumps(fields[key])}.",
    )


def _log(facts: Facts) -> Exchange:
    clock = f"{facts.rng.randint(0, 23):02d}:{facts.rng.randint(0, 59):02d}"
    event = fill("[lost connection to {word}|error {code}|restart by {name}|upload to {city} failed]", facts)
    line = f'{clock} WARN {{"device": "{facts["product"]}", "event": "{event}"}}'
    return f"What does this log line mean? {line}", f"At {clock} the {facts['product']} reported: {event}."


def _what_is_json(facts: Facts) -> Exchange:
    example = json.dumps(_text_fields(facts, 2), ensure_ascii=False)
    question = choose("[What is JSON|How does JSON look|Explain JSON|How do I write a JSON object]?", facts.rng)
    return question, f"JSON is a text format with keys and values. An example is {example}"


_KINDS = (
    _request_for_object,
    _request_for_object,
    _lines_to_json,
    _lines_to_json,
    _lines_to_json,
    _json_to_lines,
    _look_up,
    _look_up,
    _array,
    _nested,
    _settings,
    _log,
    _what_is_json,
)


def structured_exchange(rng: Random) -> Exchange:
    """One question with its answer, where at least one of the two holds structured text."""
    return rng.choice(_KINDS)(Facts(rng))
