"""Chat templates, rendered as transformers renders them, and refused in one line when they fail."""

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from llmrun.quant_formats.errors import CorruptFile, TemplateError
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.chat_template import ChatTemplate

# Each exercises what one family of templates does.
CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools" }}
    {%- for tool in tools %}
        {{- "\\n" ~ (tool | tojson) }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.last < 0 and message.role == "user" %}{%- set ns.last = index %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and message.tool_calls is defined %}
        {%- for call in message.tool_calls %}
            {%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
            {{- '<tool_call>' + call.name + ' ' }}{{ call.arguments | tojson(indent=2) }}{{ '</tool_call>' }}
        {%- endfor %}
    {%- elif '</think>' in message.content %}
        {{- message.content.split('</think>')[-1].lstrip('\\n') }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content|trim + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' if not loop.last else '|' ~ ns.last ~ '|' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

TURNS = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("roles must alternate user/assistant") }}
    {%- endif -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first if loop.first else "") }}
    {%- if message['content'] is iterable and message['content'] is not string -%}
        {%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}
    {%- else -%}
        {{ message['content'] | trim }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""

HEADERS = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- macro header(role) %}{{ '<|start_header_id|>' ~ role ~ '<|end_header_id|>\\n\\n' }}{%- endmacro %}
{{- header('system') }}{{- "Today: " + date_string + "\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'skip' %}{% continue %}{% endif %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- header(message['role']) + message['content'] | trim + '<|eot_id|>' }}
    {%- elif message.role == "tool" %}
        {{- header('ipython') }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
    {%- elif message.tool_calls %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("one tool call at a time") }}{%- endif %}
        {%- for name, value in message.tool_calls[0].function.arguments | items %}{{- name ~ '=' ~ value }}{%- endfor %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- header('assistant') }}{%- endif %}{{ eos_token }}"""

MARKED = """\
{% for m in messages %}
  {% if m.role == 'assistant' %}
    {% generation %}
{{ m.content }}{{ loop.previtem.role }}
    {% endgeneration %}
  {% else %}
{{ m['content'] }} {{ loop.cycle('a', 'b') }} {{ documents | length if documents else 'none' }}
  {% endif %}
  {% if loop.index > 3 %}{% break %}{% endif %}
{% endfor %}
"""

CALL = {"function": {"name": "weather", "arguments": {"city": "Zürich <&>", "days": 2}}}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "é": ["'", '"', "<b>"]}}}
]
CHAT = [
    {"role": "user", "content": "  Hi & <hello> 你好 \n"},
    {"role": "assistant", "content": "<think>hm</think>\n\nYes."},
    {"role": "user", "content": "And?"},
]
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [{"role": "user", "content": "Why is the sky blue?"}],
    "chat": CHAT,
    "system": [{"role": "system", "content": "Be brief."}, *CHAT],
    "tool call": [
        CHAT[0],
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": {"sun": True, "wind": None}},
    ],
    "parts": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "text", "text": "b"}]},
    ],
    "skipped": [{"role": "skip", "content": "not shown"}, *CHAT],
}
CASES = [
    *((CHATML, name) for name in ("one", "chat", "system", "tool call")),
    *((TURNS, name) for name in ("one", "chat", "system", "parts")),
    *((HEADERS, name) for name in ("one", "chat", "system", "tool call", "skipped")),
    *((MARKED, name) for name in ("one", "chat", "system")),
]
BOS, EOS = "<s>", "</s>"


def by_transformers(source: str, messages: list[dict[str, Any]], **variables: Any) -> str:
    variables = {"bos_token": BOS, "eos_token": EOS, **variables}
    result: Any = render_jinja_template([messages], chat_template=source, **variables)
    return str(result[0][0])


@pytest.mark.parametrize(("source", "name"), CASES)
@pytest.mark.parametrize(
    "variables",
    [
        {"add_generation_prompt": True},
        {"add_generation_prompt": False},
        {"add_generation_prompt": True, "tools": TOOLS, "enable_thinking": False},
        {"add_generation_prompt": True, "documents": [{"title": "t", "text": "x"}], "date_string": "1 Jan 2020"},
    ],
)
def test_renders_as_transformers_does(source: str, name: str, variables: dict[str, Any]) -> None:
    messages = CONVERSATIONS[name]
    rendered = ChatTemplate(source, BOS, EOS).render(messages, **variables)
    assert rendered == by_transformers(source, messages, **variables)


@pytest.mark.parametrize("name", ["one", "chat", "system"])
def test_smollm2s_own_template(name: str, smollm2_path: Path) -> None:
    with GGUFFile.open(smollm2_path) as gguf:
        template = ChatTemplate.from_gguf(gguf.metadata)
    assert template is not None
    assert (template.bos_token, template.eos_token) == ("<|im_start|>", "<|im_end|>")
    for add_generation_prompt in (True, False):
        rendered = template.render(CONVERSATIONS[name], add_generation_prompt)
        expected = by_transformers(template.source, CONVERSATIONS[name], add_generation_prompt=add_generation_prompt)
        assert rendered == expected


def test_a_model_without_a_template_has_none() -> None:
    assert ChatTemplate.from_gguf({}) is None


def test_a_template_that_is_no_text_is_refused() -> None:
    with pytest.raises(CorruptFile, match="chat_template"):
        ChatTemplate.from_gguf({"tokenizer.chat_template": 1})


def test_strftime_now_is_now() -> None:
    assert ChatTemplate("{{ strftime_now('%Y') }}").render([]) == str(datetime.now().year)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "does not compile: line 1: "),
        ("a\n{% endfor %}", "does not compile: line 2: "),
        ("{{ x | no_such_filter }}", "does not compile: line 1: No filter named"),
        ("{{ (" * 5000, "does not compile: "),
        ("{{ raise_exception('two\nlines') }}", "failed: two lines$"),
        ("{{ x.y }}", "failed: 'x' is undefined"),
        ("{{ 1 / 0 }}", "failed: division by zero"),
        ("{{ messages[0] + 1 }}", "failed: "),
        ("{{ ''.__class__.__mro__ }}", "failed: .*unsafe"),
        ("{{ messages.append(1) }}", "failed: .*unsafe"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "failed: .*recursion"),
        ("{% for i in range(10**9) %}{% endfor %}", r"failed: the operator \*\* is not allowed"),
        ("{% for i in range(1000000000) %}{% endfor %}", "failed: Range too big"),
        (
            "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
            "failed: loops for more than",
        ),
        ("{% set s = 'a' * 9999 %}{% for a in s %}{% for b in s %}{% endfor %}{% endfor %}", "failed: loops for more"),
        ("{{ 'a' * 1000000000 }}", "failed: repeats a value"),
        ("{{ 1000000000 * [1] }}", "failed: repeats a value"),
    ],
)
def test_a_failing_template_gives_one_line(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message) as caught:
        ChatTemplate(source).render([{"role": "user", "content": "hi"}])
    assert not re.search(r"[\r\n]", str(caught.value))
    assert str(caught.value).startswith("the model's chat template ")


def test_every_rendering_counts_its_loop_steps_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmrun.runner.template_sandbox.MAX_LOOP_STEPS", 10)
    template = ChatTemplate("{% for m in messages %}{{ m.role }}{% endfor %}")
    for _ in range(3):
        assert template.render([{"role": "x"}] * 10) == "x" * 10
    with pytest.raises(TemplateError, match="loops for more than"):
        template.render([{"role": "x"}] * 11)
