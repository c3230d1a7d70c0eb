"""Bodies for the real engine: two chats, and one request for every way of asking."""

from typing import Any

ASK: Any = [{"role": "user", "content": "My parcel with the desk lamp has not arrived and tracking shows nothing."}]
HI: Any = [{"role": "user", "content": "My parcel has not arrived."}]
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": HI, "max_tokens": 6}),
    "chat with three choices": ("/v1/chat/completions", {"messages": HI, "max_tokens": 6, "n": 3}),
    "completions": ("/v1/completions", {"prompt": "My parcel", "max_tokens": 6}),
    "completions of two prompts": (
        "/v1/completions",
        {"prompt": ["My parcel", "The lamp is"], "max_tokens": 6, "n": 2},
    ),
    "responses": ("/v1/responses", {"input": "My parcel has not arrived.", "max_output_tokens": 6}),
    "messages": ("/v1/messages", {"messages": HI, "max_tokens": 6}),
}
