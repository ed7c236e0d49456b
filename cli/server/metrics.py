"""What the server counts, for Prometheus."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, exposition
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import Scope

from llmrun.runner.kv_cache import KVCache
from llmrun.runner.model_host import ModelHost
from llmrun.runner.sequence import FinishReason
from llmrun.runner.stats import Stats

REQUEST_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300)
FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """Counters in a registry of its own, so that several servers of one process do not share them."""

    def __init__(self, host: ModelHost) -> None:
        """Count what `host` computes, from the next model that it loads on."""
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests answered.", "method", "route", "status")
        self._request_seconds = self._histogram("request_seconds", "Time of a request.", REQUEST_SECONDS, "route")
        self.answers = self._counter("answers", "Answers that ended, by the reason.", "model", "reason")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.", "model")
        self.cached_tokens = self._counter("cached_prompt_tokens", "Those that were not computed again.", "model")
        self.generated_tokens = self._counter("generated_tokens", "Tokens of answers.", "model")
        self.first_token_seconds = self._histogram(
            "time_to_first_token_seconds", "From a request to its first token.", FIRST_TOKEN_SECONDS, "model"
        )
        self.token_seconds = self._histogram(
            "time_per_token_seconds", "Mean time of a token after the first, of each answer.", TOKEN_SECONDS, "model"
        )
        self.registry.register(_Models(host))
        host.observer = self.observer

    def count_request(self, scope: Scope, status: int, seconds: float) -> None:
        """Count an answer; paths that no route has are counted as one, because anybody can make them up."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def observer(self, model: str) -> "AnswerObserver":
        """Whoever counts the answers of a model."""
        return AnswerObserver(self, model)

    def page(self) -> tuple[bytes, int, dict[str, str]]:
        """The body, the status and the headers of an answer with all numbers."""
        return exposition.generate_latest(self.registry), 200, {"Content-Type": exposition.CONTENT_TYPE_PLAIN_0_0_4}

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"llmrun_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"llmrun_{name}", text, labels, buckets=buckets, registry=self.registry)


_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")


class AnswerObserver:
    """Counts the answers of one model, on the thread of its engine."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model = metrics, model

    def finished(self, stats: Stats, reason: FinishReason) -> None:
        """An answer has ended."""
        metrics, model = self._metrics, self._model
        metrics.answers.labels(model, reason).inc()
        metrics.prompt_tokens.labels(model).inc(stats.n_prompt)
        metrics.cached_tokens.labels(model).inc(stats.n_cached)
        metrics.generated_tokens.labels(model).inc(stats.n_generated)
        if stats.n_generated:
            metrics.first_token_seconds.labels(model).observe(stats.t_first_token)
        if stats.n_generated > 1:
            metrics.token_seconds.labels(model).observe(stats.t_decode / (stats.n_generated - 1))


class _Models(Collector):
    """What is true of the loaded models at the moment of a scrape."""

    def __init__(self, host: ModelHost) -> None:
        self._host = host

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family for each number, one sample for each model."""
        models = self._host.loaded()
        rows = {
            "requests_running": ("Requests that are being computed.", lambda m: m.engine_thread.n_running),
            "requests_waiting": ("Requests that wait for their turn.", lambda m: m.engine_thread.n_waiting),
            "kv_blocks": ("Blocks of the cache of keys and values.", lambda m: m.engine.kv_cache.n_blocks),
            "kv_blocks_used": ("Those that a request needs now.", lambda m: _used(m.engine.kv_cache)),
            "kv_blocks_kept": ("Those that are kept for later requests.", lambda m: m.engine.kv_cache.tree.n_idle),
            "model_bytes": ("Memory of a model, once its cache is full.", lambda m: m.size),
        }
        for name, (text, value) in rows.items():
            family = GaugeMetricFamily(f"llmrun_{name}", text, labels=["model"])
            for model in models:
                family.add_metric([model.name], value(model))
            yield family


def _used(cache: KVCache) -> int:
    return cache.n_blocks - cache.n_available
