"""Answers of each dialect as models write them, and what is in them."""

import json
from typing import Any, NamedTuple

import numpy as np
from small_vocabularies import byte_level

from llmrun.runner.special_tokens import CONTROL
from llmrun.runner.tokenizer import Tokenizer
from llmrun.runner.tool import Tool

WEATHER = Tool(
    "get_weather",
    "Says what the weather is like.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "where"},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "units": {"enum": ["metric", "imperial"]},
        },
        "required": ["city"],
    },
)
NOW = Tool("now", "Says what time it is.")
SEARCH = Tool(
    "search-files",
    "Finds files.",
    {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "where": {"type": "array", "items": {"type": "string"}},
            "options": {"type": "object", "properties": {"case": {"type": "boolean"}}},
        },
        "required": ["query"],
    },
)
TOOLS = (WEATHER, NOW, SEARCH)

# Just enough of each template to be recognised; `tools` is what makes it one that knows tools.
TEMPLATES = {
    "none": "{% for m in messages %}<|im_start|>{{ m.role }} system{% endfor %}",
    "hermes": "{{ tools }}<tool_call>",
    "thinking": "{{ tools }}<tool_call><think>",
    "qwen_coder": "{{ tools }}<tool_call><function=name>",
    "llama3": '{{ tools }}<|start_header_id|>{"name": n, "parameters": p}',
    "mistral_nemo": "{{ tools }}[TOOL_CALLS][",
    "mistral": "{{ tools }}[TOOL_CALLS]name[ARGS][THINK]",
    "gemma3": "<start_of_turn>{{ messages[0]['role'] == 'system' }}",
    "function_gemma": "<start_of_turn>{{ tools }}<start_function_call>",
    "gemma4": "{{ tools }}<|tool_call>",
    "harmony": "{{ tools }}<|start|>assistant<|channel|>final<|message|>",
}

SPECIAL = (
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "[THINK]",
    "[/THINK]",
    "<start_function_call>",
    "<end_function_call>",
    "<escape>",
    "<|tool_call>",
    "<tool_call|>",
    '<|"|>',
    "<|channel|>",
    "<|message|>",
    "<|start|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
    "<|constrain|>",
    "<|im_end|>",
)


class Answer(NamedTuple):
    """`calls` are names and arguments, parsed; `prompt_end` is what the prompt ended with."""

    template: str
    text: str
    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    prompt_end: str = ""


_PARIS = ("get_weather", {"city": "Paris"})
_OSLO = ("get_weather", {"city": "Oslo", "days": 3})
_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
_OSLO_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}\n</tool_call>'
_CODER = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
)
_ANALYSIS = "<|channel|>analysis<|message|>Need the weather.<|end|><|start|>assistant"

ANSWERS = {
    "hermes": Answer("hermes", _CALL, calls=(_PARIS,)),
    "hermes, text before": Answer("hermes", f"Let me look.\n\n{_CALL}\n", "Let me look.", calls=(_PARIS,)),
    "hermes, two": Answer("hermes", f"{_CALL}\n{_OSLO_CALL}", calls=(_PARIS, _OSLO)),
    "hermes, text between": Answer(
        "hermes", f"One {_CALL}\nTwo {_OSLO_CALL}\nEnd.", "One\nTwo\nEnd.", "", (_PARIS, _OSLO)
    ),
    "hermes, compact": Answer(
        "hermes", '<tool_call>{"arguments":{"city":"Paris"},"name":"get_weather"}', calls=(_PARIS,)
    ),
    "hermes, other keys": Answer(
        "hermes",
        '<tool_call>{"id": [1, {}], "name": "now", "arguments": null, "why": "\\"}"}</tool_call>',
        calls=(("now", {}),),
    ),
    "hermes, string of JSON": Answer(
        "hermes", '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}', calls=(_PARIS,)
    ),
    "hermes, array": Answer(
        "hermes", '<tool_call>[{"name": "now"}, {"name": "now", "arguments": {}}]</tool_call>', calls=(("now", {}),) * 2
    ),
    "hermes, hard strings": Answer(
        "hermes",
        '<tool_call>{"name": "search-files", "arguments": {"query": "a\\"}</tool_call>\\u00e9\\\\ 文 🦙", '
        '"where": ["<tool_call>", "", "\\ud83e\\udd99"], "options": {"case": true}}}</tool_call>',
        calls=(
            (
                "search-files",
                {
                    "query": 'a"}</tool_call>é\\ 文 🦙',
                    "where": ["<tool_call>", "", "🦙"],
                    "options": {"case": True},
                },
            ),
        ),
    ),
    "hermes, lines in a string": Answer(
        "hermes",
        '<tool_call>{"name": "search-files", "arguments": {"query": "a\n\tb"}}</tool_call>',
        calls=(("search-files", {"query": "a\n\tb"}),),
    ),
    "hermes, not a tool": Answer(
        "hermes",
        '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
    ),
    "hermes, not JSON": Answer(
        "hermes", f"<tool_call>{{name: now}}</tool_call> {_CALL}", "<tool_call>{name: now}</tool_call>", "", (_PARIS,)
    ),
    "hermes, arguments no object": Answer(
        "hermes", '<tool_call>{"name": "now", "arguments": [1]}', '<tool_call>{"name": "now", "arguments": [1]}'
    ),
    "hermes, breaks off": Answer(
        "hermes",
        'Well <tool_call>{"name": "get_weather", "arguments": {"city": "Pa',
        'Well <tool_call>{"name": "get_weather", "arguments": {"city": "Pa',
    ),
    "hermes, second is bad": Answer(
        "hermes", '<tool_call>[{"name": "now"}, {"nome": 1}]', ', {"nome": 1}]', calls=(("now", {}),)
    ),
    "hermes, words like a call": Answer("hermes", "a <tool, b <tool_ca <", "a <tool, b <tool_ca <"),
    "hermes, spaces": Answer("hermes", "  a  \n\n b \n", "  a  \n\n b \n"),
    "thoughts": Answer("thinking", f"<think>\nHm {_CALL}\n</think>\n\nHi\n", "Hi\n", f"Hm {_CALL}"),
    "thoughts, then a call": Answer("thinking", f"<think>\nHm\n</think>\n\n{_CALL}", "", "Hm", (_PARIS,)),
    "thoughts begun by the prompt": Answer(
        "thinking", f"Hm </thin\n</think>\n{_CALL}", "", "Hm </thin", (_PARIS,), "<|im_start|>assistant\n<think>\n"
    ),
    "thoughts that are empty": Answer("thinking", "<think>\n\n</think>\n\nHi", "Hi"),
    "thoughts without end": Answer("thinking", "<think>Hm </th", "", "Hm </th"),
    "qwen coder": Answer("qwen_coder", f"So\n{_CODER}</function>\n</tool_call>", "So", "", (_OSLO,)),
    "qwen coder, two": Answer(
        "qwen_coder",
        f"{_CODER}</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        calls=(_OSLO, ("now", {})),
    ),
    "qwen coder, no tags around": Answer("qwen_coder", "<function=now></function>", calls=(("now", {}),)),
    "qwen coder, values": Answer(
        "qwen_coder",
        "<tool_call>\n<function=search-files>\n<parameter=query>\n1\n2\n</parameter>\n<parameter=where>\n"
        '["a", "b"]\n</parameter>\n<parameter=options>\n{"case": true}\n</parameter>\n</function>\n</tool_call>',
        calls=(("search-files", {"query": "1\n2", "where": ["a", "b"], "options": {"case": True}}),),
    ),
    "qwen coder, JSON": Answer("qwen_coder", _CALL, calls=(_PARIS,)),
    "qwen coder, breaks off": Answer("qwen_coder", _CODER, _CODER),
    "llama": Answer("llama3", '{"name": "get_weather", "parameters": {"city": "Paris"}}', calls=(_PARIS,)),
    "llama, with type": Answer(
        "llama3", '{"type": "function", "name": "get_weather", "parameters": {"city": "Paris"}}', calls=(_PARIS,)
    ),
    "llama, tag": Answer(
        "llama3",
        '<|python_tag|>{"name": "now", "parameters": {}}; {"name": "get_weather", "parameters": {"city": "Paris"}}',
        calls=(("now", {}), _PARIS),
    ),
    "llama, two": Answer(
        "llama3",
        '{"name": "now", "parameters": {}}; {"name": "get_weather", "parameters": {"city": "Paris"}}',
        calls=(("now", {}), _PARIS),
    ),
    "llama, data": Answer("llama3", '{"name": "Bob", "age": 3}', '{"name": "Bob", "age": 3}'),
    "llama, data of a tool": Answer("llama3", '{"name": "now", "age": 3}', '{"name": "now", "age": 3}'),
    "llama, code": Answer("llama3", '<|python_tag|>print("hi")', '<|python_tag|>print("hi")'),
    "mistral nemo": Answer(
        "mistral_nemo",
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "abcdefghi"}, '
        '{"name": "now", "arguments": {}}]',
        calls=(_PARIS, ("now", {})),
    ),
    "mistral": Answer("mistral", 'Sure.[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', "Sure.", "", (_PARIS,)),
    "mistral, two": Answer(
        "mistral",
        '[TOOL_CALLS]get_weather[CALL_ID]123456789[ARGS]{"city": "Paris"}[TOOL_CALLS]now{}',
        calls=(_PARIS, ("now", {})),
    ),
    "mistral, thoughts": Answer("mistral", "[THINK]Hm[/THINK][TOOL_CALLS]now[ARGS]{}", "", "Hm", (("now", {}),)),
    "mistral, not a tool": Answer("mistral", "[TOOL_CALLS]rm[ARGS]{}", "[TOOL_CALLS]rm[ARGS]{}"),
    "mistral, brackets": Answer("mistral", "[1] and [TOOL", "[1] and [TOOL"),
    "gemma 3, block": Answer(
        "gemma3", 'Ok\n```json\n{"name": "get_weather", "parameters": {"city": "Paris"}}\n```', "Ok", "", (_PARIS,)
    ),
    "gemma 3, tool_code": Answer(
        "gemma3", '```tool_code\nprint(api.get_weather(city="Oslo", days=3))\nnow()\n```', calls=(_OSLO, ("now", {}))
    ),
    "gemma 3, list": Answer("gemma3", '[get_weather("Oslo", days=3), now()]', calls=(_OSLO, ("now", {}))),
    "gemma 3, list with a bracket": Answer(
        "gemma3", '[get_weather(city="]")]', calls=(("get_weather", {"city": "]"}),)
    ),
    "gemma 3, code": Answer("gemma3", "```python\nnow()\n```\n[1] x", "```python\nnow()\n```\n[1] x"),
    "gemma 3, code that is no call": Answer("gemma3", "```tool_code\nx = now()\n```", "```tool_code\nx = now()\n```"),
    "function gemma": Answer(
        "function_gemma",
        "<start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call>",
        calls=(_PARIS,),
    ),
    "function gemma, two": Answer(
        "function_gemma",
        "<start_function_call>call:get_weather{city:<escape>Oslo<escape>,days:3}<end_function_call>"
        "<start_function_call>call:now{}<end_function_call>",
        calls=(_OSLO, ("now", {})),
    ),
    "function gemma, JSON": Answer(
        "function_gemma", '<start_function_call>call:get_weather{"city": "Paris"}<end_function_call>', calls=(_PARIS,)
    ),
    "gemma 4": Answer(
        "gemma4",
        '<|tool_call>call:search-files{query:<|"|>a, "b": {<|"|>,where:[<|"|>x<|"|>,<|"|>y<|"|>],options:{case:true}}'
        "<tool_call|>",
        calls=(("search-files", {"query": 'a, "b": {', "where": ["x", "y"], "options": {"case": True}}),),
    ),
    "gemma 4, bad": Answer("gemma4", "<|tool_call>call:now{a<tool_call|>", "<|tool_call>call:now{a<tool_call|>"),
    "harmony": Answer(
        "harmony",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi<|return|>",
        "Hi",
        "Hm.",
    ),
    "harmony, call": Answer(
        "harmony",
        f"{_ANALYSIS}<|channel|>commentary to=functions.get_weather "
        '<|constrain|>json<|message|>{"city": "Paris"}<|call|>',
        "",
        "Need the weather.",
        (_PARIS,),
    ),
    "harmony, recipient first": Answer(
        "harmony",
        f'{_ANALYSIS} to=functions.get_weather<|channel|>commentary json<|message|>{{"city": "Paris"}}<|call|>',
        "",
        "Need the weather.",
        (_PARIS,),
    ),
    "harmony, preamble": Answer(
        "harmony",
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.now "
        "<|constrain|>json<|message|>{}<|call|>",
        "I look.",
        "",
        (("now", {}),),
    ),
    "harmony, not a tool": Answer(
        "harmony",
        "<|channel|>commentary to=functions.rm <|constrain|>json<|message|>{}<|call|>",
        "<|channel|>commentary to=functions.rm <|constrain|>json<|message|>{}",
    ),
    "harmony, not JSON": Answer(
        "harmony",
        "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{x}<|call|>",
        "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{x}",
    ),
    "harmony, begun by the prompt": Answer(
        "harmony", "Hi<|return|>", "Hi", prompt_end="<|start|>assistant<|channel|>final<|message|>"
    ),
    "harmony, no channels": Answer("harmony", "Hi there", "Hi there"),
    "harmony, two of each": Answer(
        "harmony",
        "<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>analysis<|message|>B<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>C<|end|><|start|>assistant<|channel|>final<|message|>D",
        "C\n\nD",
        "A\n\nB",
    ),
    "generic": Answer("none", '{"name": "get_weather", "arguments": {"city": "Paris"}}', calls=(_PARIS,)),
    "generic, lines": Answer(
        "none",
        'Sure:\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n{"name": "now", "arguments": {}}',
        "Sure:",
        "",
        (_PARIS, ("now", {})),
    ),
    "generic, array": Answer("none", '[{"name": "now", "arguments": {}}]', calls=(("now", {}),)),
    "generic, tags": Answer("none", _CALL, calls=(_PARIS,)),
    "generic, data": Answer("none", '{"city": "Paris",\n "a": {}}', '{"city": "Paris",\n "a": {}}'),
    "generic, words": Answer("none", "Hi {name}\n[x] `a` ```\n", "Hi {name}\n[x] `a` ```\n"),
}


def tokenizer_with(specials: tuple[str, ...] = SPECIAL) -> Tokenizer:
    """Bytes, a few words, and these special tokens."""
    metadata = byte_level("gpt-2")
    known = metadata["tokenizer.ggml.tokens"]
    new = [text for text in specials if text not in known]
    types = metadata["tokenizer.ggml.token_type"]
    metadata["tokenizer.ggml.tokens"] = [*known, *new]
    metadata["tokenizer.ggml.token_type"] = np.concatenate([types, np.full(len(new), CONTROL, types.dtype)])
    return Tokenizer.from_gguf(metadata)


def schema_of(name: str) -> dict[str, Any]:
    """The schema of a tool's arguments, as the caller gave it."""
    tool = next(tool for tool in TOOLS if tool.name == name)
    return json.loads(json.dumps(tool.parameters))  # type: ignore[no-any-return]
