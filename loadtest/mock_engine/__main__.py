"""`python -m loadtest.mock_engine`: serve a mock engine until Ctrl-C."""

from typing import Annotated

import typer

from loadtest.mock_engine.app import serve
from loadtest.mock_engine.engine import Fault, MockEngine, MockSettings


def main(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8001,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    served_model_name: Annotated[str, typer.Option(help="Name of the base model.")] = "base",
    ttft_ms: Annotated[float, typer.Option(min=0, help="Time to the first token.")] = 0,
    itl_ms: Annotated[float, typer.Option(min=0, help="Time between tokens; 0 sends them all at once.")] = 0,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens per answer.")] = 16,
    max_loras: Annotated[int, typer.Option(min=1, help="Adapters that run at a time.")] = 8,
    load_ms: Annotated[float, typer.Option(min=0, help="Time to bring an adapter into a slot.")] = 0,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Requests that run at a time.")] = 1_000_000,
    fault: Annotated[Fault | None, typer.Option(help="What goes wrong with requests.")] = None,
    fault_share: Annotated[float, typer.Option(min=0, max=1, help="Share of the requests that go wrong.")] = 1.0,
    adapters: Annotated[str, typer.Option(help="Names of adapters that are loaded, separated by commas.")] = "",
    coalesce: Annotated[bool, typer.Option(help="Send tokens that come without a pause in one piece.")] = True,
    tells_tokens: Annotated[bool, typer.Option(help="Say what single requests took.")] = False,
    api_key: Annotated[str, typer.Option(help="Key that callers must send.")] = "",
) -> None:
    """Serve an OpenAI-compatible engine that answers with numbered words, for tests and benchmarks."""
    settings = MockSettings(
        served_model_name=served_model_name,
        ttft_ms=ttft_ms,
        itl_ms=itl_ms,
        tokens=tokens,
        max_loras=max_loras,
        load_ms=load_ms,
        max_num_seqs=max_num_seqs,
        coalesce=coalesce,
        fault=fault,
        fault_share=fault_share,
        api_key=api_key,
        tells_tokens=tells_tokens,
    )
    names = [name for name in adapters.split(",") if name]
    serve(MockEngine(settings, adapters={name: name for name in names}), host, port)


if __name__ == "__main__":
    typer.run(main)
