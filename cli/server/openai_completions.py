"""Completions of the OpenAI API: a text goes on."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from llmrun.cli.server.context import client_of, host_of
from llmrun.cli.server.errors import ApiRouter
from llmrun.cli.server.json_text import compact
from llmrun.cli.server.merge import merged
from llmrun.cli.server.openai_completion_request import CompletionRequest
from llmrun.cli.server.openai_fields import seeds
from llmrun.cli.server.openai_grammar import grammar_of
from llmrun.cli.server.openai_reply import TextLogprobs, new_id, now, timings, usage
from llmrun.cli.server.sse import sse
from llmrun.runner.engine_thread import EngineThread
from llmrun.runner.piece import Piece, TokenLogprobs
from llmrun.runner.prompt_scores import prompt_scores
from llmrun.runner.stream import Stream

router = ApiRouter(family="openai")
