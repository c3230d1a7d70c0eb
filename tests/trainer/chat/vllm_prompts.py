"""Print the prompts that vLLM's own renderer makes of requests: JSON in on standard input, JSON out.

A process of its own, since importing vLLM takes seconds and changes the process. Each request has `tokenizer` (a
folder), `template`, `messages`, `tools` and `kwargs`; the answer is the text, or `{"refused": reason}`.
"""

import json
import sys
from typing import Any

import vllm.renderers.hf as hf
from transformers import AutoTokenizer
from vllm.config import ModelConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest


def prompt(request: dict[str, Any], config: ModelConfig, tokenizer: Any) -> Any:
    """Take a request the way of a chat completion: parsed, its content in the template's form, rendered."""
    template = request["template"]
    body = {"messages": request["messages"], "tools": request["tools"] or None, "model": "m"}
    parsed = ChatCompletionRequest.model_validate(body)
    tools = None if parsed.tools is None else [tool.model_dump() for tool in parsed.tools]
    form = hf.resolve_chat_template_content_format(template, tools, "auto", tokenizer, model_config=config)
    try:
        conversation, _, _ = hf.parse_chat_messages(parsed.messages, config, content_format=form)
        return hf.safe_apply_chat_template(
            config,
            tokenizer,
            conversation,
            tools=tools,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
            continue_final_message=False,
            **request["kwargs"],
        )
    except Exception as error:
        return {"refused": str(error)}


def main() -> None:
    """Answer all requests."""
    requests = json.load(sys.stdin)
    config = ModelConfig(model=requests["model"], tokenizer=requests["model"], skip_tokenizer_init=False)
    tokenizer = AutoTokenizer.from_pretrained(requests["model"])
    json.dump([prompt(request, config, tokenizer) for request in requests["requests"]], sys.stdout)


if __name__ == "__main__":
    main()
